"""Interventions and adapters hold in every call of their own handle, and in no call of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from _tiny import tiny_adapter
from fivefold.errors import FivefoldError, ModelFileError, UsageError
from fivefold.runtime.protocol import Intervention, Request
from fivefold.types import Message

CONTEXTS = ["The quick brown fox", "What is the capital of France?"]
REQUESTS = [Request(messages=(Message(role="user", content=c),), max_new_tokens=8) for c in CONTEXTS]
VECTOR = tuple(float(i % 5 - 2) for i in range(32))
UNIT = torch.tensor(VECTOR) / torch.tensor(VECTOR).norm()


def steer(kind: Any, layer: int = 1, scale: float = 1.0) -> Intervention:
    return Intervention(kind=kind, layer=layer, vector=VECTOR, scale=scale)


def everything(model: Any) -> tuple[Any, ...]:
    """What a handle says, in all its ways of saying."""
    return (
        [c.tokens for c in model.generate(REQUESTS)],
        [round(x.total, 4) for x in model.log_likelihood([(c, " fox") for c in CONTEXTS])],
        [[round(v, 3) for v in row] for row in model.activations(CONTEXTS, layers=[3])[:, 0].tolist()],
    )


@pytest.mark.parametrize(
    ("kind", "scale", "check"),
    [
        ("add", 3.0, lambda before, after: torch.allclose(after, before + 3 * torch.tensor(VECTOR), atol=1e-4)),
        ("ablate", 1.0, lambda before, after: torch.allclose(after @ UNIT, torch.zeros(2), atol=1e-4)),
        ("clamp", 2.5, lambda before, after: torch.allclose(after @ UNIT, torch.full((2,), 2.5), atol=1e-4)),
        ("replace", 1.0, lambda before, after: torch.allclose(after, torch.tensor(VECTOR).expand(2, 32), atol=1e-4)),
    ],
)
def test_an_intervention_does_what_it_says(model: Any, kind: Any, scale: float, check: Any) -> None:
    changed = model.with_interventions([steer(kind, scale=scale)])
    before, after = (m.activations(CONTEXTS, layers=[1])[:, 0] for m in (model, changed))
    assert check(before, after)
    orthogonal = before - (before @ UNIT)[:, None] * UNIT
    if kind in ("ablate", "clamp"):
        assert torch.allclose(after - (after @ UNIT)[:, None] * UNIT, orthogonal, atol=1e-4)


def test_interventions_hold_in_every_call_and_leak_into_none(model: Any) -> None:
    hooks = [list(layer._forward_hooks) for layer in model.engine.layers]
    before = everything(model)
    steered = model.with_interventions([steer("add", scale=4.0)])
    changed = everything(steered)
    assert all(a != b for a, b in zip(before, changed, strict=True))
    assert everything(model) == before
    assert everything(steered) == changed
    assert [list(layer._forward_hooks) for layer in model.engine.layers] == hooks


def test_the_steered_module_itself_is_steered(model: Any) -> None:
    """Gradients and training through `module` see the intervention too."""
    ids = torch.tensor([model.encode("The quick")])
    steered = model.with_interventions([steer("add", scale=4.0)])
    with torch.no_grad():
        assert not torch.allclose(model.module(ids).logits, steered.module(ids).logits)


def test_weights_are_shared_between_handles(model: Any) -> None:
    steered = model.with_interventions([steer("add")])
    for a, b in zip(model.module.parameters(), steered.module.parameters(), strict=True):
        assert a is b


def test_interventions_stack_and_cancel(model: Any) -> None:
    there = model.with_interventions([steer("add", scale=2.0)])
    back = there.with_interventions([steer("add", scale=-2.0)])
    plain = model.activations(CONTEXTS, layers=[3])
    assert torch.allclose(back.activations(CONTEXTS, layers=[3]), plain, atol=1e-3)
    assert len({m.fingerprint for m in (model, there, back)}) == 3


def test_impossible_interventions_are_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="layer"):
        model.with_interventions([steer("add", layer=4)])
    with pytest.raises(UsageError, match="vector"):
        model.with_interventions([Intervention(kind="add", layer=0, vector=(1.0, 2.0))])
    with pytest.raises(UsageError, match="zero"):
        model.with_interventions([Intervention(kind="ablate", layer=0, vector=(0.0,) * 32)])


def test_adapters_hold_in_every_call_and_leak_into_none(
    model: Any, adapter: Path, folder: Path, tmp_path: Path
) -> None:
    before = everything(model)
    first = model.with_adapter(str(adapter), name="first")
    second = model.with_adapter(str(tiny_adapter(tmp_path / "b", folder, seed=2)), name="second")
    said = [everything(m) for m in (first, second)]
    assert all(a != b for one in said for a, b in zip(before, one, strict=True))
    assert all(a != b for a, b in zip(*said, strict=True))
    assert everything(model) == before
    assert [everything(m) for m in (first, second)] == said
    assert len({m.fingerprint for m in (model, first, second)}) == 3
    assert first.name == "first"


def test_an_adapter_is_what_peft_computes(model: Any, adapter: Path, folder: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(adapter)).eval()
    ids = torch.tensor([model.encode("The quick brown fox")])
    with torch.no_grad():
        expected = reference(ids).logits[0, -1].log_softmax(-1)
        got = model.with_adapter(str(adapter), name="a").module(ids).logits[0, -1].log_softmax(-1)
    assert torch.allclose(got, expected, atol=1e-4)


def test_an_adapted_model_can_be_steered(model: Any, adapter: Path) -> None:
    adapted = model.with_adapter(str(adapter), name="a")
    steered = adapted.with_interventions([steer("clamp", layer=2, scale=1.5)])
    along = steered.activations(CONTEXTS, layers=[2])[:, 0] @ UNIT
    assert torch.allclose(along, torch.full((2,), 1.5), atol=1e-4)
    assert steered.name == "a" and steered.fingerprint != adapted.fingerprint


def test_broken_adapters_are_refused(model: Any, tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(ModelFileError, match="no adapter"):
        model.with_adapter(str(tmp_path), name="x")
    with pytest.raises(FivefoldError, match="no adapter"):
        model.with_adapter(str(tmp_path / "missing"), name="x")
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes()[:100])
    with pytest.raises(ModelFileError, match="adapter"):
        model.with_adapter(str(tmp_path), name="x")


def test_fingerprints_are_stable_and_know_the_parts(model: Any, folder: Path) -> None:
    from fivefold.runtime.load import load

    again = load(str(folder))
    assert again.fingerprint == model.fingerprint
    low = load(str(folder), dtype="bfloat16")
    assert low.parts.dtype == "bfloat16" and low.parts.weights == model.parts.weights
    assert low.fingerprint != model.fingerprint


def test_a_fingerprint_follows_the_chat_template_and_the_weights(tmp_path: Path, model: Any) -> None:
    from _tiny import tiny_folder
    from fivefold.runtime.load import load

    other = load(str(tiny_folder(tmp_path / "seed", seed=7)))
    assert other.parts.weights != model.parts.weights and other.parts.tokenizer == model.parts.tokenizer
    templated = tiny_folder(tmp_path / "template")
    template = templated / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    changed = load(str(templated))
    assert changed.parts.chat_template != model.parts.chat_template
    assert changed.parts.weights == model.parts.weights
