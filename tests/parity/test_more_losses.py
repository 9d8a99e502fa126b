"""Reward, rollout, representation and distillation losses against their formulas in plain Python, and their gradients
against differences of those formulas. None of it shares code with the product."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fivefold.align.losses import _rollout, circuit_breaker, dapo, online_dpo, ppo, process_reward, rmu, safe_rlhf
from fivefold.align.losses._base import Activations, Answers, Distributions, Scores, config_of, load
from fivefold.align.losses._rollout import Rollout, Sampled

Rows = list[list[float]]


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def check_gradient(value: Callable[[Tensor], Tensor], reference: Callable[[Rows], float], at: Rows) -> None:
    """Loss and gradient at `at` agree with the reference and with its central differences."""
    x = tensor(at).requires_grad_(True)
    made = value(x)
    assert made.item() == pytest.approx(reference(at), rel=1e-8, abs=1e-12)
    made.backward()
    assert x.grad is not None
    for i, row in enumerate(at):
        for j, kept in enumerate(row):
            sides = []
            for step in (1e-5, -1e-5):
                row[j] = kept + step
                sides.append(reference(at))
            row[j] = kept
            assert float(x.grad[i, j]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4, abs=1e-7), (i, j)


# Reward models


def draw(n: int, m: int, low: float = -2, high: float = 2, seed: int = 0) -> Rows:
    rng = random.Random(seed)
    return [[rng.uniform(low, high) for _ in range(m)] for _ in range(n)]


@pytest.mark.parametrize("centre", [0.0, 0.3])
@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 1.2]])
def test_bradley_terry(centre: float, margins: list[float] | None) -> None:
    chosen, rejected = draw(3, 2), draw(3, 2, seed=1)
    module = load("reward")

    def reference(w: Rows) -> float:
        parts = []
        for i in range(3):
            for k in range(2):
                m = margins[i] if margins else 0.0
                parts.append(-log_sigmoid(w[i][k] - rejected[i][k] - m) + centre * (w[i][k] + rejected[i][k]) ** 2)
        return mean(parts)

    def ours(w: Tensor) -> Tensor:
        margin = None if margins is None else tensor(margins)
        loss: Tensor = module.loss(Scores(w, margin), Scores(tensor(rejected)), module.Config(centre=centre)).loss
        return loss

    check_gradient(ours, reference, chosen)


def test_an_ensemble_that_disagrees_is_trusted_less() -> None:
    module = load("reward")
    values = tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    assert module.spread(values).tolist() == pytest.approx([0.0, statistics.pstdev([0, 1, 2])])
    assert module.pessimistic(values, 0.5).tolist() == pytest.approx([1.0, 1.0 - 0.5 * statistics.pvariance([0, 1, 2])])


def test_the_uncertain_reward_model_is_a_probit() -> None:
    rejected, module = draw(3, 2, seed=1), load("reward_uncertainty")
    normal = statistics.NormalDist()

    def sigma(s: float) -> float:
        return math.log1p(math.exp(s)) + 1e-3

    def reference(w: Rows) -> float:
        z = [(a[0] - b[0]) / math.hypot(sigma(a[1]), sigma(b[1])) for a, b in zip(w, rejected, strict=True)]
        return -mean([math.log(normal.cdf(x)) for x in z])

    check_gradient(
        lambda w: module.loss(Scores(w), Scores(tensor(rejected)), module.Config()).loss, reference, draw(3, 2)
    )


def test_the_cost_model_ranks_and_places() -> None:
    module, rejected = load("cost"), draw(3, 1, seed=1)
    unsafe = [(True, True), (True, False), (False, False)]

    def reference(w: Rows) -> float:
        parts = []
        for (a,), (b,), (u, v) in zip(w, rejected, unsafe, strict=True):
            placed = log_sigmoid(a if u else -a) + log_sigmoid(b if v else -b)
            parts.append(-log_sigmoid(a - b) - placed)
        return mean(parts)

    first, second = (torch.tensor(x) for x in zip(*unsafe, strict=True))
    check_gradient(
        lambda w: module.loss(Scores(w, unsafe=first), Scores(tensor(rejected), unsafe=second), module.Config()).loss,
        reference,
        draw(3, 1),
    )


def test_process_rewards_are_judged_step_by_step() -> None:
    right = [[True, True, False], [True, False, False]]
    labelled = [[True, True, True], [True, True, False]]

    def reference(z: Rows) -> float:
        parts = [
            -log_sigmoid(z[i][s] if right[i][s] else -z[i][s]) for i in range(2) for s in range(3) if labelled[i][s]
        ]
        return mean(parts)

    marks = torch.tensor(right), torch.tensor(labelled)
    check_gradient(lambda z: process_reward.loss(z, *marks, process_reward.Config()).loss, reference, draw(2, 3))
    z = draw(2, 3)
    sig = [[1 / (1 + math.exp(-x)) for x in row] for row in z]
    assert process_reward.answer_score(tensor(z), marks[1]).tolist() == pytest.approx(
        [math.prod(sig[0]), sig[1][0] * sig[1][1]]
    )
    assert process_reward.answer_score(tensor(z), marks[1], "least").tolist() == pytest.approx(
        [min(sig[0]), min(sig[1][:2])]
    )


# Preference losses with more than one number a token


def test_length_normalised_dpo() -> None:
    lengths, beta, module = [3, 1, 2], 5.0, load("dpo_norm")
    rejected, rw, rl = draw(3, 3, -3, 0, 1), draw(3, 3, -3, 0, 2), draw(3, 3, -3, 0, 3)
    mask = torch.tensor([[t < n for t in range(3)] for n in lengths])

    def per_token(p: Rows, r: Rows) -> list[float]:
        return [mean([p[i][t] - r[i][t] for t in range(n)]) for i, n in enumerate(lengths)]

    def reference(w: Rows) -> float:
        pairs = zip(per_token(w, rw), per_token(rejected, rl), strict=True)
        return -mean([log_sigmoid(beta * (a - b)) for a, b in pairs])

    check_gradient(
        lambda w: (
            module.loss(Answers(w, mask, tensor(rw)), Answers(tensor(rejected), mask, tensor(rl)), module.Config()).loss
        ),
        reference,
        draw(3, 3, -3, 0),
    )


@pytest.mark.parametrize(("alpha", "detach"), [(0.5, True), (1.0, False)])
@pytest.mark.parametrize("of", ["logps", "kl_chosen", "kl_rejected"])
def test_token_level_dpo(alpha: float, detach: bool, of: str) -> None:
    lengths, beta, module = [3, 1], 0.4, load("tdpo")
    rows = {k: draw(2, 3, -3, 0, i) for i, k in enumerate(("w", "l", "rw", "rl"))}
    kls = {k: draw(2, 3, 0, 2, 9 + i) for i, k in enumerate(("w", "l"))}
    fixed = [sum(kls["w"][i][:n]) for i, n in enumerate(lengths)]
    mask = torch.tensor([[t < n for t in range(3)] for n in lengths])
    options = config_of(module, {"beta": beta, "alpha": alpha, "detach": detach})

    def reference(w: Rows, kw: Rows, kl: Rows) -> float:
        parts = []
        for i, n in enumerate(lengths):
            h_w = sum(w[i][:n]) - sum(rows["rw"][i][:n])
            h_l = sum(rows["l"][i][:n]) - sum(rows["rl"][i][:n])
            d_w = fixed[i] if detach else sum(kw[i][:n])
            parts.append(-log_sigmoid(beta * (h_w - h_l) - alpha * beta * (sum(kl[i][:n]) - d_w)))
        return mean(parts)

    def ours(w: Tensor, kw: Tensor, kl: Tensor) -> Tensor:
        chosen = Answers(w, mask, tensor(rows["rw"]), kl=kw)
        rejected = Answers(tensor(rows["l"]), mask, tensor(rows["rl"]), kl=kl)
        loss: Tensor = module.loss(chosen, rejected, options).loss
        return loss

    w, kw, kl = rows["w"], kls["w"], kls["l"]
    if of == "logps":
        check_gradient(lambda x: ours(x, tensor(kw), tensor(kl)), lambda x: reference(x, kw, kl), w)
    elif of == "kl_rejected":
        check_gradient(lambda x: ours(tensor(w), tensor(kw), x), lambda x: reference(w, kw, x), kl)
    elif not detach:
        check_gradient(lambda x: ours(tensor(w), x, tensor(kl)), lambda x: reference(w, x, kl), kw)
    else:
        x = tensor(kw).requires_grad_(True)
        assert not ours(tensor(w), x, tensor(kl)).requires_grad, "TDPO2 has no gradient through the chosen divergence"


# Losses over samples

LENGTHS = [4, 2, 3, 1]
GROUPS = [0, 0, 1, 1]
MASK = torch.tensor([[t < n for t in range(4)] for n in LENGTHS])
REWARDS = [[1.0, 0.2], [0.4, 0.9]]


def around(old: Rows, seed: int, by: float) -> Rows:
    """Values near `old`, some further than any clip, none within 1e-3 of a kink."""
    rng = random.Random(seed)
    return [[x + rng.choice([-1, 1]) * by * rng.choice([0.3, 3.0]) for x in row] for row in old]


OLD = draw(4, 4, -3, -0.2, 5)
REFERENCE = draw(4, 4, -3, -0.2, 6)


def sampled(**more: Any) -> Sampled:
    fields: dict[str, Any] = {
        "rewards": tensor(REWARDS),
        "scored": torch.ones(2, 2, dtype=torch.bool),
        "old": tensor(OLD) * MASK,
        "mask": MASK,
        "reference": tensor(REFERENCE) * MASK,
        **more,
    }
    return Sampled(**fields)


def rollout(logps: Tensor, advantages: Tensor) -> Rollout:
    return Rollout(
        logps=logps,
        old=tensor(OLD),
        mask=MASK,
        advantages=advantages,
        group=torch.tensor(GROUPS),
        length=7,
        reference=tensor(REFERENCE),
    )


def pessimist(ratio: float, a: float, low: float, high: float) -> float:
    return min(ratio * a, min(max(ratio, 1 - low), 1 + high) * a)


def per_answer(scale: bool) -> list[float]:
    found = []
    for group in REWARDS:
        for r in group:
            found.append((r - mean(group)) / ((statistics.stdev(group) + 1e-4) if scale else 1.0))
    return found


def tokens_of(p: Rows, n: int, a: list[float], low: float, high: float) -> list[float]:
    return [pessimist(math.exp(p[n][t] - OLD[n][t]), a[n], low, high) for t in range(LENGTHS[n])]


def grpo(p: Rows, beta: float = 0.04, clip: float = 0.2, unbiased: bool = False) -> float:
    parts = []
    for n in range(4):
        x = [REFERENCE[n][t] - p[n][t] for t in range(LENGTHS[n])]
        w = [math.exp(p[n][t] - OLD[n][t]) if unbiased else 1.0 for t in range(LENGTHS[n])]
        gains = tokens_of(p, n, per_answer(True), clip, clip)
        parts.append(mean([g - beta * i * (math.exp(r) - r - 1) for g, r, i in zip(gains, x, w, strict=True)]))
    return -mean(parts)


def dr_grpo(p: Rows) -> float:
    return -mean([sum(tokens_of(p, n, per_answer(False), 0.2, 0.2)) / 7 for n in range(4)])


def dapo_formula(p: Rows) -> float:
    return -mean([g for n in range(4) for g in tokens_of(p, n, per_answer(True), 0.2, 0.28)])


def gspo(p: Rows, low: float = 3e-4, high: float = 4e-4) -> float:
    a = per_answer(True)
    s = [math.exp(mean([p[n][t] - OLD[n][t] for t in range(LENGTHS[n])])) for n in range(4)]
    return -mean([pessimist(s[n], a[n], low, high) for n in range(4)])


def rloo(p: Rows, kl: float = 0.1) -> float:
    shaped = [
        REWARDS[n // 2][n % 2] - kl * sum(OLD[n][t] - REFERENCE[n][t] for t in range(LENGTHS[n])) for n in range(4)
    ]
    a = [shaped[n] - shaped[n ^ 1] for n in range(4)]
    s = [math.exp(sum(p[n][t] - OLD[n][t] for t in range(LENGTHS[n]))) for n in range(4)]
    return -mean([pessimist(s[n], a[n], 0.2, 0.2) for n in range(4)])


def standardised(rows: Rows) -> Rows:
    flat = [x for n, row in enumerate(rows) for x in row[: LENGTHS[n]]]
    m, v = mean(flat), statistics.variance(flat)
    return [[(x - m) / math.sqrt(v + 1e-8) for x in row] for row in rows]


def clipped_tokens(p: Rows, a: Rows) -> float:
    return -mean(
        [pessimist(math.exp(p[n][t] - OLD[n][t]), a[n][t], 0.2, 0.2) for n in range(4) for t in range(LENGTHS[n])]
    )


def reinforce_pp(p: Rows, kl: float = 0.1) -> float:
    a = [
        [
            REWARDS[n // 2][n % 2] - kl * sum(OLD[n][i] - REFERENCE[n][i] for i in range(t, LENGTHS[n]))
            for t in range(LENGTHS[n])
        ]
        for n in range(4)
    ]
    return clipped_tokens(p, standardised(a))


VALUES = draw(4, 4, -0.5, 0.5, 8)


def gae_by_sums(kl: float, gamma: float, lam: float) -> Rows:
    """GAE as the sum of discounted one-step errors, written out."""
    found = []
    for n, length in enumerate(LENGTHS):
        r = [-kl * (OLD[n][t] - REFERENCE[n][t]) for t in range(length)]
        r[-1] += REWARDS[n // 2][n % 2]
        v = [*VALUES[n][:length], 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        found.append([sum((gamma * lam) ** (i - t) * delta[i] for i in range(t, length)) for t in range(length)])
    return found


def ppo_formula(p: Rows) -> float:
    return clipped_tokens(p, standardised(gae_by_sums(0.1, 1.0, 0.95)))


COSTS = [[0.5, -1.0], [0.1, 0.3]]


def safe(p: Rows, kl: float = 0.1, multiplier: float = 1.7) -> float:
    shaped = [
        REWARDS[n // 2][n % 2] - kl * sum(OLD[n][t] - REFERENCE[n][t] for t in range(LENGTHS[n])) for n in range(4)
    ]
    cost = [c for row in COSTS for c in row]
    a = [(shaped[n] - shaped[n ^ 1] - multiplier * (cost[n] - cost[n ^ 1])) / (1 + multiplier) for n in range(4)]
    return clipped_tokens(p, [[x] * 4 for x in a])


def online(p: Rows, beta: float = 0.1) -> float:
    h = [sum(p[n][t] - REFERENCE[n][t] for t in range(LENGTHS[n])) for n in range(4)]
    return -mean([log_sigmoid(beta * (h[0] - h[1])), log_sigmoid(beta * (h[3] - h[2]))])


SAMPLED_LOSSES: dict[str, tuple[Callable[[Rows], float], dict[str, Any], float]] = {
    "grpo": (grpo, {}, 0.1),
    "dr_grpo": (dr_grpo, {}, 0.1),
    "dapo": (dapo_formula, {}, 0.1),
    "gspo": (gspo, {}, 2e-4),
    "rloo": (rloo, {"kl": 0.1}, 0.05),
    "reinforce_pp": (reinforce_pp, {"kl": 0.1}, 0.1),
    "ppo": (ppo_formula, {"kl": 0.1, "values": tensor(VALUES)}, 0.1),
    "safe_rlhf": (safe, {"kl": 0.1, "costs": tensor(COSTS), "multiplier": 1.7}, 0.1),
    "online_dpo": (online, {}, 0.1),
}


@pytest.mark.parametrize("name", SAMPLED_LOSSES)
@pytest.mark.parametrize("seed", range(3))
def test_losses_over_samples(name: str, seed: int) -> None:
    formula, more, by = SAMPLED_LOSSES[name]
    module = load(name)
    config = module.Config()
    advantages = module.advantages(sampled(**more), config)
    assert not advantages[~MASK].any()
    check_gradient(lambda p: module.loss(rollout(p, advantages), config).loss, formula, around(OLD, seed, by))


@pytest.mark.parametrize("seed", range(3))
def test_grpo_with_the_unbiased_penalty(seed: int) -> None:
    module = load("grpo")
    config = config_of(module, {"beta": 0.5, "unbiased_kl": True})
    advantages = module.advantages(sampled(), config)
    formula = partial(grpo, beta=0.5, unbiased=True)
    check_gradient(lambda p: module.loss(rollout(p, advantages), config).loss, formula, around(OLD, seed, 0.1))


def test_the_unbiased_penalty_changes_the_gradient_and_not_the_loss_of_fresh_samples() -> None:
    """That is how a comparison of losses alone misses which of the two another implementation has."""
    module, fresh = load("grpo"), tensor(OLD)
    nothing, found = torch.zeros_like(fresh), []
    for unbiased in (False, True):
        p = fresh.clone().requires_grad_(True)
        output = module.loss(rollout(p, nothing), module.Config(beta=1.0, unbiased_kl=unbiased))
        output.loss.backward()
        assert p.grad is not None
        found.append((output.loss.item(), p.grad))
    kl = torch.expm1(tensor(REFERENCE) - fresh) - (tensor(REFERENCE) - fresh)
    share = MASK / MASK.sum(1, keepdim=True) / len(fresh)
    assert found[0][0] == pytest.approx(found[1][0])
    torch.testing.assert_close(found[1][1] - found[0][1], kl * share)


def test_every_loss_over_samples_is_here() -> None:
    from fivefold.registry import registry

    rollouts = {n for n in registry("loss").names() if load(n).KIND == "rollout"}
    assert rollouts == set(SAMPLED_LOSSES)


@pytest.mark.parametrize("name", ["dr_grpo", "rloo", "reinforce_pp", "ppo", "dapo", "gspo", "grpo"])
def test_at_the_sampling_policy_the_gradient_is_reinforces(name: str) -> None:
    """Where pi = pi_old, d L / d logp is -A times the token's weight in the reduction."""
    _, more, _ = SAMPLED_LOSSES[name]
    module = load(name)
    config = config_of(module, {"beta": 0.0} if name == "grpo" else {})
    advantages = module.advantages(sampled(**more), config)
    logps = tensor(OLD).requires_grad_(True)
    module.loss(rollout(logps, advantages), config).loss.backward()
    n_tokens = MASK.sum(-1, keepdim=True)
    weight = {"dr_grpo": 1 / (4 * 7), "rloo": 1 / 4}.get(name)
    if name in ("grpo", "gspo"):
        expected = -advantages / (4 * n_tokens)
    else:
        expected = -advantages * (1 / int(MASK.sum()) if weight is None else weight)
    torch.testing.assert_close(logps.grad, expected * MASK, rtol=1e-9, atol=1e-12)


