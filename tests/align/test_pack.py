"""Packed rows give what single sequences give, in values and in gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from _items import random_items
from fivefold.align import _policy
from fivefold.align._adapter import Lora, adapter_off, causal_lm, packed_copy, trainable, trainable_copy
from fivefold.align._lora import fuse
from fivefold.align._lower import Lower
from fivefold.align._pack import Item, common_start, pack, rows_of
from fivefold.align._policy import answer_logps, check_packing
from fivefold.errors import TrainingError, UsageError
from fivefold.runtime.load import load


def alone(module: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of one answer by the module's ordinary forward."""
    logits = module(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("answers", [1, 2, 4])
def test_a_packed_row_gives_the_log_probabilities_of_single_sequences(model: Any, n: int, answers: int) -> None:
    items = random_items(n, answers)
    row = pack(items)
    with torch.no_grad():
        packed = answer_logps(packed_copy(model.module), row)
        for item, slices in zip(items, row.answers, strict=True):
            for answer, part in zip(item.answers, slices, strict=True):
                torch.testing.assert_close(packed[part], alone(model.module, item.prompt, answer), atol=1e-4, rtol=0)


def test_a_packed_row_gives_the_gradients_of_single_sequences(model: Any) -> None:
    items = random_items(5, 2)
    gradients = []
    for packed in (True, False):
        torch.manual_seed(0)
        module = causal_lm(trainable_copy(model.module, Lora(r=4)))
        with torch.no_grad():
            for p in trainable(module).values():
                p.normal_(0, 0.1)
        if packed:
            answer_logps(module, pack(items)).pow(2).sum().backward()
        else:
            sum(alone(module, i.prompt, a).pow(2).sum() for i in items for a in i.answers).backward()
        gradients.append({name: p.grad.clone() for name, p in trainable(module).items()})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 20
    scale = max(g.abs().max() for g in gradients[1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-4 * float(scale), rtol=1e-3, msg=name)


def test_fused_adapters_are_pefts_own(model: Any) -> None:
    items, found = random_items(4, 2), []
    for fused in (True, False):
        torch.manual_seed(0)
        trained = trainable_copy(model.module, Lora(r=4, alpha=12))
        module = causal_lm(trained)
        if not fused:
            for layer in module.modules():
                layer.__dict__.pop("forward", None)
        with torch.no_grad():
            for p in trainable(module).values():
                p.normal_(0, 0.1)
        logps = answer_logps(module, pack(items))
        logps.sum().backward()
        with adapter_off(trained):
            off = answer_logps(module, pack(items))
        found.append((logps.detach(), off.detach(), [p.grad for p in trainable(module).values()]))
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=1e-3)
    plain = answer_logps(packed_copy(model.module), pack(items))
    torch.testing.assert_close(found[0][1], plain, atol=1e-4, rtol=0)
    assert (found[0][0] - plain).abs().max() > 0.1


def test_over_bfloat16_weights_fused_adapters_stay_float32_and_near_it(folder: Path) -> None:
    """Their gradients, against the same weights and factors computed in float32 throughout."""
    low, items, found = load(str(folder), dtype="bfloat16"), random_items(4, 2), []
    for module in (low.module, copy.deepcopy(low.module).float()):
        torch.manual_seed(0)
        trained = trainable_copy(module, Lora(r=4, alpha=12))
        params = trainable(trained)
        with torch.no_grad():
            for p in params.values():
                p.normal_(0, 0.1)
        assert {p.dtype for p in params.values()} == {torch.float32}
        logps = answer_logps(causal_lm(trained), pack(items))
        logps.sum().backward()
        with torch.no_grad():
            again = answer_logps(causal_lm(trained), pack(items))
            torch.testing.assert_close(again, logps.detach(), atol=0.1, rtol=0.02)
            for p in params.values():
                p.mul_(2.0)  # what was rounded before is no longer the factor
            doubled = answer_logps(causal_lm(trained), pack(items))
            assert (doubled - again).abs().max() > 0.5
            for p in params.values():
                p.mul_(0.5)
            assert torch.equal(answer_logps(causal_lm(trained), pack(items)), again)
        found.append((logps.detach(), torch.cat([p.grad.flatten() for p in params.values()])))
    (logps, grad), (wide, wide_grad) = found
    torch.testing.assert_close(logps, wide, atol=0.1, rtol=0.02)
    assert grad.dtype == torch.float32 and (grad - wide_grad).norm() < 0.05 * wide_grad.norm()


def test_all_weights_are_not_trained_in_float16(folder: Path) -> None:
    with pytest.raises(UsageError, match="losses are not scaled"):
        trainable_copy(load(str(folder), dtype="float16").module, None)


@pytest.mark.parametrize(("changes", "n"), [({}, 28), ({"dropout": 0.1}, 0), ({"dora": True}, 0)])
def test_only_plain_adapters_are_fused(model: Any, changes: dict[str, Any], n: int) -> None:
    assert fuse(trainable_copy(model.module, Lora(r=4, **changes))) == n


def test_the_head_can_be_trained_too(model: Any) -> None:
    items = random_items(3, 1)
    full = trainable_copy(model.module, None)
    answer_logps(full, pack(items)).sum().backward()
    packed = full.get_output_embeddings().weight.grad.clone()
    full.zero_grad()
    sum(alone(full, i.prompt, i.answers[0]).sum() for i in items).backward()
    torch.testing.assert_close(packed, full.get_output_embeddings().weight.grad, atol=1e-3, rtol=1e-3)


def test_what_is_shared_is_computed_once() -> None:
    items = [Item(prompt=(1, 2, 3, 4), answers=((5, 6, 7), (5, 8))), Item(prompt=(1, 2, 9), answers=((5, 6),))]
    row = pack(items)
    # shared 1 2 | 3 4 then 5 6 and the 5 of the other answer is the same node | 9 5
    assert row.shared == 2 and row.tokens.tolist() == [1, 2, 3, 4, 5, 6, 9, 5]
    assert row.depth.tolist() == [0, 1, 2, 3, 4, 5, 2, 3]
    assert row.want.tolist() == [5, 6, 7, 5, 8, 5, 6]


def test_rows_keep_to_their_limit_and_lose_nothing() -> None:
    items = random_items(40, 2)
    rows = list(rows_of(items, 60))
    assert sorted(i for row in rows for i in row) == list(range(40))
    assert all(sum(items[i].n_tokens for i in row) <= 60 for row in rows if len(row) > 1)
    assert len(rows) < 20


@pytest.mark.parametrize(("start", "shared"), [(3, 0), (40, 40)])
def test_a_start_is_shared_where_that_saves_more_than_it_costs(start: int, shared: int) -> None:
    """Three tokens of three prompts are computed three times: a pass of attention for the whole row costs more."""
    items = [
        Item(prompt=(*range(10, 10 + start), *[100 + k] * 90), answers=(tuple([200 + k] * 30), tuple([300 + k] * 30)))
        for k in range(3)
    ]
    row = pack(items)
    assert row.shared == shared
    assert len(row.tokens) == shared + 3 * (start - shared + 90 + 29 + 29)


def test_common_start() -> None:
    assert common_start([(1, 2, 3), (1, 2, 4), (1, 2)]) == 2
    assert common_start([(1, 2)]) == 2
    assert common_start([(), (1,)]) == 0


def test_training_leaves_the_model_alone(model: Any) -> None:
    before = copy.deepcopy(model.module.state_dict())
    trained = trainable_copy(model.module, Lora(r=4))
    answer_logps(causal_lm(trained), pack(random_items(2))).sum().backward()
    assert not any("lora" in name for name, _ in model.module.named_modules())
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())


