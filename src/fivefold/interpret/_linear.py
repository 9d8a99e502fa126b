"""Linear read-outs of activations: difference of means, and L2-regularised logistic regression by Newton's method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fivefold.errors import DataError, TrainingError

Array = NDArray[np.float64]


Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """score = ((x - mean) / scale) · weight + bias, computed in float64."""

    weight: Array
    bias: float
    mean: Array
    scale: Array

    def score(self, x: NDArray[np.floating[Any]]) -> Array:
        """Score of each row of `x` [N, D]."""
        return np.asarray(((x.astype(np.float64) - self.mean) / self.scale) @ self.weight + self.bias)


Fit: TypeAlias = Callable[[Array, Mask], Linear]
"""(activations [N, D], labels [N]) -> read-out."""


def fit_difference(x: Array, positive: Mask) -> Linear:
    """Unit vector from the mean negative to the mean positive row, measured from their midpoint."""
    means = x[positive].mean(0), x[~positive].mean(0)
    difference = means[0] - means[1]
    length = float(np.linalg.norm(difference))
    if length == 0:
        raise DataError("both kinds of prompt have the same mean activation", next_step="check that the cases differ")
    return Linear(weight=difference / length, bias=0.0, mean=(means[0] + means[1]) / 2, scale=np.ones(x.shape[1]))


def logistic_fit(ridge: float) -> Fit:
    """Logistic regression whose penalty is `ridge` times the number of rows."""
    return lambda x, positive: fit_logistic(x, positive, strength=ridge * len(x), tolerance=1e-5)


def fit_logistic(x: Array, y: Mask, *, strength: float, tolerance: float = 1e-6) -> Linear:
    """Minimise  sum_i log(1 + exp(-y_i f(x_i))) + strength/2 |weight|²  with f linear in the standardised x [N, D].

    The bias is not penalised. When D > N the problem is solved in the span of the rows, where its solution lies (the
    penalty does not change under rotation). Raises DataError for one class only, TrainingError when Newton's method
    does not converge.
    """
    if y.all() or not y.any():
        raise DataError("a probe needs both kinds of prompt", expected="harmful and benign", got="one kind only")
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (x - mean) / scale
    basis = np.linalg.svd(z, full_matrices=False)[2] if z.shape[1] > z.shape[0] else None
    solution = _newton(z if basis is None else z @ basis.T, y, strength, tolerance)
    weight = solution[:-1] if basis is None else solution[:-1] @ basis
    return Linear(weight=weight, bias=float(solution[-1]), mean=mean, scale=scale)


def _newton(z: Array, y: Mask, strength: float, tolerance: float) -> Array:
    a = np.hstack([z, np.ones((len(z), 1))])
    penalty = np.full(a.shape[1], strength)
    penalty[-1] = 0.0
    theta = np.zeros(a.shape[1])
    for _ in range(100):
        p = _sigmoid(a @ theta)
        gradient = a.T @ (p - y) + penalty * theta
        if np.abs(gradient).max() <= tolerance * len(z):
            return theta
        curvature = np.maximum(p * (1 - p), 1e-9)
        hessian = (a * curvature[:, None]).T @ a
        hessian[np.diag_indices_from(hessian)] += penalty + 1e-9
        step = np.linalg.solve(hessian, gradient)
        theta = _line_search(a, y, penalty, theta, step, float(gradient @ step))
    raise TrainingError("logistic regression did not converge in 100 Newton steps", next_step="raise the penalty")


def _line_search(a: Array, y: Mask, penalty: Array, theta: Array, step: Array, slope: float) -> Array:
    """Halve the step until the loss falls enough (Armijo)."""
    start, size = _loss(a, y, penalty, theta), 1.0
    while size > 1e-6 and _loss(a, y, penalty, theta - size * step) > start - 1e-4 * size * slope:
        size /= 2
    return theta - size * step


def _loss(a: Array, y: Mask, penalty: Array, theta: Array) -> float:
    margin = np.where(y, 1.0, -1.0) * (a @ theta)
    return float(np.logaddexp(0, -margin).sum() + 0.5 * (penalty * theta * theta).sum())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))