def test_an_answer_without_a_reward_is_neither_good_nor_bad() -> None:
    scored = torch.tensor([[True, False], [True, True]])
    rewards = tensor([[1.0, math.nan], [0.4, 0.9]])
    for name, (_, more, _) in SAMPLED_LOSSES.items():
        module = load(name)
        found = module.advantages(sampled(rewards=rewards, scored=scored, **more), module.Config())
        assert torch.isfinite(found).all(), name
        assert not found[1].any(), f"{name} gave an advantage to an answer that was not scored"


def test_gae_and_the_critics_targets() -> None:
    got = ppo.estimates(sampled(kl=0.1, values=tensor(VALUES)), ppo.Config(gamma=0.9, lam=0.8))
    for n, row in enumerate(gae_by_sums(0.1, 0.9, 0.8)):
        assert got[n, : LENGTHS[n]].tolist() == pytest.approx(row) and not got[n, LENGTHS[n] :].any()


def test_the_critics_loss_is_clipped() -> None:
    module, returns, old = load("ppo_value"), draw(4, 4, seed=3), VALUES
    clip = 0.2

    def reference(v: Rows) -> float:
        parts = []
        for n, length in enumerate(LENGTHS):
            for t in range(length):
                near = old[n][t] + min(max(v[n][t] - old[n][t], -clip), clip)
                parts.append(max((v[n][t] - returns[n][t]) ** 2, (near - returns[n][t]) ** 2))
        return 0.5 * mean(parts)

    check_gradient(
        lambda v: module.loss(v, tensor(old), tensor(returns), MASK, module.Config()).loss,
        reference,
        around(old, 4, 0.1),
    )


