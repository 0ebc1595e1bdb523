"""Examination x attraction: how much each cell of a grid is looked at, and what an arm's pictures get where they are.

Position-based model (Craswell et al. 2008): P(event | arm a, cell k) = theta_k gamma_a, theta_0 = 1. Positions are drawn at
random, so the rates of the cells identify theta (Joachims, Swaminathan & Schnabel 2017, §5.3). Everything is fitted to counts;
errors are clustered by unit through the products of the counts per unit: every estimate is, to first order, a weighted sum of
counts, and has the variance w' C w of its weights.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analytics.facts_of_designs import Crossed
from analytics.inference.contrast import Interval
from analytics.inference.tails import chi_square_p

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Below this the logarithm of a rate is not near normal.
FEWEST_EVENTS, FEWEST_UNITS = 10, 30
# No picture counts for more than 20 in the best cell.
EXAMINATION_FLOOR = 0.05
ROUNDS, TOLERANCE, RANK = 200, 1e-10, 1e-9


class Tally(NamedTuple):
    """`shown`, `got` [rows, cells]; `cross` [2 n, 2 n], n = rows x cells: sums over units of products of (shown, got)."""

    shown: Floats
    got: Floats
    cross: Floats

    @property
    def rate(self) -> Floats:
        """[rows, cells]; 0 where nothing was shown."""
        return np.divide(self.got, self.shown, out=np.zeros_like(self.got), where=self.shown > 0)

    def variance(self, weights: Floats) -> Floats:
        """Of the weighted sums of counts: `weights` [m, 2 n] -> [m, m]."""
        return weights @ self.cross @ weights.T


class PositionFit(NamedTuple):
    """`attraction` [rows] (0 without events), `examination` [cells]; `rows`: those with events, which alone tell about cells.

    `attraction_weights` [rows, 2 n] and `examination_weights` [cells, 2 n] are of their logarithms; of row without events 0.
    """

    attraction: Floats
    examination: Floats
    rows: Ints
    attraction_weights: Floats
    examination_weights: Floats

    @property
    def mean(self) -> Floats:
        """The chance of the event [rows, cells]."""
        return np.outer(self.attraction, self.examination)


class Rates(NamedTuple):
    """One rate per row, with the weights of its errors [rows, 2 n]."""

    value: Floats
    weights: Floats


def tally(crossed: Crossed, rows: int, cells: int) -> Tally:
    """Counts as arrays. Raises ValueError where there are not 2 x rows x cells of them."""
    n = rows * cells
    if len(crossed.totals) != 2 * n:
        raise ValueError(f"`totals` has {len(crossed.totals)} entries; {rows} rows of {cells} cells have {2 * n}")
    totals = np.array(crossed.totals, dtype=np.float64)
    whole = np.zeros((2 * n, 2 * n))
    if crossed.products:
        i, j, value = np.array(crossed.products, dtype=np.float64).T
        whole[i.astype(np.int64), j.astype(np.int64)] = value
        whole[j.astype(np.int64), i.astype(np.int64)] = value
    order = np.concatenate([np.arange(0, 2 * n, 2), np.arange(1, 2 * n, 2)])
    return Tally(totals[::2].reshape(rows, cells), totals[1::2].reshape(rows, cells), whole[np.ix_(order, order)])


def too_little(counts: Tally, units: int) -> str:
    """Why nothing can be told of the cells, in words; empty when it can."""
    events = counts.got.sum(axis=0)
    if units < FEWEST_UNITS:
        return f"{units} units so far; at least {FEWEST_UNITS} are needed"
    cell = int(np.argmin(events))
    if events[cell] < FEWEST_EVENTS:
        return f"cell {cell} got {events[cell]:.0f} events so far; each needs at least {FEWEST_EVENTS}"
    if not _connected(counts.shown[counts.got.sum(axis=1) > 0] > 0):
        return "no arm stood both in some cells and in the others: cells and arms cannot be told apart; let the gateway place the pictures"
    return ""


def position_fit(counts: Tally) -> PositionFit:
    """Maximum of the Poisson quasi-likelihood: gamma_a = sum got / sum shown theta, theta_k = sum got / sum shown gamma.

    With every arm equally often in every cell, theta_k is the rate of cell k over that of cell 0. Call after `too_little` said
    nothing. Raises ArithmeticError where no maximum is found.
    """
    size, cells = counts.shown.shape
    rows = np.flatnonzero(counts.got.sum(axis=1) > 0)
    shown, got = counts.shown[rows], counts.got[rows]
    theta, gamma = np.ones(cells), np.ones(len(rows))
    for _ in range(20):
        gamma = got.sum(axis=1) / (shown @ theta)
        theta = got.sum(axis=0) / (gamma @ shown)
    gamma, theta = gamma * theta[0], theta / theta[0]
    design = _design(len(rows), cells)
    parameters = np.concatenate([np.log(gamma), np.log(theta[1:])])
    for _ in range(ROUNDS):
        expected = shown.ravel() * np.exp(design @ parameters)
        score = design.T @ (got.ravel() - expected)
        if np.abs(score).max() <= TOLERANCE * got.sum():
            break
        step = np.linalg.solve(design.T @ (design * expected[:, None]), score)
        parameters = parameters + step / max(1.0, float(np.abs(step).max()))
    else:
        raise ArithmeticError("the position model has no maximum: an arm got everything in one cell, and nothing elsewhere")
    own = (rows[:, None] * cells + np.arange(cells)).ravel()
    chance = np.exp(design @ parameters)
    moved = np.zeros((len(parameters), 2 * size * cells))
    inverse = np.linalg.inv(design.T @ (design * expected[:, None])) @ design.T
    moved[:, own], moved[:, size * cells + own] = -inverse * chance, inverse
    attraction, attraction_weights = np.zeros(size), np.zeros((size, 2 * size * cells))
    attraction[rows], attraction_weights[rows] = np.exp(parameters[: len(rows)]), moved[: len(rows)]
    examination = np.concatenate([[1.0], np.exp(parameters[len(rows) :])])
    weights = np.vstack([np.zeros((1, moved.shape[1])), moved[len(rows) :]])
    return PositionFit(attraction, examination, rows, attraction_weights, weights)


def raw_rates(counts: Tally) -> Rates:
    """Events over pictures of each row, wherever they stood."""
    size, cells = counts.shown.shape
    shown = np.maximum(counts.shown.sum(axis=1), 1.0)
    value, weights = counts.got.sum(axis=1) / shown, np.zeros((size, 2, size, cells))
    for row in range(size):
        weights[row, 0, row], weights[row, 1, row] = -value[row] / shown[row], 1 / shown[row]
    return Rates(value, weights.reshape(size, -1))


def inverse_rates(counts: Tally, fit: PositionFit) -> Rates:
    """Events weighted by 1/theta over pictures (IPS); theta clipped at 0.05 of the best cell's. Knows that theta is estimated."""
    size, cells = counts.shown.shape
    floor = EXAMINATION_FLOOR * fit.examination.max()
    theta, free = np.maximum(fit.examination, floor), fit.examination > floor
    shown = np.maximum(counts.shown.sum(axis=1), 1.0)
    parts = counts.got / theta / shown[:, None]
    value, weights = parts.sum(axis=1), np.zeros((size, 2, size, cells))
    for row in range(size):
        weights[row, 0, row], weights[row, 1, row] = -value[row] / shown[row], 1 / theta / shown[row]
    return Rates(value, weights.reshape(size, -1) - (parts * free) @ fit.examination_weights)


