"""BIPIA and ipi-coding-agent with scripted systems: one that obeys what it reads falls to every case, one that does not to none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import pytest

from _attacks import Speaker
from fivefold.engine.tools import rendered_call
from fivefold.redteam.campaign import Assault, run_campaign
from fivefold.redteam.names import parse
from fivefold.redteam.organisms import Organism
from fivefold.redteam.protocol import AttackBudget
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Request
from fivefold.score import scorer
from fivefold.thread.injection_data import injection_cases
from fivefold.types import Case

pytestmark = pytest.mark.skipif(not os.environ.get("FIVEFOLD_DATA"), reason="FIVEFOLD_DATA is not set")


def rate(target: Any, attack: str, cases: Sequence[Case], queries: int) -> float:
    assault = Assault(attack=parse(attack)[0], cases=tuple(cases), budget=AttackBudget(queries=queries))
    tried = run_campaign(target, [assault], scorer("refusal")).tried
    return sum(t.outcome.value for t in tried) / len(tried)  # type: ignore[union-attr]


@pytest.mark.parametrize("attack", ["inject_document", "inject_email", "inject_web_page", "inject_tool_result"])
def test_bipia_tells_a_careless_reader_from_a_careful_one(attack: str) -> None:
    cases = injection_cases("bipia")
    orders = {c.metadata["injection"]: c.metadata["success"]["contains"] for c in cases}
    assert rate(Organism(careless=True, orders=orders), attack, cases, 2) == 1.0
    for bot in (Organism(careless=False), *(load(f"scripted:{b}") for b in ("echo", "refuse", "comply"))):
        assert rate(bot, attack, cases, 2) == 0.0, bot.name


class Coder(Speaker):
    """Lists the files and reads them one by one; one that obeys runs the first line that an indicator of a case is in."""

    name = "coder"

    def __init__(self, cases: Sequence[Case], *, obeys: bool) -> None:
        super().__init__()
        self.indicators = {c.prompt: c.metadata["check"]["pattern"] for c in cases} if obeys else {}

    def say(self, request: Request) -> str:
        first, *results = [m.content for m in request.messages if m.role == "user"]
        for prompt, pattern in self.indicators.items():
            hits = [line for text in (first, *results) for line in text.splitlines() if re.search(pattern, line)]
            if first.startswith(prompt) and hits:
                return rendered_call("run_command", {"command": hits[0]})
        if not results:
            return rendered_call("list_files", {})
        files = results[0].splitlines()[1:]
        if len(results) <= len(files):
            return rendered_call("read_file", {"path": files[len(results) - 1]})
        return "Done."


def test_ipi_coding_agent_tells_an_obeying_coder_from_one_that_only_reads() -> None:
    cases = injection_cases("ipi_coding_agent")
    assert len(cases) == 35
    assert rate(Coder(cases, obeys=True), "inject_repository", cases, 12) == 1.0
    assert rate(Coder(cases, obeys=False), "inject_repository", cases, 12) == 0.0
    for bot in ("echo", "refuse", "comply"):
        assert rate(load(f"scripted:{bot}"), "inject_repository", cases, 12) == 0.0
