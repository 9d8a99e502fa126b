"""The command line, one file a command group."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `fivefold` command."""
    from fivefold.cli.app import run

    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