def likely_rates(fit: PositionFit) -> Rates:
    """gamma of the fit: what a picture of the row gets in cell 0."""
    return Rates(fit.attraction, fit.attraction_weights * fit.attraction[:, None])


def log_interval(value: float, se: float | None, critical: float) -> Interval:
    """value x exp(± critical x se / value); from 0 to nobody knows where there was no event."""
    if value <= 0 or se is None:
        return (0.0, None)
    factor = math.exp(min(700.0, critical * se / value))
    return (value / factor, value * factor)


def drift(halves: Tally) -> tuple[float, int] | None:
    """Chi-square and its df that theta is the same in two halves of the time (rows); None with under 10 events in a cell of one."""
    cells = halves.shown.shape[1]
    if halves.got.min() < FEWEST_EVENTS:
        return None
    logs = np.log(halves.rate)
    apart = (logs[1] - logs[1, 0]) - (logs[0] - logs[0, 0])
    sign = np.array([-1.0, 1.0])[:, None]
    each = np.zeros((cells, 2, 2, cells))
    for cell in range(cells):
        each[cell, 0, :, cell] = -sign[:, 0] / halves.shown[:, cell]
        each[cell, 1, :, cell] = sign[:, 0] / halves.got[:, cell]
    weights = each.reshape(cells, -1)
    return wald((apart)[1:], halves.variance(weights[1:] - weights[0]))


def balance(counts: Tally) -> tuple[float, int] | None:
    """Chi-square and its df that each arm stands in each cell equally often; None where each grid holds one arm, once a cell."""
    size, cells = counts.shown.shape
    apart = counts.shown - counts.shown.sum(axis=1, keepdims=True) / cells
    centre = np.kron(np.eye(size), np.eye(cells) - 1 / cells)
    covariance = centre @ counts.cross[: size * cells, : size * cells] @ centre
    return wald(apart.ravel(), covariance) if covariance.trace() > RANK * counts.shown.sum() else None


def shuffled(counts: Ints) -> tuple[float, int]:
    """Chi-square and its df that cells [drawn, cell] are a uniformly random order: Pearson's x (K - 1)/K, df (K - 1)^2.

    Within one grid the cells of two pictures differ, which shrinks the spread of the table by that factor.
    """
    cells = len(counts)
    expected = counts.sum() / cells**2
    return float(((counts - expected) ** 2).sum() / expected) * (cells - 1) / cells, (cells - 1) ** 2


def wald(apart: Floats, covariance: Floats) -> tuple[float, int] | None:
    """apart' V^+ apart and the rank of V; None where nothing varies."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > RANK * max(float(values[-1]), 0.0)
    if not kept.any() or values[-1] <= 0:
        return None
    return float(np.sum((vectors[:, kept].T @ apart) ** 2 / values[kept])), int(kept.sum())


def p_of(found: tuple[float, int] | None) -> float | None:
    """The p-value of a chi-square and its df."""
    return None if found is None else chi_square_p(*found)


def _design(rows: int, cells: int) -> Floats:
    """[rows x cells, rows + cells - 1]: an indicator of the row, and one of every cell but the first."""
    return np.hstack([np.kron(np.eye(rows), np.ones((cells, 1))), np.kron(np.ones((rows, 1)), np.eye(cells)[:, 1:])])


def _connected(stood: NDArray[np.bool_]) -> bool:
    """Whether arms and cells, linked where an arm stood in a cell, hang together."""
    if not stood.size:
        return False
    cells = stood[0]
    for _ in range(len(stood)):
        cells = stood[(stood & cells).any(axis=1)].any(axis=0)
    return bool(cells.all())
