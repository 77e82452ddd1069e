"""Curves over checkpoints: exponential approach, weights of areas and slopes.

The approach a + (b - a)·exp(-x/τ) is linear in a and b for a given τ, so that its best fit on
thousands of curves at once is a search over a grid of τ in closed form, refined by a parabola in
log τ. The fit to the data itself is refined by SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError

Axis: TypeAlias = Literal["log", "linear"]
_GRID = 160  # values of τ
_BEYOND = 5.0  # how far the grid reaches below the smallest gap and above the whole range


def axis_values(epochs: FloatArray, axis: Axis) -> FloatArray:
    """Positions of the epochs: log(1 + epoch), or the epochs themselves."""
    if axis not in ("log", "linear"):
        raise InvalidInputError(f"axis must be 'log' or 'linear', got {axis!r}")
    return np.log1p(epochs) if axis == "log" else np.asarray(epochs, np.float64)


def area_weights(x: FloatArray) -> FloatArray:
    """Weights of the trapezoid rule over x, divided by its range: a mean height."""
    gaps = np.diff(x)
    weights = np.zeros(len(x))
    weights[:-1] += gaps / 2
    weights[1:] += gaps / 2
    return weights / (x[-1] - x[0])


def slope_weights(x: FloatArray) -> FloatArray:
    """Weights whose sum with a curve is its least-squares slope on x."""
    apart = x - x.mean()
    return apart / (apart @ apart)


@dataclass(frozen=True, slots=True)
class Approach:
    """Fits of a + (b - a)·exp(-x/τ) to K curves; every array is (K,).

    Attributes
    ----------
    tau : in units of x; NaN where the curve is constant.
    start, end : b and a, the fitted values at x = 0 and far beyond.
    r2 : share of variance that the fit explains; NaN where the curve is constant.
    edge : -1 or 1 where τ runs to the low or high end of the grid, else 0.
    """

    tau: FloatArray
    start: FloatArray
    end: FloatArray
    r2: FloatArray
    edge: FloatArray


def tau_grid(x: FloatArray) -> FloatArray:
    """Values of τ from a fifth of the smallest gap to five times the range."""
    gaps = np.diff(x)
    return np.geomspace(gaps.min() / _BEYOND, (x[-1] - x[0]) * _BEYOND, _GRID)


def fit_approach(x: FloatArray, curves: FloatArray) -> Approach:
    """Least-squares approach of every curve (K, E), by the grid and a parabola in log τ."""
    grid = tau_grid(x)
    y = curves - curves.mean(axis=1, keepdims=True)
    total = np.einsum("ke,ke->k", y, y)
    flat = total <= 1e-24 * np.maximum(np.einsum("ke,ke->k", curves, curves), 1e-300)
    explained = _explained(y, x, grid)
    best = explained.argmax(axis=1)
    edge = np.where(best == 0, -1.0, np.where(best == len(grid) - 1, 1.0, 0.0))
    inner = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(y))
    left, top, right = (explained[rows, inner + d] for d in (-1, 0, 1))
    bend = left - 2 * top + right
    shift = np.zeros(len(y))
    np.divide((left - right) / 2, bend, out=shift, where=(bend < 0) & (edge == 0))
    step = np.log(grid[1] / grid[0])
    tau = np.where(edge == 0, grid[inner] * np.exp(np.clip(shift, -1, 1) * step), grid[best])
    start, end, r2 = _coefficients(curves, x, tau)
    return Approach(
        np.where(flat, np.nan, tau), start, end, np.where(flat, np.nan, r2),
        np.where(flat, 0.0, edge),
    )  # fmt: skip


def refine_approach(x: FloatArray, curve: FloatArray, first: Approach) -> Approach:
    """Best fit to one curve, from the grid's by a bounded search in log τ."""
    if np.isnan(first.tau[0]) or first.edge[0] != 0:
        return first
    step = np.log(tau_grid(x)[1] / tau_grid(x)[0])
    centre = np.log(first.tau[0])
    y = (curve - curve.mean())[None]
    found = minimize_scalar(
        lambda log_tau: -_explained(y, x, np.exp([log_tau]))[0, 0],
        bounds=(centre - 2 * step, centre + 2 * step), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    tau = np.exp([found.x])
    start, end, r2 = _coefficients(curve[None], x, tau)
    return Approach(tau, start, end, r2, first.edge)


def _explained(y: FloatArray, x: FloatArray, grid: FloatArray) -> FloatArray:
    """Sum of squares (K, τ) that each τ explains of centred curves."""
    shapes = np.exp(-(x - x[0])[:, None] / grid)
    shapes -= shapes.mean(axis=0)
    return (y @ (shapes / np.sqrt((shapes**2).sum(axis=0)))) ** 2


def _coefficients(
    curves: FloatArray, x: FloatArray, tau: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Start, end and R² of curves (K, E) given τ (K,)."""
    shape = np.exp(-(x - x[0]) / tau[:, None])
    apart = shape - shape.mean(axis=1, keepdims=True)
    y = curves - curves.mean(axis=1, keepdims=True)
    slope = (apart * y).sum(axis=1) / (apart**2).sum(axis=1)
    end = curves.mean(axis=1) - slope * shape.mean(axis=1)
    total = (y**2).sum(axis=1)
    r2 = np.full(len(y), np.nan)
    np.divide(((y - slope[:, None] * apart) ** 2).sum(axis=1), total, out=r2, where=total > 0)
    return end + slope, end, 1 - r2
