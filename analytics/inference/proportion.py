"""Two proportions by the score test: pooled z for the p-value and the intervals that invert exactly that test.

Difference: Mee (1984); ratio: Koopman (1984); both with the constrained maximum likelihood of Miettinen & Nurminen
(1985), without their N/(N-1). At difference 0 or ratio 1 the constrained estimate is the pooled one, so these intervals
and the pooled z agree always, which Wald and Newcombe intervals do not: they stand in where those contradict it.
"""

import math

import msgspec

from analytics.facts import Moments
from analytics.inference.contrast import UNBOUNDED, Interval, LinearContrast, LogRatio, welch_df
from analytics.inference.roots import falling_root


class ProportionContrast(msgspec.Struct, frozen=True, kw_only=True):
    """`x` of `n` units did it, in the control (a) and the treated arm (b)."""

    x_a: int
    n_a: int
    x_b: int
    n_b: int

    @property
    def control(self) -> float:
        return self.x_a / self.n_a

    @property
    def treated(self) -> float:
        return self.x_b / self.n_b

    @property
    def difference(self) -> float:
        return self.treated - self.control

    @property
    def control_variance(self) -> float:
        return self.control * (1 - self.control) / self.n_a

    @property
    def units(self) -> int:
        return self.n_a + self.n_b

    @property
    def df(self) -> None:
        return None

    @property
    def lift_df(self) -> float | None:
        """Welch's, on m(1 - m); None where it cannot be told."""
        a, b = self.control, self.treated
        return self._welch(a * (1 - a) / self.n_a, b * (1 - b) / self.n_b)

    @property
    def log_ratio(self) -> LogRatio | None:
        """Of ln(treated/control); None unless both are above 0."""
        a, b = self.control, self.treated
        if self.x_a == 0 or self.x_b == 0:
            return None
        own, other = (1 - a) / (self.n_a * a), (1 - b) / (self.n_b * b)
        return LogRatio(math.sqrt(own + other), self._welch(own, other))

    @property
    def se(self) -> float:
        """Standard error of the difference, unpooled."""
        a, b = self.control, self.treated
        return math.sqrt(a * (1 - a) / self.n_a + b * (1 - b) / self.n_b)

    @property
    def relative_se(self) -> float | None:
        """Standard error of the lift by the delta method; None where the control's proportion is 0."""
        a, b = self.control, self.treated
        if a == 0:
            return None
        return math.sqrt(b * (1 - b) / self.n_b + (b / a) ** 2 * a * (1 - a) / self.n_a) / a

    @property
    def unpooled(self) -> LinearContrast | None:
        """The same by Wald's statistic, which the asymptotic sequences are about; None where it is not defined."""
        a, b = self.control * (1 - self.control) / self.n_a, self.treated * (1 - self.treated) / self.n_b
        if not (a > 0 and b > 0):
            return None
        return LinearContrast(
            control=self.control,
            difference=self.difference,
            control_variance=a,
            difference_variance=a + b,
            covariance=-a,
            df=None,
            units=self.units,
        )

    def statistic(self, ratio: float = 1.0) -> float:
        """Score statistic of treated = ratio x control; at ratio 1 the pooled z."""
        total, successes = self.n_a + self.n_b, self.x_a + self.x_b
        # Constrained maximum likelihood of the control's proportion: smaller root, in the form that does not cancel.
        b = self.n_b * ratio + self.x_b + self.n_a + self.x_a * ratio
        p_a = 2 * successes / (b + math.sqrt(max(0.0, b * b - 4 * total * ratio * successes)))
        p_b = min(1.0, ratio * p_a)
        variance = p_b * (1 - p_b) / self.n_b + ratio**2 * p_a * (1 - p_a) / self.n_a
        return _over(self.treated - ratio * self.control, variance)

    def difference_interval(self, critical: float) -> Interval:
        """Mee's score interval of treated - control."""
        centre = self.treated - self.control
        low = falling_root(lambda d: self._score_of_difference(d) - critical, -1.0, centre) if centre > -1 else -1.0
        high = falling_root(lambda d: self._score_of_difference(d) + critical, centre, 1.0) if centre < 1 else 1.0
        return (low, high)

    def ratio_interval(self, critical: float) -> Interval:
        """Koopman's score interval of treated/control; unbounded where no unit of the control did it."""
        if self.x_a == 0:
            return UNBOUNDED
        centre = self.treated / self.control
        high_end = max(centre, 1 / self.n_b)
        while self.statistic(high_end) > -critical:
            high_end *= 2
        high = falling_root(lambda r: self.statistic(r) + critical, centre, high_end)
        if self.x_b == 0:
            return (0.0, high)
        low_end = centre
        while self.statistic(low_end) < critical:
            low_end /= 2
        return (falling_root(lambda r: self.statistic(r) - critical, low_end, centre), high)

    def _welch(self, own: float, other: float) -> float | None:
        return welch_df(own, other, (self.n_a - 1, self.n_b - 1)) if own + other > 0 and min(self.n_a, self.n_b) > 1 else None

    def _score_of_difference(self, difference: float) -> float:
        p_a = _constrained(self.x_a, self.n_a, self.x_b, self.n_b, difference)
        p_b = min(1.0, max(0.0, p_a + difference))
        return _over(self.treated - self.control - difference, p_b * (1 - p_b) / self.n_b + p_a * (1 - p_a) / self.n_a)


def proportion_contrast(control: Moments, treated: Moments) -> ProportionContrast | None:
    """From the means of a 0/1 outcome. None when an arm has no units or a mean outside [0, 1]."""
    if control.n < 1 or treated.n < 1 or not (0 <= control.mean <= 1 and 0 <= treated.mean <= 1):
        return None
    return ProportionContrast(x_a=round(control.mean * control.n), n_a=control.n, x_b=round(treated.mean * treated.n), n_b=treated.n)


def _over(difference: float, variance: float) -> float:
    if variance <= 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / math.sqrt(variance)


def _constrained(x_a: int, n_a: int, x_b: int, n_b: int, difference: float) -> float:
    """Maximum likelihood of the control's proportion given treated - control = difference (Farrington & Manning 1990)."""
    n = n_a + n_b
    b = (n_b + 2 * n_a) * difference - n - x_a - x_b
    c = (n_a * difference - n - 2 * x_a) * difference + x_a + x_b
    d = x_a * difference * (1 - difference)
    v = b**3 / (3 * n) ** 3 - b * c / (6 * n**2) + d / (2 * n)
    u = math.copysign(math.sqrt(max(0.0, (b / (3 * n)) ** 2 - c / (3 * n))), v)
    if u == 0:
        root = -b / (3 * n)
    else:
        angle = (math.pi + math.acos(min(1.0, max(-1.0, v / u**3)))) / 3
        root = 2 * u * math.cos(angle) - b / (3 * n)
    return min(min(1.0, 1 - difference), max(max(0.0, -difference), root))
