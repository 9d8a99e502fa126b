"""The root command: groups, exit codes, and errors that say what to do.

Exit codes: 0 passed, 1 error, 2 usage, 3 gate failed, 4 undecided.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import orjson
import typer

from fivefold import __version__
from fivefold.cli import (
    align,
    compare,
    evaluate,
    findings,
    govern,
    guard,
    interpret,
    listing,
    models,
    redteam,
    run_plan,
    stats,
)
from fivefold.cli.output import error_console
from fivefold.errors import FivefoldError, StoreError

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Base of typer's usage errors, from whichever click it was built on (typer ships its own)."""

app = typer.Typer(
    name="fivefold",
    help="AI safety as one operational system: a model version goes in, a decision with its evidence comes out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fivefold {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """AI safety as one operational system: a model version goes in, a decision with its evidence comes out."""


for module in (
    run_plan,
    evaluate,
    compare,
    stats,
    redteam,
    align,
    interpret,
    guard,
    govern,
    findings,
    models,
    listing,
):
    module.register(app)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it (128 + SIGINT)."""


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code."""
    _quiet_libraries()
    try:
        code = app(args=argv, standalone_mode=False)
        # newer versions of typer give this code instead of letting KeyboardInterrupt through
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except USAGE_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        return _fail(argv, error.format_message(), 2, error)
    except (typer.Abort, KeyboardInterrupt):
        error_console().print("interrupted: what was finished is kept; run the same command again to continue")
        return INTERRUPTED
    except typer.Exit as error:
        return error.exit_code
    except FivefoldError as error:
        return _fail(argv, error.render(), error.exit_code, error)
    except PermissionError as error:
        return _fail(argv, *_os_error(error, "no permission", "choose a folder you may write to with FIVEFOLD_HOME"))
    except OSError as error:
        if error.errno == 28:
            return _fail(argv, *_os_error(error, "no space left on the disk", "free some space, then run again"))
        raise
    except BrokenPipeError:
        return 1


def _os_error(error: OSError, what: str, do: str) -> tuple[str, int, FivefoldError]:
    wrapped = StoreError(f"{what}: {error.filename or error}", got=error.strerror, next_step=do)
    return wrapped.render(), 1, wrapped


def _fail(argv: list[str], text: str, code: int, error: Exception) -> int:
    if "--json" in argv:
        body = error.to_json() if isinstance(error, FivefoldError) else {"error": "UsageError", "what": text}
        sys.stdout.buffer.write(orjson.dumps(body) + b"\n")
    else:
        error_console().print(f"error: {text}", markup=False, highlight=False)
    return code


def _quiet_libraries() -> None:
    """Library chatter goes nowhere near a command's output; a user's own setting wins."""
    for key, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(key, value)
