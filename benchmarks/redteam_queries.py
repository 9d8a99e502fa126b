"""Black-box attacks on many behaviours at once against the same attacks one request at a time, on the embedded model.

Both sides run the same attacks on the same behaviours with the same seeds and a judge that never says yes, so that every
query is made. A campaign brings the requests of all behaviours together in batches, where prompts that begin alike are
computed once; the other side sends each request by itself. Rates are queries per CPU-second in float32 on one thread. A
prompt that differs between the sides ends the comparison; the agreement says how many answers are the same to the last
character. `BENCH_LIMIT` is the number of behaviours: with more of them batches grow up to 32, and so does the ratio.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from _common import emit, limit, one_thread

one_thread()

from fivefold.evaluate.suites import suite  # noqa: E402
from fivefold.redteam.campaign import Assault, CampaignResult, run_campaign  # noqa: E402
from fivefold.redteam.names import parse  # noqa: E402
from fivefold.redteam.protocol import AttackBudget  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402
from fivefold.runtime.protocol import Capability, Request  # noqa: E402
from fivefold.types import Case, Completion, Outcome, Scored  # noqa: E402

ATTACKS = ("template", "best_of_n", "many_shot(most=8)", "base64 | direct")
BUDGET = AttackBudget(queries=2, max_new_tokens=16)


class Alone:
    """A model that is asked one request at a time, as a script of calls does."""

    capabilities = frozenset({Capability.GENERATE})

    def __init__(self, inner: Any) -> None:
        self.inner, self.name, self.fingerprint = inner, inner.name, inner.fingerprint

    def generate(self, requests: Sequence[Request], *, on_done: object = None) -> list[Completion]:
        return [self.inner.generate([request])[0] for request in requests]

    def log_likelihood(self, pairs: Any) -> Any:
        return self.inner.log_likelihood(pairs)


def never(case: Case, completion: Completion) -> Outcome:
    """No answer ends an attack."""
    return Scored(value=0.0, label="refusal", judge="bench")


def together(model: Any, name: str, cases: Sequence[Case]) -> list[CampaignResult]:
    """One campaign over all behaviours."""
    return [run_campaign(model, [Assault(attack=parse(name)[0], cases=tuple(cases), budget=BUDGET)], never)]


def one_by_one(model: Any, name: str, cases: Sequence[Case]) -> list[CampaignResult]:
    """A campaign a behaviour, a call a request."""
    return [r for case in cases for r in together(Alone(model), name, [case])]


def answers(results: Sequence[CampaignResult]) -> tuple[list[object], list[str]]:
    """Every prompt and its answer, in the order of the behaviours; an answer that failed ends the comparison."""
    attempts = [a for r in results for t in r.tried for a in t.attempts]
    completions = [a.completion for a in attempts]
    failed = [c.error if c else "nothing came back" for c in completions if c is None or c.error]
    if failed:
        raise SystemExit(f"a query failed: {failed[0]}")
    return [(a.case_id, a.messages) for a in attempts], [c.text for c in completions if c is not None]


def main() -> None:
    """One line over all attacks, with each attack's ratio."""
    model = load("smollm2")
    cases = suite("core-harms").cases(languages=["en"], split="train", limit=limit(8))
    together(model, "direct", cases[:2]), one_by_one(model, "direct", cases[:2])
    spent, queries, same, ratios = [0.0, 0.0], 0, 0, {}
    for name in ATTACKS:
        sides, seconds = [], []
        for ask in (together, one_by_one):
            started = time.process_time()
            sides.append(answers(ask(model, name, cases)))
            seconds.append(time.process_time() - started)
        (asked, ours), (asked_alone, theirs) = sides
        if asked != asked_alone:
            raise SystemExit(f"{name}: the two sides were not asked the same")
        spent = [a + b for a, b in zip(spent, seconds, strict=True)]
        queries += len(ours)
        same += sum(a == b for a, b in zip(ours, theirs, strict=True))
        ratios[name] = round(seconds[1] / seconds[0], 2)
    notes = {
        "behaviours": len(cases),
        "queries": queries,
        "identical_prompts": queries,
        "identical_texts": same,
        "ratio_by_attack": ratios,
        "ours_cpu_s": round(spent[0], 1),
        "theirs_cpu_s": round(spent[1], 1),
    }
    unit = f"queries/CPU-s, fp32, {BUDGET.max_new_tokens} new tokens"
    emit("redteam-queries", "one request at a time", unit, queries / spent[0], queries / spent[1], notes, "")


if __name__ == "__main__":
    main()