def test_dynamic_sampling_keeps_groups_that_differ() -> None:
    rewards = tensor([[1.0, 1.0], [0.0, 1.0], [0.0, math.nan], [0.0, 0.0]])
    scored = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    assert _rollout.informative(rewards, scored).tolist() == [False, True, False, False]
    assert dapo.FILTER


def test_process_rewards_reach_the_tokens_before_a_steps_end() -> None:
    steps = tensor([[1.0, 0.0], [1.0, 1.0]])
    ends = torch.tensor([[1, 3], [0, -1]])
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    got = _rollout.process_advantages(steps, ends, mask, groups=2)
    m, s = mean([1.0, 0.0, 1.0]), statistics.stdev([1.0, 0.0, 1.0]) + 1e-4
    hit, miss = (1 - m) / s, (0 - m) / s
    assert got[0].tolist() == pytest.approx([hit + miss, hit + miss, miss, miss])
    assert got[1].tolist() == pytest.approx([hit, 0, 0, 0])


def test_the_multiplier_follows_the_constraint() -> None:
    config = safe_rlhf.Config(limit=0.5, rate=0.1, most=3.0)
    assert safe_rlhf.next_multiplier(1.0, 1.5, config) == pytest.approx(math.exp(0.1))
    assert safe_rlhf.next_multiplier(2.0, -0.5, config) == pytest.approx(2.0 * math.exp(-0.2))
    assert safe_rlhf.next_multiplier(2.9, 99.0, config) == pytest.approx(3.0)


