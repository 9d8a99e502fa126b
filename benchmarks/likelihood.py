"""Log-likelihoods of 5-shot MMLU on the embedded model against lm-eval's `hf` backend: letters, and full-text options.

The load is a subject of MMLU behind its one header: 100 questions of the subject whose prompts have the median length of
all 57 (503 tokens, 75 of them the question's; MMLU has 246 questions a subject on average, no subject fewer than 100).
How many share a header decides how much there is to save, so the line states it, and gives the ratio for 20 as well.

Both sides score the same (context, continuation) pairs on one thread, in float32, or with `BENCH_DTYPE=bfloat16` ours in
bfloat16 beside lm-eval in float32 and in bfloat16 (a rounding apart: never a gate's configuration). Rates are questions
per CPU-second.
The model's own loading is left out on both sides. `BENCH_LIMIT` sets the number of questions, `BENCH_PEER` how many of
them, from the first on, the peer answers too where time is short: it computes each by itself, at the same rate.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from _common import dtype, emit, limit, one_thread, peer_dtypes, timed

one_thread()

from _mmlu import Question, questions  # noqa: E402

PEER_BATCH = 8
SUBJECT = "high_school_biology"
FEW = 20
"""The smaller number of questions behind the header."""


def peer(folder: str, kind: str) -> object:
    """lm-eval's backend on the same folder, computing in `kind`."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, dtype=kind, device="cpu", batch_size=PEER_BATCH)


def ask_peer(lm: object, pairs: list[tuple[str, str]]) -> list[float]:
    """lm-eval's log-likelihoods of the pairs."""
    from lm_eval.api.instance import Instance

    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    return [float(total) for total, _ in lm.loglikelihood(requests, disable_tqdm=True)]  # type: ignore[attr-defined]


def choices(scores: list[float], items: list[Question]) -> list[int]:
    """The most likely of each question's four options."""
    return [max(range(4), key=lambda j: scores[4 * i + j]) for i in range(len(items))]


def pairs_of(items: list[Question]) -> list[tuple[str, str]]:
    """Each question with each of its options."""
    return [(q.context, option) for q in items for option in q.options]


def compare(model: Any, lms: dict[str, object], form: str, items: list[Question], peers: int) -> None:
    """A line for a form and each dtype of the peer."""
    pairs, few, shared = pairs_of(items), pairs_of(items[:FEW]), pairs_of(items[:peers])
    model.log_likelihood(pairs[:4])
    ours, our_seconds = timed(lambda: [x.total for x in model.log_likelihood(pairs)])
    _, few_seconds = timed(lambda: model.log_likelihood(few))
    both, rate = items[:peers], len(items) / our_seconds
    mine = choices(ours, both)
    for kind, lm in lms.items():
        ask_peer(lm, pairs[:4])
        theirs, their_seconds = timed(partial(ask_peer, lm, shared))
        other, their_rate = choices(theirs, both), len(both) / their_seconds
        agreement = {
            "questions": len(both),
            "same_choice": sum(a == b for a, b in zip(mine, other, strict=True)) / len(both),
            "max_abs_difference_nats": round(max(abs(a - b) for a, b in zip(ours, theirs, strict=False)), 6),
            "accuracy_ours": sum(a == q.answer for a, q in zip(mine, both, strict=True)) / len(both),
            "accuracy_theirs": sum(a == q.answer for a, q in zip(other, both, strict=True)) / len(both),
            "questions_behind_one_header": len(items),
            f"ratio_with_{min(FEW, len(items))}_behind_one_header": round(len(few) / 4 / few_seconds / their_rate, 3),
        }
        unit = f"questions/CPU-s, {dtype()} against {kind}, 5-shot MMLU"
        emit(f"likelihood-{form}", "lm-eval hf", unit, rate, their_rate, agreement, "lm_eval")


def main() -> None:
    """The lines of each form."""
    from fivefold.runtime.load import load

    model = load("smollm2", dtype=dtype())
    lms = {kind: peer(str(model.source.folder), kind) for kind in peer_dtypes()}
    for form in ("letters", "options"):
        items = questions(form, SUBJECT, limit(100))
        compare(model, lms, form, items, int(os.environ.get("BENCH_PEER", len(items))))


if __name__ == "__main__":
    main()
