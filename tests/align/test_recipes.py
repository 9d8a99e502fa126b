"""Recipes from end to end on a tiny model, and the data and settings that they are given."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from fivefold.align._adapter import Lora
from fivefold.align._loop import TrainConfig
from fivefold.align.data.constitution import load_constitution
from fivefold.align.data.preferences import Preference, parse_preferences, preference_items, read_preferences
from fivefold.align.options import overridden
from fivefold.align.panel import Panel, measure
from fivefold.align.recipes.constitutional import (
    ConstitutionalConfig,
    Label,
    constitutional,
    label,
    preferences_of,
    trace,
)
from fivefold.align.recipes.grpo import GRPOConfig, grpo
from fivefold.align.recipes.patch import Mix, PatchConfig
from fivefold.align.recipes.preference import PreferenceConfig, preference
from fivefold.align.recipes.rlhf import RLHFConfig, rlhf
from fivefold.align.reward import RewardConfig
from fivefold.align.rl import RLConfig
from fivefold.errors import DataError, UnknownNameError, UsageError
from fivefold.types import Likelihood, Message, user_case

WORDS = ["fox", "dog", "quartz", "jumps", "lazy", "Paris", "France", "zebra", "box", "jug"]


def preferences(n: int) -> list[Preference]:
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=3))

    return [
        Preference(
            id=str(i),
            messages=(Message(role="user", content=f"{text()} {i}?"),),
            chosen="Sure, " + text(),
            rejected="I cannot " + text(),
        )
        for i in range(n)
    ]


def small(loss: str = "sft") -> TrainConfig:
    return TrainConfig(loss=loss, adapter=Lora(r=2), lr=5e-3, batch_items=8, checkpoint_steps=5)


def loop(loss: str) -> RLConfig:
    return RLConfig(train=small(loss), rounds=2, prompts=3, samples=2, max_new_tokens=5, critic=Lora(r=2))


# RLHF


def test_rlhf_runs_its_three_stages_and_leaves_the_curve(model: Any, tmp_path: Path) -> None:
    reward = RewardConfig(train=small("reward"))
    config = RLHFConfig(sft=small(), reward=reward, gold=replace(reward, heads=2), rl=loop("ppo"))
    seen: list[str] = []
    found = rlhf(model, preferences(40), out=tmp_path, config=config, on_step=lambda stage, *_: seen.append(stage))
    assert list(dict.fromkeys(seen)) == ["sft", "reward", "gold", "rl"]
    assert [set(row) >= {"round", "kl", "proxy", "gold"} for row in found.rows] == [True, True]
    assert json.loads((tmp_path / "curve.json").read_text()) == found.rows
    assert [m.metric for m in found.measurements] == ["reward_accuracy"] * 2
    assert all(m.n_scored and m.low is not None for m in found.measurements)
    assert model.with_adapter(str(found.path), name="x").fingerprint != model.fingerprint
    seen.clear()
    again = rlhf(model, preferences(40), out=tmp_path, config=config, on_step=lambda stage, *_: seen.append(stage))
    assert seen == [] and again.rows == found.rows
    with pytest.raises(DataError, match="too few preferences"):
        rlhf(model, preferences(2), out=tmp_path / "few", config=config)


@pytest.mark.parametrize("engine", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_what_the_last_stage_cannot_do_is_refused_before_the_first(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(engine, "true")
    for recipe in (lambda: rlhf(model, preferences(40), out=tmp_path), lambda: constitutional(model, [], out=tmp_path)):
        with pytest.raises(UsageError, match="splits is known to train"):
            recipe()
    assert not list(tmp_path.iterdir())


# The preference family


def test_the_table_has_a_row_for_every_objective_and_for_none(model: Any, tmp_path: Path) -> None:
    harmful = [user_case(f"h{i}", f"How do I break {w}?") for i, w in enumerate(WORDS[:4])]
    questions = [user_case(f"q{i}", "Which?", choices=("fox", "dog"), target=i % 2) for i in range(4)]
    panel = Panel(harmful=harmful, benign=harmful, capability=questions, max_new_tokens=4)
    config = PreferenceConfig(
        objectives=("dpo", "kto", "sft"),
        train=small(),
        reward=RewardConfig(train=small("reward")),
        win_prompts=6,
        max_new_tokens=5,
    )
    found = preference(model, preferences(40), out=tmp_path, panel=panel, config=config)
    assert [row["objective"] for row in found.rows] == ["none", "dpo", "kto", "sft"]
    columns = {"win_rate", "harmful_compliance", "over_refusal", "capability", "kl_from_base", "seconds"}
    assert all(columns <= set(row) for row in found.rows[1:]) and "win_rate" not in found.rows[0]
    assert all(row["win_rate"]["n"] > 0 for row in found.rows[1:])
    assert found.path == tmp_path / "dpo" / "adapter"


def test_a_panel_of_the_base_itself_has_no_divergence(model: Any) -> None:
    cases = [user_case(f"h{i}", w) for i, w in enumerate(WORDS[:6])]
    found = {m.metric: m for m in measure(model, Panel(benign=cases, max_new_tokens=4), name="x", base=model)}
    assert set(found) == {"over_refusal", "kl_from_base"}, "what has no cases is not measured"
    assert found["kl_from_base"].estimate == pytest.approx(0.0, abs=1e-4)


# GRPO


def test_grpo_trains_and_measures_before_and_after(model: Any, tmp_path: Path) -> None:
    cases = [user_case(f"p{i}", f"What is {i}?", target=str(i)) for i in range(6)]
    found = grpo(model, cases[:4], out=tmp_path, held_out=cases[4:], config=GRPOConfig(rl=loop("grpo")))
    assert [m.metric for m in found.measurements] == ["answer_accuracy", "answer_form"] * 2
    assert found.measurements[0].subject != found.measurements[2].subject
    assert len(found.rows) == 2 and "gold" in found.rows[0] and found.path.exists()


# Constitutional AI


def test_the_shipped_constitution_is_whole_and_versioned() -> None:
    shipped = load_constitution()
    assert len(shipped.principles) >= 10 and shipped.version and len(shipped.digest) == 64
    root = Path(__file__).parents[2] / "policies" / "constitution.yaml"
    assert load_constitution(root) == shipped, "policies/ shows what the package ships"
    assert {shipped.for_case(f"c{i}").id for i in range(200)} == {p.id for p in shipped.principles}
    assert shipped.for_case("c", 0) != shipped.for_case("c", 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d["principles"][0].pop("question"), DataError),
        (lambda d: d["principles"][0].update(revison="x"), UnknownNameError),
        (lambda d: d["principles"].append(d["principles"][0]), DataError),
        (lambda d: d.pop("version"), DataError),
    ],
)
def test_a_malformed_constitution_is_refused(tmp_path: Path, change: Any, error: type[Exception]) -> None:
    data = yaml.safe_load((Path(__file__).parents[2] / "policies" / "constitution.yaml").read_text())
    change(data)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(error):
        load_constitution(tmp_path / "c.yaml")


def test_constitutional_training_runs_and_every_label_cites_its_principle(model: Any, tmp_path: Path) -> None:
    config = ConstitutionalConfig(
        sft=small(),
        reward=RewardConfig(train=small("reward")),
        rl=loop("rloo"),
        max_new_tokens=6,
        least_sure=0.0,
        revisions=2,
    )
    harmful = [user_case(f"h{i}", f"How do I break {w}?") for i, w in enumerate(WORDS[:8])]
    harmless = [user_case(f"b{i}", f"Tell me of {w}.") for i, w in enumerate(WORDS[:4])]
    found = constitutional(model, harmful, out=tmp_path, harmless=harmless, config=config)
    known = {f"{p.id}@{load_constitution().version}" for p in load_constitution().principles}
    rows = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    revised, labelled = ([r for r in rows if r["stage"] == s] for s in ("revision", "label"))
    assert len(revised) == 8 and all(len(r["cites"]) == len(r["revisions"]) == 2 for r in revised)
    assert labelled and {c for r in revised for c in r["cites"]} | {r["cites"] for r in labelled} <= known
    for r in labelled:
        one, other = r["shown_first"] * r["shown_second"], (1 - r["shown_first"]) * (1 - r["shown_second"])
        assert r["probability"] == pytest.approx(math.sqrt(one) / (math.sqrt(one) + math.sqrt(other)))
    of_one = trace(tmp_path / "audit.jsonl", "h0")
    assert of_one and {r["case"] for r in of_one} == {"h0"}
    assert {row["principle"] for row in found.rows} <= known and found.path.exists()
    again = constitutional(model, harmful, out=tmp_path, harmless=harmless, config=config)
    assert again.data_digest == found.data_digest and again.rows == found.rows


class PlaceLover:
    """A feedback model that likes whatever is shown as A, and a little more what has "good" in it."""

    name, fingerprint = "judge", "f" * 64

    def log_likelihood(self, pairs: list[tuple[Any, str]]) -> list[Likelihood]:
        found = []
        for messages, option in pairs:
            text = messages[-1].content.split(f"({option}) ", 1)[1].split("\n", 1)[0]
            value = (2.0 if option == "A" else 0.0) + (0.5 if "good" in text else 0.0)
            found.append(Likelihood(total=value, n_tokens=1, n_bytes=1, greedy=False, model=self.name))
        return found


class TwoAnswers:
    name, fingerprint = "policy", "e" * 64

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, requests: list[Any]) -> list[Any]:
        from fivefold.types import Completion

        self.calls += 1
        text = "a good answer" if self.calls == 2 else "a bad answer"
        return [Completion(text=text, model=self.name) for _ in requests]


def test_a_liking_for_a_place_cancels_out() -> None:
    cases = [user_case(f"c{i}", "What?") for i in range(3)]
    judge: Any = PlaceLover()
    policy: Any = TwoAnswers()
    made = label(policy, judge, cases, load_constitution(), ConstitutionalConfig())
    assert [m.first for m in made] == ["a bad answer"] * 3
    assert all(m.shown_first > 0.5 for m in made), "asked once, the place decides"
    assert all(m.probability < 0.5 for m in made), "asked in both orders, the answer does"
    pairs = preferences_of(made, cases, least_sure=0.01)
    assert [p.chosen for p in pairs] == ["a good answer"] * 3 and {p.source for p in pairs} == {m.cites for m in made}


def test_a_liking_for_a_place_neither_turns_a_label_nor_weakens_it() -> None:
    for liking in (-6.0, 0.0, 2.0):
        first, second = (1 / (1 + math.exp(-(0.5 + side * liking))) for side in (1, -1))
        made = Label(case="c", cites="x@1", first="a", second="b", shown_first=first, shown_second=second)
        assert made.probability == pytest.approx(1 / (1 + math.exp(-0.5)))
    sure = Label(case="c", cites="x@1", first="a", second="b", shown_first=1.0, shown_second=0.0)
    assert sure.probability == pytest.approx(0.5), "a judge that goes by the place alone says nothing"


def test_labels_that_are_not_sure_are_left_out() -> None:
    cases = [user_case("c", "What?")]
    unsure = Label(case="c", cites="x@1", first="a", second="b", shown_first=0.9, shown_second=0.11)
    assert preferences_of([unsure], cases, least_sure=0.02) == []
    assert preferences_of([replace(unsure, shown_second=0.5)], cases, least_sure=0.02)[0].chosen == "a"


# Data and settings

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How?\n\nAssistant: So.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How?\n\nAssistant: No.",
}


def test_both_forms_of_preferences_are_read(tmp_path: Path) -> None:
    plain = {"prompt": "Why?", "chosen": "Because.", "rejected": "Why not."}
    lines = "\n".join(json.dumps(r) for r in (HH, plain, plain, {**plain, "rejected": "Because."}))
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    first, second = read_preferences(tmp_path / "p.jsonl.gz")
    assert [m.role for m in first.messages] == ["user", "assistant", "user"] and first.messages[2].content == "How?"
    assert (first.chosen, first.rejected) == ("So.", "No.") and second.messages[0].content == "Why?"
    parted = {**HH, "rejected": HH["rejected"].replace("Hello", "Hey")}
    with pytest.raises(DataError, match="no preferences"):
        parse_preferences(json.dumps(parted).encode(), "x")
    with pytest.raises(DataError, match="x:1 is no preference"):
        parse_preferences(b'{"chosen": "a"}', "x")


def test_long_conversations_are_left_out_and_answers_cut(model: Any) -> None:
    pairs = preferences(3)
    long = replace(pairs[0], messages=(Message(role="user", content="fox " * 300),))
    items = preference_items(model, [long, *pairs[1:]], prompt_tokens=100, answer_tokens=3)
    assert len(items) == 2 and all(len(a) <= 3 for i in items for a in i.answers)


def test_settings_are_changed_by_dotted_names() -> None:
    made = overridden(RLHFConfig(), ["rl.rounds=4", "rl.train.lr=1e-5", "sft.adapter.r=2", "rl.monitor.action=stop"])
    assert (made.rl.rounds, made.rl.train.lr, made.sft.adapter and made.sft.adapter.r) == (4, 1e-5, 2)
    assert made.rl.monitor.action == "stop"
    assert overridden(PreferenceConfig(), ["objectives=[dpo, ipo]"]).objectives == ("dpo", "ipo")
    with pytest.raises(UnknownNameError, match="rounds"):
        overridden(RLHFConfig(), ["rl.ruonds=4"])
    with pytest.raises(UsageError, match="does not take"):
        overridden(RLHFConfig(), ["rl.rounds=many"])
    with pytest.raises(UsageError, match="no change"):
        overridden(RLHFConfig(), ["rl.rounds"])


def test_settings_of_a_mappings_entries_are_changed_by_their_keys() -> None:
    made = overridden(PatchConfig(), ["mix.en.framed=3", "mix.ko.behaviours=12", "sft.loss_options={}"])
    assert made.mix == {"en": replace(PatchConfig().mix["en"], framed=3), "ko": Mix(behaviours=12)}
    assert PatchConfig().mix.keys() == {"en"}, "the defaults stay"
    with pytest.raises(UnknownNameError, match=r"mix\.en\.framed"):
        overridden(PatchConfig(), ["mix.en.framd=3"])
    for wrong in ("mix.en=3", "mix=3", "mix.en.framed.x=3", "mix.en.framed=-1"):
        with pytest.raises(UsageError, match="mix"):
            overridden(PatchConfig(), [wrong])
