"""Sample size, power and smallest detectable effect of a comparison of two arms, before and during an experiment.

With N units in both arms, a share s of them in the control, the arms' means m_a and m_b, and r = 1 (a difference) or r = 1 ∓ margin
(non-inferiority): the test finds what is there with probability

    power = Φ((signal √N - c(N) null)/true) [+ Φ((-signal √N - c(N) null)/true) when two-sided],   signal = |m_b - r m_a|,

where true² = v_b/(1-s) + r² v_a/s is N times the variance of m_b - r m_a, null² the one that the test's statistic uses, and c(N) its
critical value. N solves signal √N = c(N) null + z_power true (the wrong tail left out, as is usual). With s = 1/2 these are the textbook's
forms: Fleiss, Levin & Paik (2003), eq. 4.14, for proportions; n = 2 v (z + z)²/delta² per arm for means.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec
from scipy.special import ndtr, ndtri

from analytics.inference import confidence_sequence

Criterion = Callable[[float], float]
LARGEST_UNITS = 1e15
_DOUBLINGS = 1100


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A metric as it is without the change: the control's mean, and what the units' variance is.

    `variance` per unit, the same in both arms (for ratios and quantiles of the linearised unit: n times the variance of the arm's
    estimate); None: a proportion, m (1 - m). `remaining`: the share of it that covariates leave. `scale` of a proportion's test:
    the pooled z, an unpooled z, or the difference of 2 asin √p (Cohen 1988); with covariates it is always the unpooled one.
    """

    baseline: float
    variance: float | None = None
    remaining: float = 1.0
    scale: Literal["pooled", "unpooled", "arcsine"] = "pooled"

    def variance_at(self, mean: float) -> float:
        """Per unit, covariates taken out."""
        return self.remaining * (mean * (1 - mean) if self.variance is None else self.variance)

    def possible(self, mean: float) -> bool:
        """Whether an arm can have this mean."""
        return self.variance is not None or 0 <= mean <= 1


class Spread(NamedTuple):
    """What is to be found and how it is blurred: the statistic is about (signal √N)/null, with deviation true/null."""

    signal: float
    null: float
    true: float


def spread(outcome: Outcome, effect: float, share: float, ratio: float = 1.0) -> Spread:
    """Of treated - `ratio` x control when treated = baseline + `effect`; `share` of the pair's units are the control's.

    Signed: positive when treated is above. Raises ValueError where no such arm can be.
    """
    a, b = outcome.baseline, outcome.baseline + effect
    if not 0 < share < 1:
        raise ValueError(f"the control's share of the units is {share:g}; give one between 0 and 1")
    if not outcome.possible(b):
        raise ValueError(f"a proportion of {a:g} cannot change by {effect:+g}: it would be {b:g}, and must be between 0 and 1")
    if outcome.variance is None and outcome.remaining == 1 and ratio == 1:
        if outcome.scale == "arcsine":
            deviation = math.sqrt(1 / share + 1 / (1 - share))
            return Spread(2 * (math.asin(math.sqrt(b)) - math.asin(math.sqrt(a))), deviation, deviation)
        if outcome.scale == "pooled":
            q = share * a + (1 - share) * b
            null = math.sqrt(q * (1 - q) * (1 / share + 1 / (1 - share)))
            return Spread(effect, null, math.sqrt(a * (1 - a) / share + b * (1 - b) / (1 - share)))
    deviation = math.sqrt(outcome.variance_at(b) / (1 - share) + ratio * ratio * outcome.variance_at(a) / share)
    return Spread(b - ratio * a, deviation, deviation)


def fixed(alpha: float, *, one_sided: bool = False) -> Criterion:
    """One look: the normal quantile, whatever the units."""
    critical = -float(ndtri(alpha if one_sided else alpha / 2))
    return lambda units: critical


