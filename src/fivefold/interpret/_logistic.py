"""L2-regularised logistic regression by Newton's method, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import DataError, TrainingError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """log-odds = x · weight + bias, on inputs standardised by `mean` and `scale` first."""

    weight: Array
    bias: float
    mean: Array
    scale: Array

    def score(self, x: Array) -> Array:
        """Log-odds of each row of `x` [N, D]."""
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


def fit_logistic(
    x: Array, y: NDArray[np.bool_], *, strength: float, weights: Array | None = None, tolerance: float = 1e-6
) -> Logistic:
    """Minimise  sum_i w_i log(1 + exp(-y_i f(x_i))) + strength/2 |weight|²  with f linear in the standardised x [N, D].

    The bias is not penalised. When D > N the problem is solved in the span of the rows, where its solution lies (the
    penalty does not change under rotation). Raises DataError for one class only, TrainingError when Newton's method does
    not converge.
    """
    if y.all() or not y.any():
        raise DataError("a probe needs both kinds of prompt", expected="harmful and benign", got="one kind only")
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (x - mean) / scale
    basis = np.linalg.svd(z, full_matrices=False)[2] if z.shape[1] > z.shape[0] else None
    solution = _newton(z if basis is None else z @ basis.T, y, strength, weights, tolerance)
    weight = solution[:-1] if basis is None else solution[:-1] @ basis
    return Logistic(weight=weight, bias=float(solution[-1]), mean=mean, scale=scale)


def _newton(z: Array, y: NDArray[np.bool_], strength: float, weights: Array | None, tolerance: float) -> Array:
    a = np.hstack([z, np.ones((len(z), 1))])
    w = np.ones(len(z)) if weights is None else weights
    penalty = np.full(a.shape[1], strength)
    penalty[-1] = 0.0
    theta = np.zeros(a.shape[1])
    for _ in range(100):
        p = _sigmoid(a @ theta)
        gradient = a.T @ (w * (p - y)) + penalty * theta
        if np.abs(gradient).max() <= tolerance * len(z):
            return theta
        curvature = w * np.maximum(p * (1 - p), 1e-9)
        hessian = (a * curvature[:, None]).T @ a
        hessian[np.diag_indices_from(hessian)] += penalty + 1e-9
        step = np.linalg.solve(hessian, gradient)
        theta = _line_search(a, y, w, penalty, theta, step, float(gradient @ step))
    raise TrainingError("logistic regression did not converge in 100 Newton steps", next_step="raise the penalty")


def _line_search(
    a: Array, y: NDArray[np.bool_], w: Array, penalty: Array, theta: Array, step: Array, slope: float
) -> Array:
    """Halve the step until the loss falls enough (Armijo)."""
    start, size = _loss(a, y, w, penalty, theta), 1.0
    while size > 1e-6 and _loss(a, y, w, penalty, theta - size * step) > start - 1e-4 * size * slope:
        size /= 2
    return theta - size * step


def _loss(a: Array, y: NDArray[np.bool_], w: Array, penalty: Array, theta: Array) -> float:
    margin = np.where(y, 1.0, -1.0) * (a @ theta)
    return float((w * np.logaddexp(0, -margin)).sum() + 0.5 * (penalty * theta * theta).sum())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