def test_an_adapter_from_a_higher_layer_leaves_the_lower_ones_without_gradient(model: Any) -> None:
    names = trainable(trainable_copy(model.module, Lora(r=4, from_layer=2)))
    layers = {name.split("layers.")[1].split(".")[0] for name in names}
    assert layers == {"2", "3"}
    attention = trainable(trainable_copy(model.module, Lora(r=4, targets="attention")))
    assert attention and all("self_attn" in name for name in attention)


def test_lower_layers_are_computed_once_and_nothing_changes(model: Any) -> None:
    items, found = random_items(6, 2), []
    for reuse in (True, False):
        torch.manual_seed(0)
        module = causal_lm(trainable_copy(model.module, Lora(r=4, from_layer=2)))
        with torch.no_grad():
            for p in trainable(module).values():
                p.normal_(0, 0.1)
        lower = Lower(module, 2, 40) if reuse else None
        if lower:
            lower.keep(items)
        for part in (items[:4], items[2:]):
            row = pack(part)
            logps = answer_logps(module, row, lower(part, row) if lower else None)
            logps.sum().backward()
        found.append((logps.detach(), [p.grad for p in trainable(module).values()]))
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_module_that_cannot_be_packed_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    model = load(str(folder), dtype=dtype)
    check_packing(packed_copy(model.module), random_items(3), model.module)
    monkeypatch.setattr("fivefold.align._policy.attending", lambda plan: __import__("contextlib").nullcontext())
    with pytest.raises(TrainingError, match="same log-probabilities"):
        check_packing(packed_copy(model.module), random_items(3), model.module)


def test_one_token_that_rounding_moves_does_not_refuse_a_model_in_bfloat16(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, items = load(str(folder), dtype="bfloat16"), random_items(3)
    plain = _policy._plain

    def moved(module: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
        logps = plain(module, prompt, answer)
        logps[0] += 0.3 if answer == items[0].answers[0] else 0.0
        return logps

    monkeypatch.setattr(_policy, "_plain", moved)
    check_packing(packed_copy(model.module), items, model.module)


def test_answers_need_the_runtimes_attention(model: Any) -> None:
    with pytest.raises(TrainingError, match="runtime's attention"):
        answer_logps(model.module, pack(random_items(1)))