def any_look(alpha: float, planned_units: float | None, *, share: float = 1.0, one_sided: bool = False) -> Criterion:
    """Valid at any look (Waudby-Smith et al. 2024, see `confidence_sequence`), judged at that many units of the pair.

    `planned_units` None: planned for just where it is judged, when the pair has `share` of all units; c is then a constant.
    """
    # As functions of N rho² the formulas take any positive number of units, whole or not.
    critical: Callable[..., float] = confidence_sequence.one_sided_critical if one_sided else confidence_sequence.two_sided_critical
    return lambda units: critical(units, alpha, planned_units or units / share)


def required_units(found: Spread, criterion: Criterion, power: float) -> float | None:
    """Units of both arms together, not rounded. None when no number of units below `LARGEST_UNITS` is enough."""
    if not found.signal > 0:
        return None
    z = float(ndtri(power))

    def enough(units: float) -> bool:
        return found.signal * math.sqrt(units) >= criterion(units) * found.null + z * found.true

    low, high = 0.0, 1.0
    while not enough(high):
        low, high = high, high * 2
        if high > LARGEST_UNITS:
            return None
    # For a critical value that does not move the answer is exact.
    if criterion(high) == criterion(2 * high):
        return ((criterion(high) * found.null + z * found.true) / found.signal) ** 2
    return _boundary(enough, low, high)


def power_at(units: float, found: Spread, criterion: Criterion, *, one_sided: bool = False) -> float:
    """The probability that the test says "changed" when it is judged once, with `units` in both arms."""
    if units <= 0:
        return 0.0
    shift, bound = found.signal * math.sqrt(units), criterion(units) * found.null
    if found.true <= 0:
        return float(shift > bound)
    wrong = 0.0 if one_sided else float(ndtr((-shift - bound) / found.true))
    return float(ndtr((shift - bound) / found.true)) + wrong


def smallest_effect(
    outcome: Outcome, share: float, units: float, criterion: Criterion, power: float, *, upwards: bool = True, ratio: float = 1.0
) -> float | None:
    """The smallest absolute change that is found with `power`: its sign is that of `upwards`. None when no possible one is.

    With a `ratio` other than 1 (non-inferiority), the change that is just told from `ratio` x control in that direction.
    """
    sign = 1.0 if upwards else -1.0
    z = float(ndtri(power))
    critical = criterion(units)

    def enough(size: float) -> bool:
        found = spread(outcome, sign * size, share, ratio)
        return sign * found.signal * math.sqrt(units) >= critical * found.null + z * found.true

    if outcome.variance is None:
        high = (1 - outcome.baseline) if upwards else outcome.baseline
        return sign * _boundary(enough, 0.0, high) if high > 0 and enough(high) else None
    high = math.sqrt(outcome.variance_at(outcome.baseline) or 1.0)
    for _ in range(_DOUBLINGS):
        if enough(high):
            return sign * _boundary(enough, 0.0, high)
        high *= 2
        if not math.isfinite(high):
            break
    return None


def smallest_margin(
    outcome: Outcome, share: float, units: float, criterion: Criterion, power: float, *, lower_is_better: bool, effect: float = 0.0
) -> float | None:
    """The smallest relative margin that an arm whose true change is `effect` is shown to keep. None where the baseline is 0."""
    if outcome.baseline == 0:
        return None
    z, critical, sign = float(ndtri(power)), criterion(units), -1.0 if lower_is_better else 1.0

    def enough(margin: float) -> bool:
        found = spread(outcome, effect, share, margin_ratio(outcome.baseline, margin, lower_is_better=lower_is_better))
        return sign * found.signal * math.sqrt(units) >= critical * found.null + z * found.true

    high = 1e-6
    while not enough(high):
        high *= 2
        if high > 1e6:
            return None
    return _boundary(enough, 0.0, high)


def margin_ratio(baseline: float, margin: float, *, lower_is_better: bool) -> float:
    """treated/control just at the margin; a baseline below 0 gets worse in the other direction."""
    return 1 + margin if lower_is_better == (baseline >= 0) else max(0.0, 1 - margin)


def _boundary(enough: Callable[[float], bool], low: float, high: float) -> float:
    """Where `enough` turns true between `low` (false) and `high` (true), to the last digits."""
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high or high - low <= 1e-13 * high:
            break
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
