"""CUPED: a covariate from before the exposure takes its share of the noise (Deng, Xu, Kohavi & Walker, WSDM 2013)."""

import msgspec

from analytics.inference.contrast import LinearContrast


class CovariateMoments(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: outcome y and covariate x per unit; m2 are centred sums of squares, `comoment` that of products.

    For a ratio, y is the linearised unit R + (y - R d)/mean(d), whose mean is the ratio R of the arm.
    """

    n: int
    mean: float
    m2: float
    covariate_mean: float
    covariate_m2: float
    comoment: float


class Cuped(msgspec.Struct, frozen=True):
    """The adjusted comparison, the coefficient theta, and the share of the difference's variance that went."""

    contrast: LinearContrast
    theta: float
    variance_reduction: float


def cuped_contrast(control: CovariateMoments, treated: CovariateMoments) -> Cuped | None:
    """Difference of covariate-adjusted means; theta from both arms pooled as one sample.

    The lift is the adjusted difference over the RAW control mean, whose covariance with the adjustment is kept (leaving
    it out is the known error of the relative variance). None when n < 3 in an arm, or y or x is constant.
    """
    a, b = control, treated
    if a.n < 3 or b.n < 3:
        return None
    theta = _theta(a, b)
    raw_a, raw_b = a.m2 / (a.n - 1) / a.n, b.m2 / (b.n - 1) / b.n
    if theta is None or not raw_a + raw_b > 0:
        return None
    left_a, left_b = _adjusted(a, theta), _adjusted(b, theta)
    if not left_a + left_b > 0:
        return None
    covariate_a, product_a = a.covariate_m2 / (a.n - 1) / a.n, a.comoment / (a.n - 1) / a.n
    difference = (b.mean - a.mean) - theta * (b.covariate_mean - a.covariate_mean)
    share = left_a / (left_a + left_b)
    contrast = LinearContrast(
        control=a.mean,
        treated=a.mean + difference,
        control_variance=raw_a,
        treated_variance=left_b + theta * theta * covariate_a,
        covariance=theta * product_a,
        df=1 / (share**2 / (a.n - 1) + (1 - share) ** 2 / (b.n - 1)),
        units=a.n + b.n,
    )
    return Cuped(contrast, theta, 1 - (left_a + left_b) / (raw_a + raw_b))


def _theta(a: CovariateMoments, b: CovariateMoments) -> float | None:
    """cov(y, x)/var(x) over both arms as one sample: within-arm sums plus what lies between the arms' means."""
    weight = a.n * b.n / (a.n + b.n)
    apart = b.covariate_mean - a.covariate_mean
    squares = a.covariate_m2 + b.covariate_m2 + weight * apart * apart
    products = a.comoment + b.comoment + weight * apart * (b.mean - a.mean)
    return products / squares if squares > 0 else None


def _adjusted(arm: CovariateMoments, theta: float) -> float:
    """Variance of the mean of y - theta x."""
    return max(0.0, arm.m2 - 2 * theta * arm.comoment + theta**2 * arm.covariate_m2) / (arm.n - 1) / arm.n
