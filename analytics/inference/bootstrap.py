"""The bootstrap over units, as a check on closed forms (Efron & Tibshirani 1993, § 13; basic: Davison & Hinkley 1997, § 5.2)."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.inference.contrast import UNBOUNDED, Interval

Floats = NDArray[np.float64]
# Values drawn at a time: bounds the memory, not the number of draws.
CHUNK = 4_000_000


class Bootstrapped(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of the difference and of the lift (treated - control)/|control|, by percentiles and basic (reflected)."""

    draws: int
    difference: Interval
    lift: Interval
    basic_difference: Interval
    basic_lift: Interval


def bootstrap(
    control: Floats,
    treated: Floats,
    *,
    control_below: Floats | None = None,
    treated_below: Floats | None = None,
    draws: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Bootstrapped:
    """Of means per unit [n], or with `_below` [n] of ratios of totals. Units are drawn with replacement within each arm.

    No interval where an arm is empty, or where a draw's control (its denominator, for a ratio) is 0. Raises ValueError for
    fewer than 100 draws.
    """
    if draws < 100:
        raise ValueError(f"draws = {draws}: percentiles need at least 100 draws")
    if not len(control) or not len(treated):
        return Bootstrapped(draws=draws, difference=UNBOUNDED, lift=UNBOUNDED, basic_difference=UNBOUNDED, basic_lift=UNBOUNDED)
    rng = np.random.default_rng(seed)
    a, b = _drawn(control, control_below, draws, rng), _drawn(treated, treated_below, draws, rng)
    with np.errstate(divide="ignore", invalid="ignore"):
        differences, lifts = b - a, (b - a) / np.abs(a)
        here_a, here_b = _value(control, control_below), _value(treated, treated_below)
        difference = here_b - here_a
        lift = difference / np.abs(here_a)
    plain, relative = _percentiles(differences, alpha), _percentiles(lifts, alpha)
    return Bootstrapped(
        draws=draws,
        difference=plain,
        lift=relative,
        basic_difference=_reflected(plain, float(difference)),
        basic_lift=_reflected(relative, float(lift)),
    )


def _drawn(values: Floats, below: Floats | None, draws: int, rng: np.random.Generator) -> Floats:
    """The statistic of every resample [draws]."""
    n = len(values)
    at_once = max(1, CHUNK // n)
    parts = []
    for start in range(0, draws, at_once):
        chosen = rng.integers(0, n, (min(at_once, draws - start), n))
        with np.errstate(divide="ignore", invalid="ignore"):
            parts.append(values[chosen].mean(axis=1) if below is None else values[chosen].sum(axis=1) / below[chosen].sum(axis=1))
    return np.concatenate(parts)


def _value(values: Floats, below: Floats | None) -> np.float64:
    return np.float64(values.mean() if below is None else np.float64(values.sum()) / np.float64(below.sum()))


def _percentiles(drawn: Floats, alpha: float) -> Interval:
    if not np.isfinite(drawn).all():
        return UNBOUNDED
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return (float(low), float(high))


def _reflected(interval: Interval, estimate: float) -> Interval:
    low, high = interval
    if low is None or high is None or not math.isfinite(estimate):
        return UNBOUNDED
    return (2 * estimate - high, 2 * estimate - low)