def test_online_dpo_leaves_out_prompts_without_a_better_answer() -> None:
    same = online_dpo.advantages(sampled(rewards=tensor([[1.0, 1.0], [2.0, 2.0]])), online_dpo.Config())
    assert not same.any()
    logps = tensor(OLD).requires_grad_(True)
    output = online_dpo.loss(rollout(logps, same), online_dpo.Config())
    assert output.loss.item() == 0.0


# Representations and distributions


def stream(seed: int) -> Rows:
    return draw(6, 5, seed=seed)


TOKENS = torch.tensor([[True, True, False], [True, True, True]])


def states(trained: Tensor, seed: int) -> Activations:
    return Activations(trained.view(2, 3, 5), tensor(stream(seed)).view(2, 3, 5), TOKENS)


KEPT = [0, 1, 3, 4, 5]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def far(a: list[float], b: list[float]) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("side", ["harmful", "benign"])
def test_circuit_breaking(progress: float, side: str) -> None:
    rows = {"harmful": stream(1), "benign": stream(3)}

    def reference(_: Rows) -> float:
        h, h0, b, b0 = rows["harmful"], stream(2), rows["benign"], stream(4)
        cosines = [max(0.0, dot(h[i], h0[i]) / math.sqrt(dot(h[i], h[i]) * dot(h0[i], h0[i]))) for i in KEPT]
        return 10 * ((1 - progress / 2) * mean(cosines) + progress / 2 * mean([far(b[i], b0[i]) for i in KEPT]))

    def ours(x: Tensor) -> Tensor:
        h, b = (x if side == name else tensor(rows[name]) for name in ("harmful", "benign"))
        return circuit_breaker.loss(states(h, 2), states(b, 4), circuit_breaker.Config(), progress=progress).loss

    check_gradient(ours, reference, rows[side])


