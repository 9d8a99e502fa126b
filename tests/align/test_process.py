"""Process rewards: a rule about single steps is learnt and holds on answers not seen; scores are a reward like others."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fivefold.align._adapter import Lora, causal_lm
from fivefold.align._loop import TrainConfig
from fivefold.align._pack import Item
from fivefold.align._scalar import Scalar
from fivefold.align.best_of import best_of
from fivefold.align.data.steps import Reasoning, Steps, read_steps, step_ends, step_items
from fivefold.align.losses.process_reward import answer_score
from fivefold.align.process import ProcessConfig, ProcessModel, load_steps, outputs_of, train_steps
from fivefold.align.rewards import Sample, each
from fivefold.align.rl import RLConfig, reinforce
from fivefold.errors import DataError, TrainingError, UsageError
from fivefold.types import Message, user_case

GOOD, BAD = "the fox jumps", "quartz 9 0 1"


def reasonings(n: int, seed: int = 0) -> list[Reasoning]:
    """A step is right if it speaks of foxes; one in five is not labelled."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        right = [rng.random() < 0.5 for _ in range(rng.randint(1, 4))]
        steps = tuple(f"{rng.choice('abcdef')} {GOOD if r else BAD} {rng.choice('uvwxyz')}" for r in right)
        labels = tuple(r if rng.random() < 0.8 else None for r in right)
        labels = labels if any(v is not None for v in labels) else (right[0], *labels[1:])
        made.append(
            Reasoning(id=f"{seed}-{i}", messages=(Message(role="user", content=f"q {i}"),), steps=steps, labels=labels)
        )
    return made


def config(**changes: Any) -> ProcessConfig:
    given: dict[str, Any] = {"lr": 1e-2, "epochs": 3, "batch_items": 8, "row_tokens": 120, "checkpoint_steps": 1}
    return ProcessConfig(train=TrainConfig(loss="process_reward", adapter=Lora(r=4), **{**given, **changes}))


@pytest.fixture(scope="module")
def trained(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ProcessModel, Any, Path]:
    out = tmp_path_factory.mktemp("process")
    given, held_out = (step_items(model, reasonings(n, seed)) for n, seed in ((60, 0), (40, 1)))
    result = train_steps(model, given, config(), out, held_out=held_out)
    return load_steps(model, out), result, out


def test_a_rule_about_steps_is_learnt_and_holds_on_answers_not_seen(trained: Any) -> None:
    _, result, _ = trained
    assert sum(result.losses[-3:]) < 0.5 * sum(result.losses[:3])
    assert result.accuracy.metric == "step_accuracy" and result.accuracy.n_scored > 60
    assert result.accuracy.estimate > 0.9 and 0.8 < result.accuracy.low <= result.accuracy.estimate


def sample(model: Any, *steps: str) -> Sample:
    case = user_case("c", "q 7")
    tokens = model.tokenizer("\n".join(steps), add_special_tokens=False)["input_ids"]
    return Sample(case=case, text="\n".join(steps), tokens=(*tokens, 2), ended=True)


def test_scores_tell_good_reasoning_from_bad_and_name_the_wrong_step(trained: Any, model: Any) -> None:
    reward, _, _ = trained
    good, mixed = sample(model, f"a {GOOD} u", f"b {GOOD} v"), sample(model, f"a {GOOD} u", f"b {BAD} v")
    scores = reward([good, mixed])
    assert scores[0] > 0.5 > scores[1] and all(0 <= s <= 1 for s in scores)
    steps = reward.steps([good, mixed])
    assert [len(s) for s in steps] == [2, 2] and steps[1][0] > 0.5 > steps[1][1]
    assert scores == pytest.approx([math.prod(s) for s in steps], rel=1e-4)
    least = ProcessModel(model=model, scalar=reward.scalar, score="least", row_tokens=200)
    assert least([good, mixed]) == pytest.approx([min(s) for s in steps], rel=1e-4)
    assert reward([]) == []


def test_scores_are_those_of_the_loss_file() -> None:
    steps = torch.tensor([[0.3, -1.0, 2.0]])
    there = torch.tensor([[True, True, False]])
    p = [1 / (1 + math.exp(-v)) for v in (0.3, -1.0)]
    assert answer_score(steps, there).item() == pytest.approx(p[0] * p[1])
    assert answer_score(steps, there, "least").item() == pytest.approx(p[1])


def test_a_packed_row_gives_the_outputs_of_single_sequences(model: Any) -> None:
    scalar = Scalar.fresh(model.module, Lora(r=4), 1)
    given = step_items(model, reasonings(5))
    with torch.no_grad():
        outputs, there = outputs_of(scalar, given)
        for n, answer in enumerate(given):
            ids = torch.tensor([answer.item.prompt + answer.item.answers[0]])
            hidden = causal_lm(scalar.trained).base_model(input_ids=ids).last_hidden_state[0]
            places = [len(answer.item.prompt) + end - 1 for end in answer.ends]
            expected = scalar.head(hidden[places])[:, 0]
            torch.testing.assert_close(outputs[n][there[n]], expected, atol=1e-4, rtol=1e-4)


