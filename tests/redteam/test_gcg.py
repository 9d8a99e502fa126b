"""GCG against plain forwards of a tiny random Llama: equal losses and gradients, budgets, honesty about failure."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from _tiny import tiny_folder
from fivefold.errors import CapabilityError, ModelError, UnknownNameError, UsageError
from fivefold.redteam._gcg_forward import Packed, Plain
from fivefold.redteam._gcg_objective import Objective
from fivefold.redteam._gcg_prompt import SuffixPrompt, banned
from fivefold.redteam._gcg_search import Search
from fivefold.redteam.attacks.gcg import GCGConfig, attack, open_model
from fivefold.redteam.protocol import AttackBudget, Attempt
from fivefold.registry import registry
from fivefold.runtime._forward import Engine
from fivefold.runtime.load import load
from fivefold.runtime.protocol import Capability, Request
from fivefold.types import Case, Completion, Errored, Message, Outcome, Scored, digest, user_case

CASE = user_case("case", "What is the capital of France?")
OPTIONS: dict[str, Any] = {"width": 12, "topk": 64, "length": 3, "init": "!"}
GOAL = "Sure, the"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(str(tiny_folder(tmp_path_factory.mktemp("gcg") / "model")))


@pytest.fixture
def broken(tmp_path: Path) -> Any:
    """A model whose last layer gives NaN."""
    fresh = load(str(tiny_folder(tmp_path / "model")))
    fresh.module.model.norm.weight.data.fill_(float("nan"))
    return fresh


def never(case: Case, completion: Completion) -> Outcome:
    return Scored(value=0.0, label="refusal", judge="test")


def always(case: Case, completion: Completion) -> Outcome:
    return Scored(value=1.0, label="compliance", judge="test")


def prompt_of(model: Any, goal: str = GOAL) -> SuffixPrompt:
    return SuffixPrompt(model, CASE, "! ! !", goal)


def search_of(model: Any, seed: int = 0, **objective: Any) -> Search:
    prompt = prompt_of(model)
    generator = torch.Generator().manual_seed(seed)
    return Search(prompt, Objective(prompt, **objective), generator, width=24, topk=64, n_replace=1)


def run(model: Any, judge: Callable[..., Outcome] = never, seed: int = 0, **fields: Any) -> list[Attempt]:
    budget = AttackBudget(**{"steps": 4, "queries": 3, "max_new_tokens": 4, **fields.pop("budget", {})})
    made = attack(target_text=GOAL, **{**OPTIONS, **fields})
    return list(made.run(CASE, model, judge, budget, random.Random(seed)))


def naive_loss(model: Any, prompt: SuffixPrompt, suffix: Sequence[int]) -> float:
    """Cross-entropy of the goal from one whole forward over everything."""
    ids = torch.tensor([[*prompt.before, *suffix, *prompt.after, *prompt.goal]])
    with torch.no_grad():
        logits = model.module(input_ids=ids).logits[0]
    n = len(prompt.goal)
    return float(F.cross_entropy(logits[-n - 1 : -1], torch.tensor(prompt.goal)))


# -- where the suffix stands -------------------------------------------------------------------------------------------


def test_the_parts_make_up_what_generate_feeds(model: Any) -> None:
    prompt = prompt_of(model)
    asked = (Message(role="user", content=CASE.prompt + " ! ! !"),)
    assert [*prompt.before, *prompt.start, *prompt.after] == model.encode(asked)
    assert prompt.text(prompt.start) == " ! ! !"
    whole = [*prompt.before, *prompt.start, *prompt.after, *prompt.goal]
    assert whole == model.encode(asked, prefill=GOAL)


def test_a_suffix_that_merges_with_the_request_is_not_consistent(model: Any) -> None:
    prompt = SuffixPrompt(model, user_case("c", "What is th"), "! ! !", GOAL)
    e = model.tokenizer.encode("e", add_special_tokens=False)
    merging = (*e, *prompt.start[1:])
    assert not prompt.consistent(merging)
    assert prompt.surviving([merging, prompt.start]) == [prompt.start]


def test_a_suffix_that_merges_inside_itself_does_not_survive(model: Any) -> None:
    prompt = prompt_of(model)
    space, t, h, e = (model.tokenizer.encode(c, add_special_tokens=False)[0] for c in " the")
    assert prompt.surviving([(space, t, h, e), (space, e)]) == [(space, e)]


def test_a_template_that_strips_the_suffix_is_noticed(tmp_path: Path) -> None:
    trimming = load(str(tiny_folder(tmp_path / "model")))
    template = trimming.tokenizer.chat_template
    trimming.tokenizer.chat_template = template.replace("m['content']", "(m['content'] | trim)")
    prompt = prompt_of(trimming)
    space = trimming.tokenizer.encode(" ", add_special_tokens=False)
    ends_in_space = (*prompt.start[:-1], *space)
    assert prompt.consistent(prompt.start)
    assert not prompt.consistent(ends_in_space)


def test_an_initial_suffix_that_does_not_come_back_is_refused(model: Any) -> None:
    original = model.tokenizer.chat_template
    model.tokenizer.chat_template = original.replace("m['content']", "(m['content'] | upper)")
    try:
        with pytest.raises(UsageError, match="initial suffix"):
            SuffixPrompt(model, CASE, "a a", GOAL)
    finally:
        model.tokenizer.chat_template = original


def test_a_goal_without_tokens_of_its_own_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="no tokens of its own"):
        prompt_of(model, goal="")


def test_banned_tokens_are_special_or_not_printable_ascii(model: Any) -> None:
    tokenizer = model.tokenizer
    out = set(banned(tokenizer, 330, False))
    assert set(tokenizer.all_special_ids) <= out
    assert set(range(320, 330)) <= out
    for i in set(range(320)) - out:
        text = tokenizer.decode([i])
        assert text.isascii() and text.isprintable()
    assert len(banned(tokenizer, 330, True)) < len(out)


# -- losses and gradients ----------------------------------------------------------------------------------------------


def objectives(model: Any, **options: Any) -> dict[str, Objective]:
    """Every way to compute losses: packed rows, chunks on a cache (small and large), whole sequences."""
    prompt = prompt_of(model)
    packed = Objective(prompt, **options)
    assert isinstance(packed.forward, Packed)
    made = {"packed": packed, "packed small": Objective(prompt, batch_tokens=40, **options)}
    for name, size in (("chunks", None), ("small chunks", 40)):
        chunked = Objective(prompt, batch_tokens=size, **options)
        chunked.forward = chunked.plain
        made[name] = chunked
    made["whole"] = Objective(prompt, use_prefix_cache=False, **options)
    assert isinstance(made["whole"].forward, Plain)
    return made


@pytest.mark.parametrize("n_replace", [1, 3])
def test_losses_equal_whole_forwards(model: Any, n_replace: int) -> None:
    search = search_of(model)
    search.n_replace = n_replace
    candidates = [*map(tuple, search.draw(search.objective.at(search.prompt.start)).tolist()), search.prompt.start]
    expected = torch.tensor([naive_loss(model, search.prompt, c) for c in candidates])
    assert expected.std() > 0.01
    for name, objective in objectives(model).items():
        point = objective.at(search.prompt.start)
        for near in (point, None):
            found = objective.losses(candidates, near)
            torch.testing.assert_close(found.total, expected, atol=1e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(point.losses.total, expected[-1:], atol=1e-4, rtol=0)


def test_rows_side_by_side_give_the_same_losses(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(model)
    candidates = [tuple(c) for c in search.draw(search.objective.at(search.prompt.start)).tolist()]
    alone, together = (Objective(search.prompt, batch_tokens=40) for _ in range(2))
    together.forward = replace(together.forward, engine=replace(together.forward.engine, workers=2))
    assert together.forward.workers == 2 and alone.forward.workers == 1
    near = alone.at(search.prompt.start)
    expected = alone.losses(candidates, near)
    forward, seen = Engine.forward, set()

    def watched(self: Any, *args: Any) -> Any:
        seen.add(threading.current_thread().name)
        return forward(self, *args)

    monkeypatch.setattr(Engine, "forward", watched)
    found = together.losses(candidates, near)
    assert all("crew" in name for name in seen) and seen
    torch.testing.assert_close(found.total, expected.total, atol=1e-5, rtol=0)
    assert together.tokens > 0


def test_sharing_computes_fewer_tokens(model: Any) -> None:
    search = search_of(model)
    candidates = [tuple(c) for c in search.draw(search.objective.at(search.prompt.start)).tolist()]
    cost = {}
    for name, objective in objectives(model).items():
        point = objective.at(search.prompt.start)
        before = objective.tokens
        objective.losses(candidates, point)
        cost[name] = objective.tokens - before
    assert cost["packed"] == cost["packed small"] < cost["small chunks"] < cost["chunks"] < cost["whole"]


def naive_gradient(model: Any, prompt: SuffixPrompt, given: dict[str, Any] | None = None) -> torch.Tensor:
    """Gradient of goal loss and probe logit by one-hot tokens, through one whole forward."""
    table = model.module.get_input_embeddings().weight.detach()
    onehot = F.one_hot(torch.tensor(prompt.start), len(table)).float().requires_grad_()
    fixed = [table[list(ids)] for ids in (prompt.before, (*prompt.after, *prompt.goal))]
    inputs = torch.cat([fixed[0], onehot @ table, fixed[1]])[None]
    out = model.module(inputs_embeds=inputs, output_hidden_states=True)
    n = len(prompt.goal)
    loss = F.cross_entropy(out.logits[0, -n - 1 : -1], torch.tensor(prompt.goal))
    if given is not None:
        x = out.hidden_states[given["layer"] + 1][0, :-n]
        x = x[-1] if given["position"] == "last" else x[1:].mean(dim=0)
        vector, mean, scale = (torch.tensor(given[k]) for k in ("vector", "mean", "scale"))
        loss = loss + given["weight"] * ((x - mean) / scale @ vector + given["bias"] - given["margin"])
    return torch.autograd.grad(loss, onehot)[0]


@pytest.mark.parametrize("cached", [True, False])
def test_gradient_equals_autograd_through_one_hot_tokens(model: Any, cached: bool) -> None:
    prompt = prompt_of(model)
    expected = naive_gradient(model, prompt)
    point = Objective(prompt, use_prefix_cache=cached).at(prompt.start)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(point.gradient, expected, atol=1e-5, rtol=1e-4)


def greedily_matched(model: Any) -> tuple[Case, str]:
    """A case and a target of two tokens that the initial suffix already leads to."""
    for word in CASE.prompt.split():
        case = user_case("case", word)
        asked = SuffixPrompt(model, case, "! ! !", GOAL)
        (answer,) = model.generate([Request(messages=asked.messages(asked.start), max_new_tokens=2)])
        text = model.tokenizer.decode(answer.tokens)
        if text.isascii() and tuple(model.tokenizer.encode(text, add_special_tokens=False)) == answer.tokens:
            return case, text
    raise AssertionError("the random model says nothing that can be typed")


def test_matched_is_what_greedy_decoding_says(model: Any) -> None:
    case, text = greedily_matched(model)
    for goal, expected in ((text, True), (text + GOAL, False)):
        prompt = SuffixPrompt(model, case, "! ! !", goal)
        assert bool(Objective(prompt).at(prompt.start).losses.matched[0]) is expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(10, 19), min_size=1, max_size=40), st.integers(1, 200))
def test_every_candidate_is_computed_once_and_from_no_later_than_its_start(starts: list[int], limit: int) -> None:
    length = 25
    for cls in (Plain, Packed):
        rows = list(cls.plan(None, starts, length, limit))  # type: ignore[arg-type]
        seen = sorted(m for groups in rows for g in groups for m in g.members)
        assert seen == list(range(len(starts)))
        for groups in rows:
            assert all(g.start <= min(starts[m] for m in g.members) for g in groups)
            sizes = [len(g.members) * (length - g.start) for g in groups]
            assert sum(sizes) <= limit or len(groups) == 1


# -- penalties ---------------------------------------------------------------------------------------------------------


def probe(model: Any, position: str, weight: float = 1.0, margin: float = -100.0) -> dict[str, Any]:
    rng = random.Random(5)
    numbers = [[rng.gauss(0, 1) for _ in range(model.d_model)] for _ in range(2)]
    scale = [rng.uniform(0.5, 2) for _ in range(model.d_model)]
    return {
        "layer": 2, "vector": numbers[0], "mean": numbers[1], "scale": scale,
        "bias": 0.3, "position": position, "weight": weight, "margin": margin,
    }  # fmt: skip


def read_probe(model: Any, given: dict[str, Any], messages: tuple[Message, ...]) -> float:
    """The probe's logit from the runtime's own reading of activations."""
    x = model.activations([messages], layers=[given["layer"]], position=given["position"])[0, 0].double()
    vector, mean, scale = (torch.tensor(given[k], dtype=torch.float64) for k in ("vector", "mean", "scale"))
    return float(((x - mean) / scale) @ vector + given["bias"])


def penalties_of(*given: dict[str, Any]) -> tuple[Any, ...]:
    return attack(penalties=given).config.penalties


@pytest.mark.parametrize("position", ["last", "mean"])
def test_penalties_read_the_probe_as_activations_do(model: Any, position: str) -> None:
    given = probe(model, position)
    search = search_of(model)
    candidates = search.propose(search.objective.at(search.prompt.start))
    expected = torch.tensor([read_probe(model, given, search.prompt.messages(c)) for c in candidates])
    assert expected.std() > 0.01
    for name, objective in objectives(model, penalties=penalties_of(given)).items():
        found = objective.losses(candidates, objective.at(search.prompt.start))
        torch.testing.assert_close(found.probes[:, 0], expected, atol=1e-3, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(found.penalty, expected + 100, atol=1e-3, rtol=0)
        torch.testing.assert_close(found.total, found.goal + found.penalty)


@pytest.mark.parametrize("position", ["last", "mean"])
@pytest.mark.parametrize("cached", [True, False])
def test_penalties_are_in_the_gradient(model: Any, position: str, cached: bool) -> None:
    prompt, given = prompt_of(model), probe(model, position)
    expected = naive_gradient(model, prompt, given)
    assert (expected - naive_gradient(model, prompt)).abs().max() > 0.1
    point = Objective(prompt, penalties=penalties_of(given), use_prefix_cache=cached).at(prompt.start)
    torch.testing.assert_close(point.gradient, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("position", ["last", "mean"])
def test_a_penalised_search_lowers_the_probe(model: Any, position: str) -> None:
    given = probe(model, position, weight=2.0)
    logits = {}
    for name, weight in (("unaware", 0.0), ("aware", 2.0)):
        search = search_of(model, penalties=penalties_of({**given, "weight": weight}))
        *_, last = search.run(8)
        logits[name] = read_probe(model, given, search.prompt.messages(last.suffix))
        assert logits[name] == pytest.approx(last.probes[0], abs=1e-3)
    start = read_probe(model, given, search.prompt.messages(search.prompt.start))
    assert logits["aware"] < logits["unaware"]
    assert logits["aware"] < start


def test_a_content_penalty_costs_nothing(model: Any) -> None:
    search = search_of(model, penalties=penalties_of(probe(model, "last", margin=1e6)))
    plain = search_of(model)
    assert [f.suffix for f in search.run(3)] == [f.suffix for f in plain.run(3)]


@pytest.mark.parametrize(
    "change", [{"layer": 9}, {"vector": [1.0]}, {"mean": [0.0, 1.0]}, {"scale": 0.0}, {"position": "first"}]
)
def test_penalties_that_do_not_fit_are_refused(model: Any, change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(model, penalties=[{**probe(model, "last"), **change}])


# -- the search --------------------------------------------------------------------------------------------------------


def test_the_loss_falls_and_is_the_loss_of_what_is_sent(model: Any) -> None:
    search = search_of(model)
    found = list(search.run(8))
    assert [f.step for f in found] == list(range(9))
    assert min(f.loss for f in found[1:]) < found[0].loss - 0.05
    for f in found:
        assert search.prompt.consistent(f.suffix)
        assert f.loss == pytest.approx(naive_loss(model, search.prompt, f.suffix), abs=1e-4)


def test_the_step_takes_the_best_candidate(model: Any) -> None:
    search = search_of(model)
    _, found = search.run(1)
    again = search_of(model)
    candidates = again.propose(again.objective.at(again.prompt.start))
    losses = [naive_loss(model, again.prompt, c) for c in candidates]
    assert found.suffix == candidates[losses.index(min(losses))]
    assert found.candidates == len(candidates) == len(set(candidates))


def test_the_prefix_cache_changes_nothing(model: Any) -> None:
    fast, slow = (list(search_of(model, use_prefix_cache=on).run(4)) for on in (True, False))
    assert [f.suffix for f in fast] == [f.suffix for f in slow]
    assert [f.loss for f in fast] == pytest.approx([f.loss for f in slow], abs=1e-4)


def test_candidates_change_as_many_places_as_asked_by_promising_tokens(model: Any) -> None:
    search = search_of(model)
    point = search.objective.at(search.prompt.start)
    allowed = point.gradient.clone()
    allowed[:, search.banned] = float("inf")
    promising = [set(row.tolist()) for row in (-allowed).topk(search.topk).indices]
    search.n_replace = 2
    for candidate in search.draw(point).tolist():
        changed = [i for i, (a, b) in enumerate(zip(candidate, point.suffix, strict=True)) if a != b]
        assert len(changed) <= 2
        assert all(candidate[i] in promising[i] for i in changed)


def test_equal_seeds_give_equal_attempts(model: Any) -> None:
    def facts(seed: int) -> list[Any]:
        return [(a.messages, a.completion, a.loss, a.tokens) for a in run(model, seed=seed)]

    assert facts(1) == facts(1)
    assert facts(1) != facts(2)


# -- attempts, budgets, failure ----------------------------------------------------------------------------------------


def test_attempts_say_what_was_sent_and_what_it_cost(model: Any) -> None:
    attempts = run(model)
    assert len(attempts) == 3
    for a in attempts:
        (message,) = a.messages
        assert message.content == CASE.prompt + a.metadata["suffix"]
        assert a.completion == model.generate([Request(messages=a.messages, max_new_tokens=4)])[0]
        assert a.loss == a.metadata["loss"] and a.tokens > 100 and a.queries == 1
        digest(a)
    searched = attempts[-1].metadata["search_tokens"]
    generated = sum(a.completion.usage.prompt + a.completion.usage.completion for a in attempts if a.completion)
    assert sum(a.tokens for a in attempts) == searched + generated


@pytest.mark.parametrize(("steps", "queries"), [(0, 3), (5, 1), (5, 2), (6, 3), (3, 50)])
def test_steps_and_queries_are_bounds(model: Any, steps: int, queries: int) -> None:
    attempts = run(model, budget={"steps": steps, "queries": queries})
    assert 1 <= len(attempts) <= queries
    assert max(a.metadata["step"] for a in attempts) <= steps
    suffixes = [a.metadata["suffix"] for a in attempts]
    assert len(suffixes) == len(set(suffixes))


def test_tests_come_as_often_as_asked(model: Any) -> None:
    steps = [a.metadata["step"] for a in run(model, check_every=3, budget={"steps": 7, "queries": 9})]
    assert len(steps) == 3 and all(s <= at for s, at in zip(steps, (3, 6, 7), strict=True))
    assert len(run(model, budget={"steps": 6, "queries": 3})) == 3


def test_no_queries_no_attempts(model: Any) -> None:
    assert run(model, budget={"queries": 0}) == []


def test_seconds_are_a_bound_and_the_best_suffix_is_still_tested(model: Any) -> None:
    (attempt,) = run(model, budget={"steps": 10_000, "queries": 2, "seconds": 0.0})
    assert attempt.metadata["step"] == 0


def test_the_first_success_ends_the_attack(model: Any) -> None:
    attempts = run(model, judge=always)
    assert len(attempts) == 1
    assert attempts[0].metadata["step"] < 4


def test_early_stop_ends_with_the_first_match(model: Any) -> None:
    case, goal = greedily_matched(model)
    budget = AttackBudget(steps=4, queries=4, max_new_tokens=4)
    for early, expected in ((True, 1), (False, 4)):
        made = attack(early_stop=early, target_text=goal, **OPTIONS)
        attempts = list(made.run(case, model, never, budget, random.Random(0)))
        assert attempts[0].metadata["matched"] and attempts[0].metadata["step"] == 0
        assert len(attempts) == expected


def test_a_loss_that_is_not_a_number_is_an_error(broken: Any) -> None:
    (attempt,) = run(broken, judge=always)
    assert isinstance(attempt.outcome, Errored) and "not finite" in attempt.outcome.error
    assert attempt.completion is None and attempt.loss is None and attempt.queries == 0


def test_a_judge_that_fails_is_neither_hit_nor_pass(model: Any) -> None:
    attempts = run(model, judge=lambda case, completion: Errored(error="judge down"))
    assert len(attempts) == 3 and all(isinstance(a.outcome, Errored) for a in attempts)


@pytest.mark.parametrize("name", ["scripted:echo", "scripted:refuse", "scripted:comply"])
def test_closed_models_are_refused(name: str) -> None:
    with pytest.raises(CapabilityError, match="gradients"):
        run(load(name), judge=always)


class Refusing:
    """A wrapper that answers every request with a refusal: a guard that blocks all."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.asked = inner, list[Request]()
        self.name, self.fingerprint = "guarded", "f" * 64
        self.capabilities = frozenset({Capability.GENERATE})

    def generate(self, requests: Sequence[Request], *, on_done: Any = None) -> list[Completion]:
        self.asked += requests
        return [Completion(text="No.", model=self.fingerprint, stop_reason="filtered") for _ in requests]

    def log_likelihood(self, pairs: Any) -> Any:
        raise NotImplementedError