@pytest.mark.parametrize("side", ["forget", "retain"])
def test_rmu(side: str) -> None:
    rows = {"forget": stream(1), "retain": stream(3)}
    u = rmu.direction(5, 0).tolist()
    assert math.hypot(*u) == pytest.approx(1.0) and rmu.direction(5, 1).tolist() != u

    def reference(_: Rows) -> float:
        pushed = [far(rows["forget"][i], [20 * x for x in u]) ** 2 / 5 for i in KEPT]
        kept = [far(rows["retain"][i], stream(4)[i]) ** 2 / 5 for i in KEPT]
        return mean(pushed) + 100 * mean(kept)

    def ours(x: Tensor) -> Tensor:
        f, r = (x if side == name else tensor(rows[name]) for name in ("forget", "retain"))
        return rmu.loss(states(f, 2), states(r, 4), rmu.Config()).loss

    check_gradient(ours, reference, rows[side])


def softmax(row: list[float], tau: float) -> list[float]:
    e = [math.exp(x / tau) for x in row]
    return [x / sum(e) for x in e]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_distillation(divergence: str, tau: float) -> None:
    module, teacher = load("distillation"), stream(2)
    config = config_of(module, {"divergence": divergence, "temperature": tau, "mix": 0.3})

    def one(q_row: list[float], p_row: list[float]) -> float:
        p, q = softmax(p_row, tau), softmax(q_row, tau)
        m = [0.3 * a + 0.7 * b for a, b in zip(p, q, strict=True)]
        return {"forward": kl(p, q), "reverse": kl(q, p), "jsd": 0.3 * kl(p, m) + 0.7 * kl(q, m)}[divergence]

    def ours(x: Tensor) -> Tensor:
        loss: Tensor = module.loss(Distributions(x.view(2, 3, 5), tensor(teacher).view(2, 3, 5), TOKENS), config).loss
        return loss

    check_gradient(ours, lambda q: mean([one(q[i], teacher[i]) for i in KEPT]), stream(1))
