"""A DPO step against TRL's DPOTrainer: same pairs, adapter and settings; the reference pass is counted on both sides.

`BENCH_LIMIT` pairs are one step. TRL computes the reference inside every step; ours computes it once for a whole run, so
the first two lines count our reference pass as if there were one epoch, and the last two leave it out.
"""

from __future__ import annotations

from typing import Any

from _common import dtype, limit, one_thread, timed

one_thread()

import torch  # noqa: E402
from _trl import (  # noqa: E402
    beside,
    fresh,
    off_float32,
    peft_config,
    prepared,
    report,
    same_gradient,
    settings,
    stepping,
    triples,
    twin,
)

from fivefold.align._adapter import adapter_off, causal_lm  # noqa: E402
from fivefold.align._pack import Item  # noqa: E402
from fivefold.align.losses import dpo  # noqa: E402
from fivefold.align.train import TrainConfig, backward, score  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402


def main() -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, n, steps = load("smollm2", dtype=dtype()), limit(8), 3

    def peer(**more: Any) -> Any:
        return DPOTrainer(
            model=fresh(model),
            args=settings(DPOConfig, n, steps, beta=0.1, max_length=None, **more),
            train_dataset=Dataset.from_list(triples(n)),
            processing_class=model.tokenizer,
            peft_config=peft_config(),
        )

    trainer = peer(gradient_checkpointing=False)
    plain = prepared(trainer, n)
    items = [
        Item(prompt=tuple(r["prompt_ids"]), answers=(tuple(r["chosen_ids"]), tuple(r["rejected_ids"])))
        for r in trainer.train_dataset
    ]
    trained, params = twin(model, trainer.model)
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    config = TrainConfig(loss="dpo", row_tokens=1024)

    def reference(of: Any = trained) -> list[list[torch.Tensor]]:
        with adapter_off(of):
            return score(causal_lm(of), items, config.row_tokens)

    known, spent = min((timed(reference) for _ in range(steps)), key=lambda run: run[1])
    ours = stepping(params, lambda: backward(trained, items, known, config, dpo, dpo.Config(), None)[0], steps)
    trainer = peer()
    common = prepared(trainer, n)
    gradient = same_gradient(params, plain.gradient)
    rounding = off_float32(
        trainer.model, lambda t: backward(t, items, reference(t), config, dpo, dpo.Config(), None), params, plain
    )
    trainer.train()
    agreement = report(ours, loss, gradient, pairs=n, reference_pass_cpu_s=round(spent, 2)) | rounding
    for name, seconds in (("dpo", ours["seconds"] + spent), ("dpo, reference pass known", ours["seconds"])):
        beside(name, "pairs per CPU-second", "DPOTrainer", (common, plain), agreement, ours, n / seconds)


if __name__ == "__main__":
    main()
