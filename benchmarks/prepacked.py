"""A decoding step with weights laid out beforehand against the same step with weights as they lie.

Greedy answers to prompts that share nothing, 24 new tokens, as many requests as a step has rows; both ways in turn, one
thread, float32 or what `BENCH_DTYPE` says. Counted are the steps in which all requests decode and none joins: the median of
all of them, in CPU-seconds of the thread that computes. The agreement says how many answers are the same to the last token.
"""

from __future__ import annotations

from _common import dtype, emit, limit, one_thread

one_thread()

import time  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from statistics import median  # noqa: E402
from typing import Any  # noqa: E402
from unittest.mock import patch  # noqa: E402

from generation import apart  # noqa: E402

from fivefold.runtime import _generate  # noqa: E402
from fivefold.runtime._forward import Engine  # noqa: E402
from fivefold.runtime._plan import Plan  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402
from fivefold.runtime.protocol import Request  # noqa: E402
from fivefold.types import Message  # noqa: E402

NEW_TOKENS = 24
ROWS = (8, 16, 32)


@contextmanager
def as_they_lie(module: Any) -> Iterator[int]:
    """In place of `prepacked`: nothing is laid out."""
    yield 0


def steps(model: Any, requests: Sequence[Request], seconds: list[float]) -> list[tuple[int, ...]]:
    """The answers' tokens; the CPU-seconds of steps in which all decode are appended to `seconds`."""
    forward = Engine.forward

    def timed(engine: Engine, ids: Sequence[int], positions: Sequence[int], plan: Plan, read: Sequence[int]) -> Any:
        began = time.thread_time()
        logits = forward(engine, ids, positions, plan, read)
        if plan.decode == len(ids) == len(requests):
            seconds.append(time.thread_time() - began)
        return logits

    with patch.object(Engine, "forward", timed):
        return [answer.tokens for answer in model.generate(requests)]


def main() -> None:
    """One line for each number of rows."""
    model, rounds, laid_out = load("smollm2", dtype=dtype()), limit(3), _generate.prepacked
    for rows in ROWS:
        requests = [
            Request(
                messages=(Message(role="system", content=system), Message(role="user", content=user)),
                max_new_tokens=NEW_TOKENS,
            )
            for system, user in apart(rows)
        ]
        seconds: dict[bool, list[float]] = {False: [], True: []}
        answers: dict[bool, list[tuple[int, ...]]] = {}
        for _ in range(rounds):
            for ahead in (False, True):
                with patch.object(_generate, "prepacked", laid_out if ahead else as_they_lie):
                    answers[ahead] = steps(model, requests, seconds[ahead])
        if not all(seconds.values()):
            raise SystemExit(f"no step of {rows} rows was seen: an answer ended before all had joined")
        ours, theirs = (1 / median(seconds[ahead]) for ahead in (True, False))
        agreement = {
            "requests": rows,
            "same_answers": sum(a == b for a, b in zip(answers[True], answers[False], strict=True)),
            "steps": len(seconds[True]),
            "tokens_a_cpu_s_in_these_steps": round(rows * ours, 1),
        }
        emit(
            f"prepacked-{rows}", "weights as they lie", f"decoding steps/CPU-s, {dtype()}", ours, theirs, agreement, ""
        )


if __name__ == "__main__":
    main()
