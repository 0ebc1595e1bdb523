"""Means and differences under adaptive propensities, from states per allocation period: unbiased however arms were favoured.

Within a period units had the same propensities e (`ArmState.differently`: but for some) and the same predictions m of the arms'
means, all fixed before it: so counts, sums and sums of squares per arm say all that the scores G = m + 1{arm}(Y - m)/e add up to.
Augmented inverse propensity weighting: Cook, Mishler & Ramdas 2024; Kato et al. 2020, arXiv 2002.05308; sequences: Waudby-Smith
et al. 2024, arXiv 2103.06476; fixed horizon: Hadad et al. 2021, arXiv 1911.02768. With every m = 0 it is plain inverse propensity
weighting.
"""

import math
from collections.abc import Mapping, Sequence

import msgspec

from analytics.inference.confidence_sequence import tightness
from analytics.inference.contrast import Interval


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """`n` units that got an arm with probability `propensity`; `s1`, `s2`: sums of their outcomes and of the squares."""

    n: int
    s1: float
    s2: float
    propensity: float

    def residuals(self, m: float) -> tuple[float, float]:
        """Sum and sum of squares of (Y - m)/e."""
        e = self.propensity
        return ((self.s1 - self.n * m) / e, max(0.0, self.s2 - 2 * m * self.s1 + self.n * m * m) / e**2)


class ArmState(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in one period: `n` units got it with probability `propensity`; `s1`, `s2`: sums of their outcomes and of the
    squares; `prediction`: the arm's mean as believed before the period.

    `differently`: those of the `n` that were drawn with another propensity, as requests on their way are when weights change.
    """

    n: int
    s1: float
    s2: float
    propensity: float
    prediction: float = 0.0
    differently: tuple[Drawn, ...] = ()

    @property
    def smallest_propensity(self) -> float:
        """Of all that its units were drawn with."""
        return min(self.propensity, *(part.propensity for part in self.differently)) if self.differently else self.propensity

    def residuals(self, prediction: float | None = None) -> tuple[float, float]:
        """Sum and sum of squares of 1{arm}(Y - m)/e over the period's units."""
        m = self.prediction if prediction is None else prediction
        others = self.differently
        n, s1, s2 = (getattr(self, name) - sum(getattr(part, name) for part in others) for name in ("n", "s1", "s2"))
        parts = [part.residuals(m) for part in (Drawn(n=n, s1=s1, s2=s2, propensity=self.propensity), *others)]
        return (sum(r for r, _ in parts), sum(q for _, q in parts))


class AllocationPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch with constant propensities and predictions. `units`: all that were drawn in it, whichever arm they got."""

    units: int
    arms: Mapping[str, ArmState]


class AdaptiveEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """Mean of `units` scores, their variance (dividing by `units`), and se = sqrt(variance/units)."""

    value: float
    variance: float
    units: int

    @property
    def se(self) -> float:
        return math.sqrt(self.variance / self.units)

    def interval(self, alpha: float, tightest_at: float) -> Interval:
        """Asymptotic confidence sequence, valid at every look (arXiv 2103.06476, the Lyapunov form); tightest where the scores'
        variances have added up to `tightest_at`, fixed beforehand. Unbounded while no score differs from another."""
        spread = self.units * self.variance * tightness(alpha, tightest_at)
        if not spread > 0:
            return (None, None)
        log = math.log1p(spread) / 2 - math.log(alpha)
        half = self.se * math.sqrt(2 * (1 + 1 / spread) * log)
        return (self.value - half, self.value + half)


def mean(periods: Sequence[AllocationPeriod], arm: str) -> AdaptiveEstimate | None:
    """The mean outcome if every unit had got `arm`. None where there are no units, or a period in which it could not be got."""
    rows = _reachable(periods, (arm,))
    if rows is None:
        return None
    first = second = 0.0
    for period in rows:
        state = period.arms[arm]
        r, q = state.residuals()
        first += period.units * state.prediction + r
        second += period.units * state.prediction**2 + 2 * state.prediction * r + q
    return _estimate(first, second, sum(period.units for period in rows))


def difference(periods: Sequence[AllocationPeriod], control: str, treated: str) -> AdaptiveEstimate | None:
    """Mean of `treated` minus mean of `control` over all units, whoever got what. None as for `mean`."""
    rows = _reachable(periods, (control, treated))
    if rows is None:
        return None
    first = second = 0.0
    for period in rows:
        a, b = period.arms[control], period.arms[treated]
        (r_a, q_a), (r_b, q_b) = a.residuals(), b.residuals()
        d = b.prediction - a.prediction
        first += period.units * d + r_b - r_a
        # No unit is in both arms: the residuals' product is 0.
        second += period.units * d * d + 2 * d * (r_b - r_a) + q_a + q_b
    return _estimate(first, second, sum(period.units for period in rows))


def fixed_horizon_mean(periods: Sequence[AllocationPeriod], arm: str) -> tuple[float, float] | None:
    """(value, variance of the value) for one look planned beforehand: scores weighted by h = sqrt(propensity), which keeps the
    estimate near normal where the propensity fell towards 0 (Hadad et al., variance-stabilising weights). None as for `mean`.

    Two arms' difference has the difference of the values and the sum of the variances.
    """
    rows = _reachable(periods, (arm,))
    if rows is None:
        return None
    weights = [math.sqrt(period.arms[arm].propensity) for period in rows]
    sums = [period.arms[arm].residuals() for period in rows]
    total = math.fsum(h * period.units for h, period in zip(weights, rows, strict=True))
    scores = [period.units * period.arms[arm].prediction + r for period, (r, _) in zip(rows, sums, strict=True)]
    value = math.fsum(h * score for h, score in zip(weights, scores, strict=True)) / total
    spread = 0.0
    for h, period, (r, q) in zip(weights, rows, sums, strict=True):
        apart = period.arms[arm].prediction - value
        spread += h * h * (period.units * apart * apart + 2 * apart * r + q)
    return value, max(0.0, spread) / total**2


def _reachable(periods: Sequence[AllocationPeriod], arms: Sequence[str]) -> list[AllocationPeriod] | None:
    """The periods with units, if each arm could be got in all of them."""
    rows = [period for period in periods if period.units > 0]
    if not rows or any(arm not in period.arms or not period.arms[arm].propensity > 0 for period in rows for arm in arms):
        return None
    return rows


def _estimate(first: float, second: float, units: int) -> AdaptiveEstimate:
    value = first / units
    return AdaptiveEstimate(value=value, variance=max(0.0, second / units - value * value), units=units)
