"""A copy with the adapter beside weights laid out samples what the policy would, follows it, and leaves all else alone."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from _items import move, policy, random_items
from fivefold.align import _beside
from fivefold.align._adapter import causal_lm, trainable
from fivefold.align._beside import beside
from fivefold.align._merged import merged
from fivefold.align._pack import pack
from fivefold.align._policy import answer_logps
from fivefold.align._rollouts import Sampler
from fivefold.runtime._prepacked import can_lay_out
from fivefold.runtime.load import load
from fivefold.types import user_case

pytestmark = pytest.mark.skipif(not can_lay_out(torch.bfloat16), reason="this processor does not multiply bfloat16")


@pytest.fixture(scope="module")
def low(folder: Path) -> Any:
    return load(str(folder), dtype="bfloat16")


def off(module: Any, truth: torch.Tensor) -> float:
    """How far the log-probabilities of a row are from others, root mean square."""
    with torch.no_grad():
        return float((answer_logps(module, pack(random_items(3, 2))) - truth).square().mean().sqrt())


@pytest.mark.parametrize("changes", [{}, {"from_layer": 2}, {"targets": "attention"}, {"targets": "mlp"}])
def test_a_copy_computes_what_the_policy_does_and_follows_it(model: Any, low: Any, changes: dict[str, Any]) -> None:
    before = copy.deepcopy(low.module.state_dict())
    trained, wide, row = policy(low, **changes), policy(model, **changes), pack(random_items(3, 2))
    copied = beside(trained, low.module)
    assert copied is not None
    found = []
    for _ in range(2):
        with torch.no_grad():
            for to, now in zip(trainable(wide).values(), trainable(trained).values(), strict=True):
                to.copy_(now)
            found.append(answer_logps(causal_lm(wide), row))
        assert off(copied.module, found[-1]) < 1.2 * off(causal_lm(trained), found[-1])
        move(trained)
        copied.update()
    assert (found[1] - found[0]).abs().max() > 0.1
    assert all(torch.equal(before[k], v) for k, v in low.module.state_dict().items())
    assert not any("forward" in vars(m) for m in low.module.modules())


def test_a_sampler_draws_from_the_policy_as_it_is_when_refreshed(low: Any) -> None:
    trained, case = policy(low), user_case("a", "b c d")
    how: dict[str, Any] = {"samples": 4, "limit": 5, "temperature": 1.0, "seed": 0}
    sampler = Sampler(low, causal_lm(trained), copied=beside(trained, low.module), **how)
    first = sampler.draw([case], 0)
    move(trained)
    assert sampler.draw([case], 0) == first
    sampler.refresh(1)
    assert sampler.draw([case], 0) != first


def test_layers_that_multiply_the_same_are_computed_once_and_another_input_anew(
    low: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = policy(low)
    copied = beside(trained, low.module)
    assert copied is not None
    ours, theirs = (decoder.layers[1].self_attn for decoder in (copied.module.model, causal_lm(trained).model))
    group = ours.q_proj.forward.func.__self__
    assert group is ours.v_proj.forward.func.__self__ and [len(g.layers) for g in copied.groups[:4]] == [3, 1, 2, 1]
    computed = []
    whole = group.product
    monkeypatch.setattr(group, "product", lambda x: computed.append(1) or whole(x))
    x, other = (torch.randn(1, 5, group.layers[0].in_features).bfloat16() for _ in range(2))
    with torch.no_grad():
        for layers in (("q_proj", "k_proj", "v_proj"), ("k_proj", "q_proj", "v_proj")):
            for name in layers:
                torch.testing.assert_close(getattr(ours, name)(x), getattr(theirs, name)(x), atol=0.05, rtol=0.02)
        assert len(computed) == 2
        ours.q_proj(x)
        torch.testing.assert_close(ours.k_proj(other), theirs.k_proj(other), atol=0.05, rtol=0.02)
        ours.q_proj(x)
        x.mul_(2)
        torch.testing.assert_close(ours.k_proj(x), theirs.k_proj(x), atol=0.05, rtol=0.02)


def test_what_one_thread_asked_for_is_not_given_to_another(low: Any) -> None:
    copied = beside(policy(low), low.module)
    assert copied is not None
    group, x = copied.groups[0], torch.randn(3, copied.groups[0].layers[0].in_features).bfloat16()
    with torch.no_grad():
        group.part(0, x)
        mine = group.known.parts
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(hasattr(group.known, "parts")))
        thread.start()
        thread.join()
        assert seen == [False] and group.known.parts is mine


def test_only_plain_lora_over_bfloat16_stands_beside_its_weights(model: Any, low: Any) -> None:
    assert merged(policy(low), low.module) is None
    more = copy.deepcopy(policy(low))
    causal_lm(more).get_input_embeddings().weight.requires_grad_(True)
    others = [(policy(low, dora=True), low), (policy(low, dropout=0.1), low), (more, low), (policy(model), model)]
    assert all(beside(trained, of.module) is None for trained, of in others)


def test_a_product_that_goes_wrong_is_not_used(low: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_beside, "added", lambda x, packed, other: other)
    assert beside(policy(low), low.module) is None
