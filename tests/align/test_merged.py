"""A merged copy samples what the policy would, follows it, and leaves everybody else's weights alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from _items import move, policy, random_items
from fivefold.align._adapter import causal_lm, trainable
from fivefold.align._merged import merged
from fivefold.align._pack import pack
from fivefold.align._policy import answer_logps
from fivefold.align._rollouts import Sampler
from fivefold.types import user_case


@pytest.mark.parametrize("changes", [{}, {"from_layer": 2}, {"targets": "attention"}])
def test_a_merged_copy_computes_what_the_policy_does_and_follows_it(model: Any, changes: dict[str, Any]) -> None:
    before = copy.deepcopy(model.module.state_dict())
    trained = policy(model, **changes)
    copied, row = merged(trained, model.module), pack(random_items(3, 2))
    assert copied is not None
    with torch.no_grad():
        old = answer_logps(copied.module, row)
        torch.testing.assert_close(old, answer_logps(causal_lm(trained), row), atol=1e-4, rtol=0)
        move(trained)
        torch.testing.assert_close(answer_logps(copied.module, row), old)
        copied.update()
        new = answer_logps(copied.module, row)
        torch.testing.assert_close(new, answer_logps(causal_lm(trained), row), atol=1e-4, rtol=0)
    assert (new - old).abs().max() > 0.01
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    shared = {p.data_ptr() for p in model.module.parameters()}
    own = [p for p in copied.module.parameters() if p.data_ptr() not in shared]
    assert len(own) == len({n.rsplit(".lora_", 1)[0] for n in trainable(trained)})


def test_a_sampler_draws_from_the_policy_as_it_is_when_refreshed(model: Any) -> None:
    trained, case = policy(model), user_case("a", "b c d")
    how: dict[str, Any] = {"samples": 4, "limit": 5, "temperature": 1.0, "seed": 0}
    from_copy = Sampler(model, causal_lm(trained), copied=merged(trained, model.module), **how)
    assert from_copy.copied is not None
    plain = Sampler(model, causal_lm(trained), **how)
    first = from_copy.draw([case], 0)
    assert first == plain.draw([case], 0)
    move(trained)
    assert from_copy.draw([case], 0) == first
    from_copy.refresh(1)
    assert from_copy.draw([case], 0) == plain.draw([case], 0) != first


def test_only_plain_lora_alone_is_merged(model: Any) -> None:
    assert merged(policy(model), model.module) is not None
    more = copy.deepcopy(policy(model))
    causal_lm(more).get_input_embeddings().weight.requires_grad_(True)
    others = [policy(model, dora=True), policy(model, dropout=0.1), more, copy.deepcopy(policy(model)).to("meta")]
    assert all(merged(other, model.module) is None for other in [model.module, *others])
