"""A reward-model step against TRL's RewardTrainer: same pairs, adapter, head and settings.

The classifier head of transformers reads the last token that is not padding. The embedded model pads with its end of
turn, which TRL puts behind every answer, so its side gets another padding token: else it would read one token earlier.
"""

from __future__ import annotations

import copy
from typing import Any

from _common import dtype, limit, one_thread

one_thread()

import torch  # noqa: E402
from _trl import (  # noqa: E402
    LORA,
    beside,
    fresh,
    peft_config,
    plain,
    prepared,
    report,
    same_gradient,
    settings,
    stepping,
    triples,
)

from fivefold.align._adapter import trainable  # noqa: E402
from fivefold.align._pack import Item, common_start  # noqa: E402
from fivefold.align._scalar import Scalar  # noqa: E402
from fivefold.align.losses import reward  # noqa: E402
from fivefold.align.reward import Pairs, _backward  # noqa: E402
from fivefold.align.train import TrainConfig  # noqa: E402
from fivefold.runtime.load import load  # noqa: E402

PADDING = "<|endoftext|>"


def main() -> None:
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    model, n, steps = load("smollm2", dtype=dtype()), limit(8), 3
    config = fresh(model).config
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.pad_token = PADDING
    config.num_labels, config.pad_token_id = 1, tokenizer.pad_token_id
    data = [{k: t["prompt"] + t[k] for k in ("chosen", "rejected")} for t in triples(n)]

    def peer(**more: Any) -> Any:
        judge = LlamaForSequenceClassification(config)
        judge.model.load_state_dict(model.module.model.state_dict())
        return RewardTrainer(
            model=judge,
            args=settings(RewardConfig, n, steps, max_length=None, **more),
            train_dataset=Dataset.from_list(data),
            processing_class=tokenizer,
            peft_config=peft_config("SEQ_CLS"),
        )

    trainer = peer(gradient_checkpointing=False)
    without = prepared(trainer, n)
    items = [_item(row) for row in trainer.train_dataset]
    scalar = Scalar.fresh(model.module, LORA, 1)
    head = next(p for name, p in trainer.model.named_parameters() if "modules_to_save" in name and "score" in name)
    known = {plain(name): p for name, p in trainable(trainer.model).items() if "lora_" in name}
    with torch.no_grad():
        scalar.head.weight.copy_(head)
        scalar.head.bias.zero_()
        for name, p in trainable(scalar.trained).items():
            p.copy_(known[plain(name)])
    trainer.train()
    loss = trainer.state.log_history[0]["loss"]
    given, ours_config = Pairs(items=items), TrainConfig(loss="reward", row_tokens=1024)
    params = trainable(scalar.trained)

    def step() -> float:
        return _backward(scalar, given, range(n), ours_config, reward, reward.Config())[0]

    ours = stepping({**params, "layers.head": scalar.head.weight}, step, steps)
    trainer = peer()
    common = prepared(trainer, n)
    trainer.train()
    agreement = report(ours, loss, same_gradient(params, without.gradient), pairs=n)
    beside("reward", "pairs per CPU-second", "RewardTrainer", (common, without), agreement, ours, n / ours["seconds"])


def _item(row: dict[str, list[int]]) -> Item:
    """TRL's pair: the prompt is what both sequences begin with."""
    sides = row["chosen_ids"], row["rejected_ids"]
    start = min(common_start(sides), *(len(s) - 1 for s in sides))
    return Item(prompt=tuple(sides[0][:start]), answers=tuple(tuple(s[start:]) for s in sides))


if __name__ == "__main__":
    main()
