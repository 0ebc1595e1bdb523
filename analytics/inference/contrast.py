"""A treated arm against the control: what every method hands on to intervals, sequences and posteriors."""

import math
from typing import Protocol

import msgspec

Interval = tuple[float | None, float | None]
UNBOUNDED: Interval = (None, None)


class Contrast(Protocol):
    """Two arms compared. `statistic` tests treated mean = ratio x control mean; `difference_interval` and `ratio_interval` invert
    that same test, with any critical value: so they exclude "no change" exactly when |statistic| exceeds the critical value.

    `df`: degrees of freedom of the statistic's t (None: normal); `lift_df`: those of the lift's interval; `control_variance`: of
    the control's mean.
    """

    @property
    def control(self) -> float: ...
    @property
    def control_variance(self) -> float: ...
    @property
    def difference(self) -> float: ...
    @property
    def units(self) -> int: ...
    @property
    def df(self) -> float | None: ...
    @property
    def lift_df(self) -> float | None: ...
    @property
    def se(self) -> float: ...
    @property
    def relative_se(self) -> float | None: ...
    @property
    def log_ratio(self) -> "LogRatio | None": ...
    def statistic(self, ratio: float = 1.0) -> float: ...
    def difference_interval(self, critical: float) -> Interval: ...
    def ratio_interval(self, critical: float) -> Interval: ...


class LogRatio(msgspec.Struct, frozen=True):
    """The standard error of ln(treated/control) and its degrees of freedom (None: normal)."""

    se: float
    df: float | None


class LinearContrast(msgspec.Struct, frozen=True, kw_only=True):
    """Means (or what the delta method makes a mean), with the variances of the means, not of the units.

    `covariance` is between the control and the difference: minus the control's variance where the arms are independent and
    nothing is adjusted. `delta_lift`: the lift at which the delta method is evaluated, where it is not the lift itself.
    `freedom`: n - 1 of control and treated arm, where a Welch df of the log ratio can be told.
    """

    control: float
    difference: float
    control_variance: float
    difference_variance: float
    covariance: float
    df: float | None
    units: int
    delta_lift: float | None = None
    freedom: tuple[int, int] | None = None

    @property
    def treated(self) -> float:
        return self.control + self.difference

    @property
    def lift_df(self) -> float | None:
        return self.df

    @property
    def se(self) -> float:
        """Standard error of the difference."""
        return math.sqrt(max(0.0, self.difference_variance))

    @property
    def relative_se(self) -> float | None:
        """Standard error of the lift difference/|control|, by the delta method; None where control is 0."""
        if not self.control:
            return None
        lift = self.difference / self.control if self.delta_lift is None else self.delta_lift
        return self._deviation(lift) / abs(self.control)

    @property
    def log_ratio(self) -> LogRatio | None:
        """Of ln(treated/control), by the delta method; None unless both are above 0."""
        if not (self.control > 0 and self.treated > 0):
            return None
        ratio = self.treated / self.control
        se = self._deviation(ratio - 1) / self.treated
        if self.freedom is None:
            return LogRatio(se, self.df)
        own = math.sqrt(self.control_variance) / self.control
        other = math.sqrt(max(0.0, self.difference_variance + 2 * self.covariance + self.control_variance)) / self.treated
        if not 0 < own * own + other * other < math.inf:
            return None
        return LogRatio(se, welch_df(own * own, other * other, self.freedom))

    def statistic(self, ratio: float = 1.0) -> float:
        """(treated - ratio x control) over its standard error."""
        apart, deviation = self.difference - (ratio - 1) * self.control, self._deviation(ratio - 1)
        if deviation > 0:
            return apart / deviation
        return math.copysign(math.inf, apart) if apart else 0.0

    def difference_interval(self, critical: float) -> Interval:
        """difference ± critical x se."""
        half = critical * self.se
        return (self.difference - half, self.difference + half)

    def ratio_interval(self, critical: float) -> Interval:
        """Fieller's set of treated/control; unbounded where the control mean is not told from 0 at this critical value."""
        if not self.control:
            return UNBOUNDED
        # In units of the control, so that neither large nor small values over- or underflow.
        own, other = critical * math.sqrt(self.control_variance) / self.control, critical * self.se / self.control
        lift, shared = self.difference / self.control, critical * critical * (self.covariance / self.control / self.control)
        a, b, c = 1 - own * own, lift - shared, lift * lift - other * other
        if not (a > 0 and math.isfinite(b) and math.isfinite(c)):
            return UNBOUNDED
        root = math.sqrt(max(0.0, b * b - a * c))
        # The root of larger size first; the other from the product of the roots, so that neither cancels.
        far = b + math.copysign(root, b)
        ends = (far / a, c / far) if far else (0.0, 0.0)
        return (1 + min(ends), 1 + max(ends))

    def _deviation(self, lift: float) -> float:
        """Standard deviation of difference - lift x control."""
        return math.sqrt(max(0.0, self.difference_variance - 2 * lift * self.covariance + lift * lift * self.control_variance))


def welch_df(control_variance: float, treated_variance: float, freedom: tuple[float, float]) -> float:
    """Welch–Satterthwaite degrees of freedom from the variances of two means, not both 0, with n - 1 each."""
    share = control_variance / (control_variance + treated_variance)
    return 1 / (share**2 / freedom[0] + (1 - share) ** 2 / freedom[1])


def welch_contrast(
    *, control: float, control_variance: float, control_n: int, treated: float, treated_variance: float, treated_n: int, units: int
) -> LinearContrast | None:
    """Welch's comparison; variances are per observation. None when it cannot be tested: n < 2, or no variation at all."""
    if control_n < 2 or treated_n < 2:
        return None
    a, b = max(0.0, control_variance) / control_n, max(0.0, treated_variance) / treated_n
    if not (0 < a + b < math.inf and math.isfinite(control) and math.isfinite(treated)):
        return None
    freedom = (control_n - 1, treated_n - 1)
    return independent(
        control=control,
        control_variance=a,
        treated=treated,
        treated_variance=b,
        df=welch_df(a, b, freedom),
        units=units,
        freedom=freedom,
    )


def independent(
    *,
    control: float,
    control_variance: float,
    treated: float,
    treated_variance: float,
    df: float | None,
    units: int,
    freedom: tuple[int, int] | None = None,
) -> LinearContrast:
    """Two means that know nothing of each other; variances are of the means."""
    return LinearContrast(
        control=control,
        difference=treated - control,
        control_variance=control_variance,
        difference_variance=control_variance + treated_variance,
        covariance=-control_variance,
        df=df,
        units=units,
        freedom=freedom,
    )
