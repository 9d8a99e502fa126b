"""Preferences over several turns, with tools: what is learnt is the assistant's, and only that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align._adapter import Lora, packed_copy
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import Item, mismatched, pack
from fivefold.align._policy import answer_logps, check_packing
from fivefold.align.data.preferences import chosen_items, parse_preferences, preference_items
from fivefold.align.data.tokens import encode_turns, end_of_turn
from fivefold.align.recipes.preference import fitting
from fivefold.align.reward import Pairs, RewardConfig, train_reward
from fivefold.align.train import score, train
from fivefold.errors import DataError
from fivefold.types import Message

ASKED = [{"role": "user", "content": "What is the capital of France?"}]
CALL = {"role": "assistant", "content": "look up France"}
RESULT = {"role": "tool", "content": "the capital of France is Paris"}
GOOD = [CALL, RESULT, {"role": "assistant", "content": "It is Paris."}]
BAD = [CALL, RESULT, {"role": "assistant", "content": "I cannot help."}]


def one(**fields: Any) -> Any:
    (pair,) = parse_preferences(json.dumps(fields).encode(), "x")
    return pair


def items_of(model: Any, n: int = 8) -> list[Item]:
    rows = [{"messages": [{"role": "user", "content": f"fox {i}?"}], "chosen": GOOD, "rejected": BAD} for i in range(n)]
    pairs = parse_preferences("\n".join(map(json.dumps, rows)).encode(), "x")
    return preference_items(model, pairs, prompt_tokens=500, answer_tokens=200)


def messages(turns: list[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(**t) for t in turns)  # type: ignore[arg-type]


def test_three_forms_of_several_turns_are_read() -> None:
    parted = one(chosen=[*ASKED, *GOOD], rejected=[*ASKED, *BAD])
    assert parted.messages == messages([*ASKED, CALL, RESULT]), "what both share is the conversation"
    assert (parted.chosen, parted.rejected) == ("It is Paris.", "I cannot help.")
    asked = one(messages=ASKED, chosen=GOOD, rejected=BAD)
    assert asked.messages == messages(ASKED) and asked.chosen == messages(GOOD)
    assert one(prompt=ASKED, chosen=[GOOD[-1]], rejected=[BAD[-1]]).chosen == "It is Paris."
    for wrong in ([RESULT], [CALL, RESULT], [{"role": "robot", "content": "x"}], [{"role": "assistant"}]):
        with pytest.raises(DataError, match="x:1 is no preference"):
            one(messages=ASKED, chosen=wrong, rejected=BAD)


def test_the_assistant_alone_is_marked_and_the_tokens_are_the_templates(model: Any) -> None:
    ids, learnt = encode_turns(model, messages(ASKED), messages(GOOD), 500)
    whole = model.tokenizer.apply_chat_template([*ASKED, *GOOD], tokenize=False)
    prompt = model.encode(messages(ASKED))
    assert model.tokenizer.decode([*prompt, *ids]) == whole.rstrip("\n"), "as the template writes the conversation"
    end = end_of_turn(model.tokenizer)
    own = [t for t, mark in zip(ids, learnt, strict=True) if mark]
    texts = [model.tokenizer(t["content"], add_special_tokens=False)["input_ids"] for t in (CALL, GOOD[-1])]
    assert own == [*texts[0], end, *texts[1], end]
    assert encode_turns(model, messages(ASKED), messages(GOOD), 3) == (ids[:3], learnt[:3])


def test_losses_see_the_assistants_tokens_only(model: Any) -> None:
    (item,) = items_of(model, 1)
    assert item.learnt is not None and 0 < item.n_learnt < sum(map(len, item.answers))
    module = packed_copy(model.module)
    (found,) = score(module, [item], 1024)
    (everything,) = score(module, [replace(item, learnt=None)], 1024)
    for which in (0, 1):
        marks = torch.tensor(item.marks(which))
        assert torch.allclose(found[which], everything[which][marks], atol=1e-5)
    check_packing(module, items_of(model, 2), model.module)


def test_changing_what_the_tool_says_changes_no_target(model: Any) -> None:
    other = [CALL, {"role": "tool", "content": "zebra zebra"}, GOOD[-1]]
    pairs = [one(messages=ASKED, chosen=c, rejected=BAD) for c in (GOOD, other)]
    rows = [pack(preference_items(model, [p], prompt_tokens=500, answer_tokens=200)) for p in pairs]
    chosen = [row.want[row.answers[0][0]].tolist() for row in rows]
    assert chosen[0] == chosen[1]
    logps = [answer_logps(packed_copy(model.module), row)[row.answers[0][0]] for row in rows]
    own = len(model.tokenizer("look up France", add_special_tokens=False)["input_ids"]) + 1
    assert torch.allclose(logps[0][:own], logps[1][:own], atol=1e-5), "the call comes before the result"
    assert not torch.allclose(logps[0][own:], logps[1][own:], atol=1e-3), "the answer is read with it"


def test_every_kind_of_loss_takes_them(model: Any, tmp_path: Path) -> None:
    items = items_of(model)
    kto = fitting(items, "kto")
    assert len(kto) == 2 * len(items) and all(len(i.marks(1)) == len(i.answers[1]) for i in kto)
    assert chosen_items(items)[0].learnt == (items[0].marks(0),)
    assert mismatched([Item(prompt=(1,), answers=((2,),))] * 2)[0].learnt is None
    for loss in ("sft", "dpo", "kto"):
        config = TrainConfig(loss=loss, adapter=Lora(r=2), lr=5e-3, batch_items=8, epochs=3)
        made = train(model, fitting(items, loss), config, tmp_path / loss)
        assert made.losses[-1] < made.losses[0]
    reward = RewardConfig(train=TrainConfig(loss="reward", adapter=Lora(r=2), lr=1e-2, batch_items=8, epochs=6))
    made_reward = train_reward(model, Pairs(items=items), reward, tmp_path / "reward", held_out=items)
    assert made_reward.losses[-1] < made_reward.losses[0], "read at the last token of the whole ending"


def test_a_template_that_rewrites_earlier_turns_is_refused(model: Any) -> None:
    class Forgetful:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

        def apply_chat_template(self, turns: list[dict[str, str]], **kwargs: Any) -> Any:
            return self.inner.apply_chat_template(turns[-2:], **kwargs)

    class Wrapped:
        tokenizer = Forgetful(model.tokenizer)

    wrapped: Any = Wrapped()
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_turns(wrapped, messages(ASKED), messages(GOOD), 500)
