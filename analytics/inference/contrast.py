"""A treated arm against the control: what every method hands on to intervals, sequences and posteriors."""

import math
from typing import Protocol

import msgspec

Interval = tuple[float | None, float | None]
UNBOUNDED: Interval = (None, None)


class Contrast(Protocol):
    """Two arms compared. `statistic` tests treated mean = ratio x control mean; intervals invert that same test,
    with any critical value: so an interval excludes "no change" exactly when |statistic| exceeds the critical value."""

    @property
    def treated(self) -> float: ...
    @property
    def control(self) -> float: ...
    @property
    def units(self) -> int: ...
    @property
    def df(self) -> float | None: ...
    @property
    def se(self) -> float: ...
    @property
    def relative_se(self) -> float | None: ...
    def statistic(self, ratio: float = 1.0) -> float: ...
    def difference_interval(self, critical: float) -> Interval: ...
    def ratio_interval(self, critical: float) -> Interval: ...


class LinearContrast(msgspec.Struct, frozen=True, kw_only=True):
    """Means (or what the delta method makes a mean) with the variances of the means, not of the units.

    `covariance` is between the two means: 0 but for CUPED, where the control's covariate serves both.
    """

    treated: float
    control: float
    treated_variance: float
    control_variance: float
    df: float
    units: int
    covariance: float = 0.0

    @property
    def se(self) -> float:
        """Standard error of treated - control."""
        return self._deviation(1.0)

    @property
    def relative_se(self) -> float | None:
        """Standard error of the lift (treated - control)/|control|, by the delta method; None where control is 0."""
        return self._deviation(self.treated / self.control) / abs(self.control) if self.control else None

    def statistic(self, ratio: float = 1.0) -> float:
        """(treated - ratio x control) over its standard error."""
        return (self.treated - ratio * self.control) / self._deviation(ratio)

    def difference_interval(self, critical: float) -> Interval:
        """difference ± critical x se."""
        centre, half = self.treated - self.control, critical * self.se
        return (centre - half, centre + half)

    def ratio_interval(self, critical: float) -> Interval:
        """Fieller's set of treated/control; unbounded where the control mean is not told from 0 at this critical value."""
        square = critical * critical
        a = self.control**2 - square * self.control_variance
        if not a > 0:
            return UNBOUNDED
        b = self.treated * self.control - square * self.covariance
        c = self.treated**2 - square * self.treated_variance
        root = math.sqrt(max(0.0, b * b - a * c))
        return ((b - root) / a, (b + root) / a)

    def _deviation(self, ratio: float) -> float:
        variance = self.treated_variance - 2 * ratio * self.covariance + ratio * ratio * self.control_variance
        return math.sqrt(max(0.0, variance))


def welch_contrast(
    *, control: float, control_variance: float, control_n: int, treated: float, treated_variance: float, treated_n: int, units: int
) -> LinearContrast | None:
    """Welch's comparison; variances are per observation. None when it cannot be tested: n < 2, or no variation at all."""
    if control_n < 2 or treated_n < 2:
        return None
    a, b = max(0.0, control_variance) / control_n, max(0.0, treated_variance) / treated_n
    if not (0 < a + b < math.inf and math.isfinite(control) and math.isfinite(treated)):
        return None
    share = a / (a + b)
    df = 1 / (share**2 / (control_n - 1) + (1 - share) ** 2 / (treated_n - 1))
    return LinearContrast(treated=treated, control=control, treated_variance=b, control_variance=a, df=df, units=units)
