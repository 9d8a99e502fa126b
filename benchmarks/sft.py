"""An SFT step against TRL's SFTTrainer with loss on the answer only: same examples, adapter and settings."""

from __future__ import annotations

from typing import Any

from _common import dtype, limit, one_thread

one_thread()

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

from fivefold.align._pack import Item  # noqa: E402
from fivefold.align.losses import sft  # noqa: E402
from fivefold.align.train import TrainConfig, backward  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402


def main() -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, n, steps = load("smollm2", dtype=dtype()), limit(8), 3
    data = [{"prompt": t["prompt"], "completion": t["chosen"]} for t in triples(n)]

    def peer(**more: Any) -> Any:
        return SFTTrainer(
            model=fresh(model),
            args=settings(SFTConfig, n, steps, completion_only_loss=True, max_length=None, **more),
            train_dataset=Dataset.from_list(data),
            processing_class=model.tokenizer,
            peft_config=peft_config(),
        )

    trainer = peer(gradient_checkpointing=False)
    plain = prepared(trainer, n)
    items = [_item(row) for row in trainer.train_dataset]
    trained, params = twin(model, trainer.model)
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    config = TrainConfig(loss="sft", row_tokens=1024)
    ours = stepping(params, lambda: backward(trained, items, None, config, sft, sft.Config(), None)[0], steps)
    trainer = peer()
    common = prepared(trainer, n)
    rounding = off_float32(
        trainer.model, lambda t: backward(t, items, None, config, sft, sft.Config(), None), params, plain
    )
    trainer.train()
    agreement = report(ours, loss, same_gradient(params, plain.gradient), examples=n) | rounding
    beside("sft", "examples per CPU-second", "SFTTrainer", (common, plain), agreement, ours, n / ours["seconds"])


def _item(row: dict[str, list[int]]) -> Item:
    """TRL's example: the answer is what has labels."""
    labels = row.get("labels")
    learnt = [x != -100 for x in labels] if labels is not None else [bool(x) for x in row["completion_mask"]]
    start = learnt.index(True)
    return Item(prompt=tuple(row["input_ids"][:start]), answers=(tuple(row["input_ids"][start:]),))


if __name__ == "__main__":
    main()
