"""The patch recipe end to end on a tiny model: data, two stages, resume, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fivefold.align._adapter import Lora
from fivefold.align.data.sources import SafeAnswer
from fivefold.align.recipes.patch import Mix, PatchConfig, PatchProgress, patch
from fivefold.align.train import TrainConfig
from fivefold.errors import DataError
from fivefold.types import Case, Completion, split_of, user_case

SAFE = [SafeAnswer(category="c", language="en", text=f"No, I cannot {w}.") for w in ("go", "jump", "judge")]
LORA = Lora(r=4, from_layer=1)
TINY = PatchConfig(
    mix={"en": Mix(framed=2, prefilled=2, everyday=2, contrast=2, own_tokens=8)},
    sft=TrainConfig(loss="sft", adapter=LORA, lr=1e-2, batch_items=4),
    preference=TrainConfig(loss="rpo", reference="start", adapter=LORA, lr=1e-3, batch_items=4),
    prefill_tokens=2,
)


def cases(kind: str, n: int = 5, split: str = "train") -> list[Case]:
    names = [f"b{i}" for i in range(200) if split_of(f"b{i}") == split][:n]
    words = ("fox", "dog", "jump", "quartz", "zebra", "box", "lazy", "brown")
    return [
        user_case(f"{kind}/{b}", f"{kind} {words[i % 8]} {b}?", behaviour=b, category="c") for i, b in enumerate(names)
    ]


def run(model: Any, out: Path, config: PatchConfig = TINY, **more: Any) -> Any:
    settings = {
        "harms": cases("harm"),
        "benign": cases("twin"),
        "safe": SAFE,
        "everyday": cases("day", 3),
        "contrast": cases("contrast", 3),
        **more,
    }
    return patch(model, out=out, config=config, **settings)


def test_both_stages_run_and_the_result_can_be_loaded(model: Any, tmp_path: Path) -> None:
    seen: list[PatchProgress] = []
    result = run(model, tmp_path, on_step=seen.append)
    assert list(result.stages) == ["sft", "preference"]
    assert result.path == tmp_path / "preference" / "adapter"
    assert len(result.losses) == len(seen) and {p.stage for p in seen} == {"sft", "preference"}
    assert model.with_adapter(str(result.path), name="patched").fingerprint != model.fingerprint
    examples = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    assert sum(result.groups.values()) == len(examples)
    assert sum(e["messages"][-1]["content"].startswith("contrast") for e in examples) == 2
    assert any(e["frame"] for e in examples) and any(e["prefill"] for e in examples)


def test_a_second_call_does_nothing_again(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(model, tmp_path)
    monkeypatch.setattr(type(model), "generate", lambda *_: pytest.fail("generated again"))
    seen: list[PatchProgress] = []
    again = run(model, tmp_path, on_step=seen.append)
    assert seen == [] and again.losses == first.losses and again.path == first.path


def test_known_answers_are_not_asked_for_again(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(TINY, mix={"en": Mix(own_tokens=8)}, preference=None)
    known = {c.id: Completion(text="The quick brown fox", model="m") for c in [*cases("harm"), *cases("twin")]}
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: pytest.fail("generated"))
    result = run(model, tmp_path, config, answers=known)
    assert result.groups == {"benign/en": 5, "harmful/en": 5}


def test_what_is_tested_is_not_trained_on(model: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held out"):
        run(model, tmp_path, harms=cases("harm", split="test"))
    with pytest.raises(DataError, match="repeat held-out"):
        run(model, tmp_path, held_out=[replace(c, behaviour="elsewhere") for c in cases("harm")])


def test_a_language_without_cases_is_an_error(model: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no cases to train on"):
        run(model, tmp_path, replace(TINY, mix={"fr": Mix()}))


def test_a_benign_request_that_the_model_refuses_is_sampled_again(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[float, int]] = []

    def generate(self: Any, requests: Any, **_: Any) -> list[Completion]:
        asked.extend((r.temperature, r.seed) for r in requests)
        helps = "Here is how you can do it: first read the page, then write down what you need."
        texts = [helps if r.temperature and r.seed == 1 else "I cannot help with that." for r in requests]
        return [Completion(text=t, model="m") for t in texts]

    monkeypatch.setattr(type(model), "generate", generate)
    config = replace(TINY, mix={"en": Mix(own_tokens=120)}, preference=None, resample=3)
    result = run(model, tmp_path, config)
    assert result.groups == {"benign/en": 5, "harmful/en": 5}
    assert asked.count((0.0, 0)) == 10 and asked.count((0.8, 0)) == asked.count((0.8, 1)) == 5
    assert (0.8, 2) not in asked, "what has been found is not asked for again"
