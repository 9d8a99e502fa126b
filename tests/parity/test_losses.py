"""Every loss against its paper's formula, written once more in plain Python, and its gradient against differences."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fivefold.align.losses._base import Answers, LossOutput, config_of, load

Tokens = list[list[float]]
"""Log-probabilities of the tokens of each answer."""


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def sft(w: Tokens, **_: Any) -> float:
    return -sum(map(sum, w)) / sum(map(len, w))


def ratios(policy: Tokens, reference: Tokens) -> list[float]:
    return [sum(p) - sum(r) for p, r in zip(policy, reference, strict=True)]


def dpo(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1) -> float:
    pairs = zip(ratios(w, rw), ratios(lo, rl), strict=True)
    return mean([-log_sigmoid(beta * (a - b)) for a, b in pairs])


def rpo(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1, alpha: float = 1.0) -> float:
    return dpo(w, lo, rw, rl, beta) + alpha * mean([-sum(t) / len(t) for t in w])


def margins(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens) -> list[float]:
    return [a - b for a, b in zip(ratios(w, rw), ratios(lo, rl), strict=True)]


def ipo(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1, per_token: bool = False) -> float:
    h_w, h_l = ratios(w, rw), ratios(lo, rl)
    if per_token:
        h_w = [h / len(t) for h, t in zip(h_w, w, strict=True)]
        h_l = [h / len(t) for h, t in zip(h_l, lo, strict=True)]
    return mean([(a - b - 1 / (2 * beta)) ** 2 for a, b in zip(h_w, h_l, strict=True)])


def cdpo(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1, eps: float = 0.1) -> float:
    parts = [(1 - eps) * log_sigmoid(beta * m) + eps * log_sigmoid(-beta * m) for m in margins(w, lo, rw, rl)]
    return -mean(parts)


def robust_dpo(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1, eps: float = 0.1) -> float:
    parts = [(1 - eps) * log_sigmoid(beta * m) - eps * log_sigmoid(-beta * m) for m in margins(w, lo, rw, rl)]
    return -mean(parts) / (1 - 2 * eps)


def hinge(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1) -> float:
    return mean([max(0.0, 1 - beta * m) for m in margins(w, lo, rw, rl)])


def dpop(w: Tokens, lo: Tokens, rw: Tokens, rl: Tokens, beta: float = 0.1, penalty: float = 50.0) -> float:
    pairs = zip(ratios(w, rw), ratios(lo, rl), strict=True)
    return -mean([log_sigmoid(beta * (a - b - penalty * max(0.0, -a))) for a, b in pairs])


def per_token(tokens: Tokens) -> list[float]:
    return [sum(t) / len(t) for t in tokens]


def simpo(w: Tokens, lo: Tokens, beta: float = 2.0, gamma: float = 1.0) -> float:
    pairs = zip(per_token(w), per_token(lo), strict=True)
    return -mean([log_sigmoid(beta * a - beta * b - gamma) for a, b in pairs])


def cpo(w: Tokens, lo: Tokens, beta: float = 0.1, alpha: float = 1.0) -> float:
    pairs = zip(w, lo, strict=True)
    return mean([-log_sigmoid(beta * (sum(a) - sum(b))) - alpha * sum(a) / len(a) for a, b in pairs])


def orpo(w: Tokens, lo: Tokens, weight: float = 0.1) -> float:
    def log_odds(m: float) -> float:
        return math.log(math.exp(m) / (1 - math.exp(m)))

    pairs = zip(per_token(w), per_token(lo), strict=True)
    return mean([-a - weight * log_sigmoid(log_odds(a) - log_odds(b)) for a, b in pairs])


def npo(w: Tokens, rw: Tokens, beta: float = 0.1) -> float:
    return -2 / beta * mean([log_sigmoid(-beta * h) for h in ratios(w, rw)])


def kto(
    w: Tokens, mismatched: Tokens, rw: Tokens, r_mismatched: Tokens, beta: float = 0.1, desirable: float = 1.0,
    undesirable: float = 1.0, z: float | None = None,
) -> float:  # fmt: skip
    z = max(0.0, mean(ratios(mismatched, r_mismatched))) if z is None else z
    parts = []
    for i, h in enumerate(ratios(w, rw)):
        sign, weight = (1, desirable) if i % 2 == 0 else (-1, undesirable)
        parts.append(weight * (1 - 1 / (1 + math.exp(-beta * sign * (h - z)))))
    return mean(parts)


CASES: list[tuple[str, dict[str, float], Callable[..., float]]] = [
    ("sft", {}, sft),
    ("dpo", {}, dpo),
    ("dpo", {"beta": 0.5}, dpo),
    ("rpo", {}, rpo),
    ("rpo", {"beta": 0.3, "alpha": 2.5}, rpo),
    ("ipo", {}, ipo),
    ("ipo", {"beta": 0.4, "per_token": True}, ipo),
    ("cdpo", {}, cdpo),
    ("cdpo", {"beta": 0.3, "eps": 0.25}, cdpo),
    ("robust_dpo", {}, robust_dpo),
    ("robust_dpo", {"beta": 0.3, "eps": 0.25}, robust_dpo),
    ("hinge", {}, hinge),
    ("hinge", {"beta": 0.02}, hinge),
    ("dpop", {}, dpop),
    ("dpop", {"beta": 0.02, "penalty": 2.0}, dpop),
    ("simpo", {}, simpo),
    ("simpo", {"beta": 1.0, "gamma": 0.2}, simpo),
    ("cpo", {}, cpo),
    ("cpo", {"beta": 0.5, "alpha": 0.3}, cpo),
    ("orpo", {}, orpo),
    ("orpo", {"weight": 1.5}, orpo),
    ("npo", {}, npo),
    ("npo", {"beta": 0.7}, npo),
    ("kto", {}, kto),
    ("kto", {"beta": 0.4, "desirable": 1.5, "undesirable": 0.7}, kto),
]


def draw(seed: int, n: int = 5) -> dict[str, Tokens]:
    rng = random.Random(seed)
    lengths = {k: [rng.randint(1, 9) for _ in range(n)] for k in "wl"}
    made = {k: [[rng.uniform(-6, -0.01) for _ in range(m)] for m in lengths[k]] for k in "wl"}
    made |= {f"r{k}": [[rng.uniform(-6, -0.01) for _ in range(m)] for m in lengths[k]] for k in "wl"}
    return made


def answers(policy: Tokens, reference: Tokens) -> Answers:
    """Padded tensors; the padding holds rubbish that the mask must keep out."""
    longest = max(map(len, policy))
    pad = [t + [-77.0] * (longest - len(t)) for t in policy]
    pad_reference = [t + [-33.0] * (longest - len(t)) for t in reference]
    mask = [[True] * len(t) + [False] * (longest - len(t)) for t in policy]
    return Answers(
        torch.tensor(pad, dtype=torch.float64, requires_grad=True),
        torch.tensor(mask),
        torch.tensor(pad_reference, dtype=torch.float64),
        torch.tensor([i % 2 == 0 for i in range(len(policy))]),
    )


def ours(name: str, options: dict[str, float], data: dict[str, Tokens]) -> tuple[LossOutput, list[Answers]]:
    module = load(name)
    given = [answers(data["w"], data["rw"])]
    if module.KIND != "single":
        given.append(answers(data["l"], data["rl"]))
    return module.loss(*given, config_of(module, options)), given


def theirs(name: str, options: dict[str, float], data: dict[str, Tokens], formula: Callable[..., float]) -> float:
    module = load(name)
    args = [data["w"]]
    if module.KIND != "single":
        args.append(data["l"])
    if module.REFERENCE:
        args += [data["rw"]] if module.KIND == "single" else [data["rw"], data["rl"]]
    return formula(*args, **options)


@pytest.mark.parametrize(("name", "options", "formula"), CASES, ids=lambda v: str(v) if not callable(v) else "")
@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_papers_formula(
    name: str, options: dict[str, float], formula: Callable[..., float], seed: int
) -> None:
    data = draw(seed)
    output, _ = ours(name, options, data)
    assert output.loss.item() == pytest.approx(theirs(name, options, data, formula), rel=1e-9)
    assert all(math.isfinite(v) for v in output.metrics.values()) and output.metrics


@pytest.mark.parametrize(("name", "options", "formula"), CASES, ids=lambda v: str(v) if not callable(v) else "")
def test_the_gradient_is_that_of_the_formula(
    name: str, options: dict[str, float], formula: Callable[..., float]
) -> None:
    data = draw(11, n=3)
    output, given = ours(name, options, data)
    output.loss.backward()
    if name == "kto":  # its KL estimate is a constant to the gradient
        z = max(0.0, mean(ratios(data["l"], data["rl"])))
        assert z > 0 and given.pop().logps.grad is None
        formula = functools.partial(formula, z=z)
    for which, side in zip("wl", given, strict=False):
        gradient = side.logps.grad
        assert gradient is not None
        for i, tokens in enumerate(data[which]):
            assert not gradient[i, len(tokens) :].any(), "padding must have no gradient"
            for t in range(len(tokens)):
                value, step = tokens[t], 1e-5
                tokens[t] = value + step
                up = theirs(name, options, data, formula)
                tokens[t] = value - step
                down = theirs(name, options, data, formula)
                tokens[t] = value
                assert float(gradient[i, t]) == pytest.approx((up - down) / (2 * step), rel=1e-4, abs=1e-8)


def test_rpo_without_its_likelihood_term_is_dpo() -> None:
    data = draw(3)
    assert ours("rpo", {"alpha": 0.0}, data)[0].loss == ours("dpo", {}, data)[0].loss
