"""Unit tests: 1.0 when the answer's code passes the case's tests inside the sandbox (pass@1 of Chen et al. 2021, 2.1).

`metadata["tests"]` is Python source that must run through after the answer's code; `metadata["entry_point"]` names the
function that is tested; `metadata["prefix"]`, if any, is the code that the answer continues (signature and docstring).
An answer is a fenced block, a bare function, or a continuation of the prefix. Code that fails, hangs or exceeds its
limits scores 0.0 and the label says which; a sandbox that fails is Errored, because nothing was measured.

Known weaknesses: tests and answer share a process, so an answer that is written to deceive the tests (an object equal
to everything, a search for the file descriptor of the pass token) can pass; leaving early cannot. Processor time is
that of this machine: an answer near the limit may pass elsewhere.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
from dataclasses import dataclass

from fivefold.errors import SandboxError
from fivefold.score.common import RuleScorer
from fivefold.score.sandbox import MIB, SandboxLimits, SandboxResult, run_sandboxed
from fivefold.types import Case, Completion, Errored, Outcome, Safer, Scored, Unscored, digest

METRIC: str = "pass_at_1"
SAFER: Safer = "higher"
VERSION = 1

# Processor time decides; the wall clock, which other work on the machine lengthens, only ends what sleeps.
LIMITS = SandboxLimits(
    seconds=45, cpu_seconds=15, memory_bytes=512 * MIB, processes=32, disk_bytes=16 * MIB, files=1000, output_bytes=MIB
)

# Runs inside. The token proves that the tests were reached and passed: it is read when they have, from a descriptor
# that the tested code was not given, so that `sys.exit(0)` in the code is no pass.
HARNESS = """\
import os
token, null = os.dup(0), os.open(os.devnull, os.O_RDWR)
os.dup2(null, 0)
space = {"__name__": "solution"}
for name in ("solution.py", "tests.py"):
    with open(name, encoding="utf-8") as file:
        exec(compile(file.read(), name, "exec"), space)
os.write(2, b"\\n" + os.read(token, 64))
os._exit(0)
"""

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
_STARTS = re.compile(r"^(?:from |import |def |class |async def |@)", re.MULTILINE)
_CODE_LINE = re.compile(
    r"(?:from |import |def |class |async def |@|#|if |for |while |try:|with |\w[\w., ]*=|[)\]}]|\s|$)"
)

_running = threading.BoundedSemaphore(os.cpu_count() or 1)


@dataclass(frozen=True, kw_only=True)
class CodeScorer(RuleScorer):
    """A scorer that takes seconds a case and so runs on a thread of its own."""

    slow: bool = True


def scorer(*, limits: SandboxLimits = LIMITS) -> CodeScorer:
    """The scorer; `limits` hold for each answer."""
    made: CodeScorer

    def score(case: Case, completion: Completion) -> Outcome:
        tests, entry_point = case.metadata.get("tests"), str(case.metadata.get("entry_point") or "")
        if not isinstance(tests, str) or not entry_point:
            return Unscored(reason="the case has no tests or no entry point", judge=made.digest)
        code = program(completion.text, entry_point=entry_point, prefix=str(case.metadata.get("prefix") or ""))
        if code is None:
            return Scored(value=0.0, label="no code", judge=made.digest)
        try:
            label, explanation = run_tests(code, tests, limits)
        except SandboxError as error:
            return Errored(error=str(error), judge=made.digest)
        return Scored(value=float(label == "passed"), label=label, judge=made.digest, explanation=explanation)

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    rules = digest({"harness": HARNESS, "limits": limits, "python": version})
    made = CodeScorer(name="code_tests", score=score, rules=rules, version=VERSION)
    return made


def run_tests(code: str, tests: str, limits: SandboxLimits = LIMITS) -> tuple[str, str]:
    """How `tests` went after `code`: a label (`passed`, `failed`, the limit or exception that ended it) and why."""
    token = secrets.token_hex(16)
    files = {"main.py": HARNESS.encode(), "solution.py": code.encode(), "tests.py": tests.encode()}
    with _running:
        result = run_sandboxed(files, ["python3", "-I", "main.py"], limits=limits, stdin=token.encode())
    if result.ok and result.stderr.endswith(b"\n" + token.encode()):
        return "passed", ""
    return _failure(result)


def program(text: str, *, entry_point: str, prefix: str = "") -> str | None:
    """The program that an answer amounts to, or None when it holds no code."""
    defines = re.compile(rf"^\s*(?:async )?def {re.escape(entry_point)}\b", re.MULTILINE)
    blocks = [m[1] for m in _FENCE.finditer(text)]
    whole = next((b for b in blocks if defines.search(b)), None)
    if whole is None and not blocks and defines.search(text):
        whole = _bare(text)
    if whole is not None:
        return f"{_before(prefix, defines)}\n{_dedent(whole)}\n"
    body = blocks[0] if blocks else text
    if prefix:
        continued = _continuation(body)
        return f"{prefix.rstrip()}\n{continued}\n" if continued else None
    return f"{_dedent(body)}\n" if blocks else None


def _before(prefix: str, defines: re.Pattern[str]) -> str:
    """What stands before the tested function in the prefix: imports and helpers that an answer may leave out."""
    found = defines.search(prefix)
    return prefix[: found.start()] if found else prefix


def _bare(text: str) -> str:
    """Code without a fence: from the first line that starts like code to the first that does not."""
    start = _STARTS.search(text)
    lines = text[start.start() if start else 0 :].splitlines()
    end = next((i for i, line in enumerate(lines) if not _CODE_LINE.match(line)), len(lines))
    return "\n".join(lines[:end])


def _continuation(text: str) -> str:
    """The function body that continues a prefix: up to the first line that is not indented (the paper's stop words).

    Templates strip the blanks before an answer's first line: they are put back.
    """
    lines = text.splitlines()
    while lines and not lines[0].strip():
        lines.pop(0)
    if not lines:
        return ""
    if not lines[0][:1].isspace():
        lines = [f"    {lines[0]}", *_indented(lines[1:])]
    end = next((i for i, line in enumerate(lines) if line.strip() and not line[:1].isspace()), len(lines))
    return "\n".join(lines[:end])


def _indented(rest: list[str]) -> list[str]:
    """The other lines as they are when one is indented by four or more, else all of them moved right together."""
    first = next((line for line in rest if line.strip()), "")
    return rest if first.startswith("    ") else [f"    {line}" for line in rest]


def _dedent(block: str) -> str:
    first = next((line for line in block.splitlines() if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(margin) for line in block.splitlines())


def _failure(result: SandboxResult) -> tuple[str, str]:
    if result.killed_by is not None:
        return ("timeout" if result.killed_by in ("time", "cpu") else f"{result.killed_by} limit"), ""
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    last = lines[-1][:300] if lines else f"ended with status {result.returncode} before the tests had passed"
    if last.startswith("AssertionError"):
        return "failed", last
    return ("error" if lines else "left early"), last
