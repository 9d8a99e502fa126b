"""Log-likelihoods of 5-shot MMLU on the embedded model against lm-eval's `hf` backend: letters, and full-text options.

Both sides score the same (context, continuation) pairs in float32 on one thread. Rates are questions per CPU-second.
The model's own loading is left out on both sides.
"""

from __future__ import annotations

from _common import emit, limit, one_thread, timed

one_thread()

from _mmlu import Question, questions  # noqa: E402

PEER_BATCH = 8


def peer(folder: str) -> object:
    """lm-eval's backend on the same folder."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, dtype="float32", device="cpu", batch_size=PEER_BATCH)


def ask_peer(lm: object, pairs: list[tuple[str, str]]) -> list[float]:
    """lm-eval's log-likelihoods of the pairs."""
    from lm_eval.api.instance import Instance

    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    return [float(total) for total, _ in lm.loglikelihood(requests, disable_tqdm=True)]  # type: ignore[attr-defined]


def choices(scores: list[float], items: list[Question]) -> list[int]:
    """The most likely of each question's four options."""
    return [max(range(4), key=lambda j: scores[4 * i + j]) for i in range(len(items))]


def main() -> None:
    """One line for each form."""
    from fivefold.runtime.load import load

    model = load("smollm2")
    lm = peer(str(model.source.folder))
    count = limit(40)
    for form in ("letters", "options"):
        items = questions(form, subjects=max(1, count // 20), each=min(20, count))
        pairs = [(q.context, option) for q in items for option in q.options]
        model.log_likelihood(pairs[:4]), ask_peer(lm, pairs[:4])
        ours, our_seconds = timed(lambda pairs=pairs: [x.total for x in model.log_likelihood(pairs)])
        theirs, their_seconds = timed(lambda pairs=pairs: ask_peer(lm, pairs))
        mine, other = choices(ours, items), choices(theirs, items)
        agreement = {
            "questions": len(items),
            "same_choice": sum(a == b for a, b in zip(mine, other, strict=True)) / len(items),
            "max_abs_difference_nats": round(max(abs(a - b) for a, b in zip(ours, theirs, strict=True)), 6),
            "accuracy_ours": sum(a == q.answer for a, q in zip(mine, items, strict=True)) / len(items),
            "accuracy_theirs": sum(a == q.answer for a, q in zip(other, items, strict=True)) / len(items),
        }
        emit(
            f"likelihood-{form}",
            "lm-eval hf",
            "questions/CPU-s, fp32, 5-shot MMLU",
            len(items) / our_seconds,
            len(items) / their_seconds,
            agreement,
            "lm_eval",
        )


if __name__ == "__main__":
    main()