def test_the_test_goes_through_the_wrapper(model: Any) -> None:
    guarded = Refusing(Refusing(model))
    assert open_model(guarded) is model
    attempts = run(guarded)
    assert [a.completion.text for a in attempts if a.completion] == ["No."] * 3
    assert [r.messages for r in guarded.asked] == [a.messages for a in attempts]


# -- options -----------------------------------------------------------------------------------------------------------


def test_it_is_registered() -> None:
    made = registry("attack").module("gcg").attack()
    assert made.name == "gcg" and made.needs == {Capability.GENERATE, Capability.GRADIENTS}


def test_unknown_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="width"):
        attack(widht=3)
    with pytest.raises(UnknownNameError, match="layer"):
        attack(penalties=[{"layr": 3}])


@pytest.mark.parametrize("name", ["width", "topk", "n_replace", "length", "check_every", "batch_tokens"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        attack(**{name: 0})


def test_the_target_follows_the_language_and_the_case() -> None:
    config = GCGConfig()
    korean = replace(CASE, language="ko")
    assert config.target_for(CASE) == "Sure, here is"
    assert config.target_for(korean) != config.target_for(CASE)
    assert config.target_for(replace(CASE, language="sw")) == config.target_for(CASE)
    assert config.target_for(replace(korean, metadata={"target_text": "Yes"})) == "Yes"
    with pytest.raises(UsageError, match="sw"):
        GCGConfig(target_text={"ko": "네"}).target_for(replace(CASE, language="sw"))


def test_importing_the_attack_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, fivefold.redteam.attacks.gcg; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
