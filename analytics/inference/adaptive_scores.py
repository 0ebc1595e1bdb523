"""Arms of a bandit compared by AIPW scores on the logged propensities, from the sums of a `Table`: means, ratios, at any look.

Scores: Cook, Mishler & Ramdas 2024; Kato et al. 2020, arXiv 2002.05308. Sequence: Waudby-Smith et al. 2024, arXiv 2103.06476, the
Lyapunov form. Fixed horizon: Hadad et al. 2021, arXiv 1911.02768. A ratio's scores are linearised (delta method).
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.inference.adaptive_table import Array, Table
from analytics.inference.contrast import LinearContrast

# An arm of a proportion with fewer hits, or misses, than this has no variance of its own to trust: that of both arms stands in where
# it is larger.
FEW = 30


class ArmEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What every unit would have done in the arm, on average, and the standard deviation of a unit; `units` drawn into it, out of
    `reached` that could have been. `smallest_propensity` of those drawn; `effective_units` (Kish): how many of equal propensity
    tell as much."""

    value: float
    se: float
    deviation: float
    units: int
    reached: int
    smallest_propensity: float
    effective_units: float


class FixedHorizon(msgspec.Struct, frozen=True, kw_only=True):
    """Variance-stabilised estimate (Hadad et al.), for one look planned beforehand."""

    value: float
    se: float


def used(table: Table, *arms: str, until: int | None = None) -> NDArray[np.bool_]:
    """[S] which stretches all of `arms` could be got in; of the first `until` ones."""
    rows = np.all(table.reachable[:, [table.arms.index(arm) for arm in arms]], axis=1)
    return np.asarray(rows if until is None else rows & (np.arange(len(rows)) < until))


def arm_estimate(table: Table, arm: str) -> ArmEstimate | None:
    """Over the stretches in which the arm could be got; None without a unit of it there, or for a ratio over nothing."""
    rows, k = used(table, arm), table.arms.index(arm)
    n = float(table.n[rows, k].sum())
    if not n:
        return None
    mean, covariance, units = _scores(table, rows, (k,), None)
    value, gradient = _value(mean)
    if value is None:
        return None
    # About the estimate, weighted back to all units (Hájek), so that it is never negative.
    centre = mean - table.centre
    n1, a1, b1 = float(table.n1[rows, k].sum()), table.a1[rows, k].sum(axis=0), table.b1[rows, k].sum(axis=0)
    spread = (b1 - np.outer(a1, centre) - np.outer(centre, a1) + n1 * np.outer(centre, centre)) / n1
    return ArmEstimate(
        value=value,
        se=_root(float(gradient @ covariance @ gradient) / units),
        deviation=_root(float(gradient @ spread @ gradient)),
        units=int(n),
        reached=int(units),
        smallest_propensity=float(table.smallest[rows, k].min()),
        effective_units=n1 * (n1 / float(table.n2[rows, k].sum())),
    )


def contrast(table: Table, control: str, arm: str, *, hits: bool = False, until: int | None = None) -> LinearContrast | None:
    """`arm` against `control` over the stretches (the first `until` of them) in which both could be got; None where nothing varies,
    or a ratio has no denominator.

    `hits`: outcomes are 0 or 1. `units`, on which the sequence goes on, are T s2/(K^2 v): the variances of the T scores added up,
    over that of one score of K arms that share units evenly, times K^2/2 for the 2/K of the units that a comparison of two such
    arms has. With even weights that never move they are the units of both arms, as in a plain comparison; so the sequence is
    tightest where it would be there, and v, the outcomes' own variance, frees it of any unit of measurement.
    """
    rows, at = used(table, control, arm, until=until), (table.arms.index(control), table.arms.index(arm))
    pooled = _pooled(table, rows, at)
    if pooled is None or not table.n[rows][:, at].sum(axis=0).all():
        return None
    mean, covariance, units = _scores(table, rows, at, pooled if hits else None)
    d = table.d
    (a, slope_a), (b, slope_b) = _value(mean[:d]), _value(mean[d:])
    _, slope = _value(table.centre)
    if a is None or b is None:
        return None
    own, apart = np.concatenate([slope_a, np.zeros(d)]), np.concatenate([-slope_a, slope_b])
    score, outcome = float(apart @ covariance @ apart), float(slope @ pooled @ slope)
    count = int(table.reachable[rows][0].sum())
    if not (score > 0 and outcome > 0 and math.isfinite(score) and units * (score / outcome) < 1e300):
        return None
    return LinearContrast(
        control=a,
        difference=b - a,
        control_variance=max(0.0, float(own @ covariance @ own)) / units,
        difference_variance=score / units,
        covariance=float(own @ covariance @ apart) / units,
        df=None,
        units=max(1, round(units * (score / outcome) / (count * count))),
    )