def test_steps_end_where_a_sample_breaks_its_lines(model: Any) -> None:
    for answer, given in zip(reasonings(20), step_items(model, reasonings(20)), strict=True):
        tokens = given.item.answers[0]
        assert step_ends(model.tokenizer, tokens) == given.ends
        whole = model.tokenizer.decode(tokens[: given.ends[0]])
        assert whole.strip("\n").removesuffix("<|im_end|>") == answer.steps[0]
    newline = model.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    word = model.tokenizer("fox", add_special_tokens=False)["input_ids"]
    assert step_ends(model.tokenizer, [newline, newline, *word, newline, newline, *word]) == (
        2 + len(word) + 1,
        2 * len(word) + 4,
    )
    assert step_ends(model.tokenizer, [newline]) == (1,), "an answer has at least one step"


def test_it_stops_early_goes_on_after_a_kill_and_is_found_again(model: Any, trained: Any, tmp_path: Path) -> None:
    given, held_out = (step_items(model, reasonings(n, seed)) for n, seed in ((24, 0), (12, 1)))
    settings = config(check_steps=2, patience=2, ema=0.5)

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    whole = train_steps(model, given, settings, tmp_path / "whole", held_out=held_out)
    with pytest.raises(KeyboardInterrupt):
        train_steps(model, given, settings, tmp_path / "broken", held_out=held_out, on_step=stop)
    again = train_steps(model, given, settings, tmp_path / "broken", held_out=held_out)
    assert again.losses == whole.losses
    assert json.loads(again.record.read_text())["weights"]["kind"] == "best"
    with pytest.raises(TrainingError, match="no finished process reward model"):
        load_steps(model, tmp_path / "nowhere")


def test_best_of_n_takes_the_best_and_leaves_out_what_has_no_score(model: Any) -> None:
    cases = [user_case(f"c{i}", text) for i, text in enumerate(["fox", "dog", "quartz"])]
    reward = each(lambda s: None if s.case.id == "c2" or s.tokens[0] > 250 else float(len(set(s.tokens))))
    found = best_of(model, cases, reward, 6, max_new_tokens=5, seed=3)
    assert [b.case.id for b in found] == ["c0", "c1", "c2"]
    for best in found[:2]:
        known = [r for r in best.rewards if r is not None]
        assert len(best.rewards) == 6 and best.reward == max(known) == float(len(set(best.sample.tokens)))
    assert found[2].sample is None and found[2].reward is None and found[2].rewards == (None,) * 6
    assert best_of(model, cases, reward, 6, max_new_tokens=5, seed=3) == found


def test_step_scores_are_a_reward_for_a_policy(model: Any, trained: Any, tmp_path: Path) -> None:
    """What a round is scored with is what the process reward model gives, and the policy moves by it."""
    reward, _, _ = trained
    given: list[list[float]] = []

    def scored(samples: Sequence[Sample]) -> list[float | None]:
        found = reward(samples)
        given.append([v for v in found if v is not None])
        return found

    train = TrainConfig(loss="grpo", adapter=Lora(r=4), lr=6e-2, batch_items=2, schedule="constant", warmup=0.0)
    settings = RLConfig(train=train, rounds=2, prompts=2, samples=4, max_new_tokens=3)
    run = reinforce(
        model, [user_case("a", "fox"), user_case("b", "dog")], scored, settings, tmp_path, reward_name="steps"
    )
    assert [len(of_round) for of_round in given] == [8, 8] and len(set(given[0])) > 4
    assert [h["reward"] for h in run.history] == pytest.approx([sum(g) / 8 for g in given], rel=1e-5)
    assert run.history[0]["kl"] == pytest.approx(0.0, abs=1e-3) and abs(run.history[1]["kl"]) > 0.01


def test_labelled_steps_are_read_from_files(tmp_path: Path, model: Any) -> None:
    rows = [
        {"prompt": "1 + 1?", "completions": ["one and one", "2"], "labels": [True, None]},
        {"messages": [{"role": "user", "content": "2 + 2?"}], "completions": ["5"], "labels": [False]},
    ]
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = read_steps(tmp_path / "a.jsonl")
    assert found == read_steps(tmp_path / "a.jsonl.gz")
    assert [r.labels for r in found] == [(True, None), (False,)] and found[0].messages[0].content == "1 + 1?"
    assert all(r.split in ("train", "dev", "test") for r in found)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "x", "completions": ["a"], "labels": [True, False]},
        {"prompt": "x", "completions": ["a"], "labels": [1]},
        {"prompt": "x", "completions": [], "labels": []},
        {"completions": ["a"], "labels": [True]},
    ],
)
def test_lines_that_are_no_labelled_answer_are_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.jsonl:1 is no labelled answer"):
        read_steps(tmp_path / "a.jsonl")


def test_answers_without_labels_and_losses_of_another_kind_are_refused(model: Any, tmp_path: Path) -> None:
    item = Item(prompt=(1, 2), answers=((3, 4),))
    for wrong in (
        Steps(item=item, ends=(2,), labels=(None,)),
        Steps(item=item, ends=(3,), labels=(True,)),
        Steps(item=item, ends=(1, 1), labels=(True, True)),
    ):
        with pytest.raises(DataError, match="answer 0 has no labelled steps"):
            train_steps(model, [wrong], config(), tmp_path)
    with pytest.raises(UsageError, match="does not learn from steps"):
        wrong_loss = ProcessConfig(train=TrainConfig(loss="reward"))
        train_steps(model, step_items(model, reasonings(3)), wrong_loss, tmp_path)
