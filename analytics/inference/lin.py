"""Several covariates: the fully interacted regression (Lin 2013, arXiv 1208.2301), as one regression per arm.

y ~ 1 + Z + X + Z X with X centred at the mean over BOTH arms has as coefficient of Z the difference of the arms' own regressions
at that mean; its HC2 variance is the sum of theirs.
"""

import numpy as np
from numpy.typing import NDArray

from analytics.facts import Joint, Regressed
from analytics.inference.contrast import LinearContrast
from analytics.inference.cuped import ROUNDING, Adjusted, linearised

Floats = NDArray[np.float64]


def regressed(arm: Joint) -> Regressed | None:
    """The regression of one arm from its moments, with homoskedastic variances. None with fewer than p + 2 units, a ratio
    without denominator, or an outcome that its covariates foretell exactly."""
    table = np.asarray(arm.products, dtype=np.float64)
    linear = linearised(arm, np.asarray(arm.means, dtype=np.float64)) if arm.n else None
    if linear is None:
        return None
    values, slopes = linear
    products = slopes @ table @ slopes.T
    count = len(values) - 1
    squares, cross, total = products[1:, 1:], products[1:, 0], float(products[0, 0])
    scale = np.sqrt(np.maximum(np.diag(squares), 0.0))
    inverse_scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    inverse = np.outer(inverse_scale, inverse_scale) * np.linalg.pinv(
        squares * np.outer(inverse_scale, inverse_scale), rcond=1e-10, hermitian=True
    )
    coefficients = inverse @ cross
    left = total - float(cross @ coefficients)
    freedom = arm.n - 1 - count
    if freedom < 1 or not left > ROUNDING * total:
        return None
    noise = left / freedom
    covariance = np.zeros((count + 1, count + 1))
    covariance[0, 0] = noise / arm.n
    covariance[1:, 1:] = noise * inverse
    return Regressed(
        n=arm.n,
        mean=float(values[0]),
        m2=total,
        covariate_means=tuple(map(float, values[1:])),
        coefficients=tuple(map(float, coefficients)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        covariates=arm.covariates,
    )


def lin_contrast(control: Regressed, treated: Regressed) -> Adjusted | None:
    """The difference of the arms' regressions at the covariates' mean over both arms, with a normal quantile; its lift is over the
    RAW control mean. None when an arm has n < 2 or nothing varies. `theta`: the arms' coefficients, weighted by units."""
    a, b = control, treated
    if min(a.n, b.n) < 2:
        return None
    units = a.n + b.n
    means_a, means_b = np.asarray(a.covariate_means), np.asarray(b.covariate_means)
    apart = means_b - means_a
    (adjusted_a, variance_a), (adjusted_b, variance_b) = _at(a, apart * (b.n / units)), _at(b, apart * (-a.n / units))
    raw_a, raw_b = a.m2 / (a.n - 1) / a.n, b.m2 / (b.n - 1) / b.n
    if not (0 < variance_a + variance_b < np.inf and 0 < raw_a + raw_b < np.inf):
        return None
    contrast = LinearContrast(
        control=a.mean,
        difference=adjusted_b - adjusted_a,
        control_variance=raw_a,
        difference_variance=variance_a + variance_b,
        covariance=-a.covariance[0][0],
        df=None,
        units=units,
    )
    theta = (a.n * np.asarray(a.coefficients) + b.n * np.asarray(b.coefficients)) / units
    return Adjusted(contrast, tuple(map(float, theta)), 1 - (variance_a + variance_b) / (raw_a + raw_b))


def _at(arm: Regressed, apart: Floats) -> tuple[float, float]:
    """Prediction of the arm's regression, `apart` [p] from its own covariate means, and its variance."""
    place = np.concatenate(([1.0], apart))
    covariance = np.asarray(arm.covariance, dtype=np.float64)
    return arm.mean + float(np.asarray(arm.coefficients) @ apart), float(place @ covariance @ place)