def fixed_horizon(table: Table, arm: str, control: str | None = None) -> FixedHorizon | None:
    """The arm's mean, or its difference to the control, by scores weighted with h = (sum of 1/e)^(-1/2) over the arms that it rests
    on (for a mean: all that could be got then), so that their variance stays near even. Of a mean or a proportion, over the
    stretches in which both could be got; None without a unit there.

    All arms share h: with one each (Hadad et al.'s first form) arms would stand for different times, and a season be an effect.
    """
    names = (arm,) if control is None else (control, arm)
    rows, at = used(table, *names), [table.arms.index(name) for name in names]
    if table.d != 1 or not rows.any() or not table.n[rows][:, at].sum(axis=0).all():
        return None
    inverse = np.where(table.reachable, 1 / np.maximum(table.propensity, 1e-300), 0.0)[rows]
    h = (inverse.sum(axis=1) if control is None else inverse[:, at].sum(axis=1)) ** -0.5
    units, m, r, q = table.units[rows], np.zeros(int(rows.sum())), np.zeros(int(rows.sum())), np.zeros(int(rows.sum()))
    for sign, k in zip((1.0,) if control is None else (-1.0, 1.0), at, strict=True):
        first, second = (part[rows].reshape(-1) for part in table.residuals(k, table.predictions[:, k]))
        m, r, q = m + sign * table.predictions[rows, k, 0], r + sign * first, q + second
    total = float(h @ units)
    value = float(h @ (units * m + r)) / total
    apart = m - value
    spread = float((h * h) @ (units * apart**2 + 2 * apart * r + q))
    return FixedHorizon(value=value + (float(table.centre[0]) if control is None else 0.0), se=_root(spread) / total)


def _scores(table: Table, rows: NDArray[np.bool_], at: tuple[int, ...], pooled: Array | None) -> tuple[Array, Array, float]:
    """Means [len(at) d] and covariance of the units' scores, arm after arm, and how many units. `pooled` [d, d]: outcomes' own
    covariance, for arms with few hits or misses."""
    d, units = table.d, table.units[rows]
    total, m_all = float(units.sum()), [table.predictions[:, k] for k in at]
    sums, square = np.zeros(len(at) * d), np.zeros((len(at) * d, len(at) * d))
    residuals = [table.residuals(k, m) for k, m in zip(at, m_all, strict=True)]
    for i, (m_i, (r_i, q_i), k) in enumerate(zip(m_all, residuals, at, strict=True)):
        m, r, q = m_i[rows], r_i[rows], q_i[rows].sum(axis=0)
        if pooled is not None and _few(table, rows, k):
            q = np.maximum(q, float(table.n2[rows, k].sum()) * pooled)
        here = slice(i * d, i * d + d)
        sums[here] = units @ m + r.sum(axis=0)
        square[here, here] = q
        for j, (m_j, (r_j, _)) in enumerate(zip(m_all, residuals, strict=True)):
            other, also = m_j[rows], r_j[rows]
            # No unit is in both arms: the product of their residuals is 0.
            square[here, j * d : j * d + d] += (units[:, None] * m).T @ other + m.T @ also + r.T @ other
    mean = sums / total
    covariance = square / total - np.outer(mean, mean)
    return mean + np.tile(table.centre, len(at)), covariance, total


def _few(table: Table, rows: NDArray[np.bool_], k: int) -> bool:
    n = float(table.n[rows, k].sum())
    hits = float(table.first[rows, k, 0].sum()) + n * float(table.centre[0])
    return min(hits, n - hits) < FEW


def _pooled(table: Table, rows: NDArray[np.bool_], at: tuple[int, ...]) -> Array | None:
    """[d, d] covariance of the outcomes of these arms' units as one sample; None without units."""
    n = float(table.n[rows][:, at].sum())
    if not n:
        return None
    mean = table.first[rows][:, at].sum(axis=(0, 1)) / n
    return np.asarray(table.second[rows][:, at].sum(axis=(0, 1)) / n - np.outer(mean, mean))


def _value(mean: Array) -> tuple[float | None, Array]:
    """What the means [d] come to, and the slope of it by each; None for a ratio over nothing."""
    if len(mean) == 1:
        return float(mean[0]), np.ones(1)
    if not mean[1] > 0:
        return None, np.zeros(2)
    ratio = float(mean[0] / mean[1])
    return ratio, np.array([1.0, -ratio]) / float(mean[1])


def _root(variance: float) -> float:
    return math.sqrt(max(0.0, variance))
