"""A DPO step against TRL's DPOTrainer: same pairs, adapter and settings; the reference pass is counted on both sides.

`BENCH_LIMIT` pairs are one step. TRL computes the reference inside every step; ours computes it once for a whole run, so
the ratio counts our reference pass as if there were one epoch. `without_reference_pass` leaves it out.
"""

from __future__ import annotations

from _common import emit, limit, one_thread, timed

one_thread()

import torch  # noqa: E402
from _trl import Watch, capture, fresh, peft_config, randomise, report, same_gradient, settings, stepping, triples, twin  # noqa: E402

from fivefold.align._adapter import adapter_off, causal_lm  # noqa: E402
from fivefold.align._pack import Item  # noqa: E402
from fivefold.align.losses import dpo  # noqa: E402
from fivefold.align.train import TrainConfig, backward, score  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402


def main() -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, n, steps = load("smollm2"), limit(8), 2
    watch = Watch()
    trainer = DPOTrainer(
        model=fresh(model),
        args=settings(DPOConfig, n, steps, beta=0.1, max_length=None),
        train_dataset=Dataset.from_list(triples(n)),
        processing_class=model.tokenizer,
        peft_config=peft_config(),
    )
    randomise(trainer.model)
    capture(trainer, watch)
    rows = list(trainer.train_dataset)
    items = [
        Item(prompt=tuple(r["prompt_ids"]), answers=(tuple(r["chosen_ids"]), tuple(r["rejected_ids"]))) for r in rows
    ]
    trained, params = twin(model, trainer.model)
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    config = TrainConfig(loss="dpo", row_tokens=1024)

    def reference() -> list[list[torch.Tensor]]:
        with adapter_off(trained):
            return score(causal_lm(trained), items, config.row_tokens)

    known, spent = timed(reference)
    ours = stepping(params, lambda: backward(trained, items, known, config, dpo, dpo.Config(), None)[0], steps)
    theirs = min(watch.seconds)
    agreement = report(
        ours,
        loss,
        same_gradient(params, watch.gradient),
        theirs,
        pairs=n,
        reference_pass_cpu_s=round(spent, 2),
        without_reference_pass=round(theirs / ours["seconds"], 2),
    )
    emit(
        "dpo",
        "trl DPOTrainer, LoRA",
        "pairs per CPU-second",
        n / (ours["seconds"] + spent),
        n / theirs,
        agreement,
        "trl",
    )


if __name__ == "__main__":
    main()
