"""CUPED: covariates from before the exposure take their share of the noise (Deng, Xu, Kohavi & Walker, WSDM 2013).

Means: theta from both arms pooled as one sample. Ratios of totals, of outcome or covariate (Deng & Shi, KDD 2016; delta method):
theta from the covariances within the arms, summed over the arms. The lift is the adjusted difference over the RAW control mean,
whose covariance with the adjustment is kept (leaving it out is the known error of the relative variance).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.facts import Joint
from analytics.inference.contrast import LinearContrast, welch_df
from analytics.inference.poststratification import Pair, pooled, stratified_means

Floats = NDArray[np.float64]

# What is left of a variance below this share of its own terms is rounding: the covariate foretells the outcome exactly.
ROUNDING = 1e-12


class Adjusted(msgspec.Struct, frozen=True):
    """The adjusted comparison, theta per covariate, and the share of the difference's variance that went."""

    contrast: LinearContrast
    theta: tuple[float, ...]
    variance_reduction: float


def adjusted_contrast(pairs: Sequence[Pair], *, shares_given: bool = True) -> Adjusted | None:
    """Difference of adjusted means (or ratios), treated - control, over the strata `pairs` (one: not stratified).

    Without covariates, the post-stratified difference. A covariate that does not vary adjusts nothing. None when an arm of a
    stratum has n < 2, a denominator is 0, or nothing is left that varies.
    """
    if not pairs or any(min(a.n, b.n) < 2 for a, b in pairs):
        return None
    means = stratified_means(pairs, shares_given=shares_given)
    width = len(pairs[0][0].means)
    control, treated = pooled([a for a, _ in pairs]), pooled([b for _, b in pairs])
    left, right = linearised(control, means.values[:width]), linearised(treated, means.values[width:])
    if left is None or right is None:
        return None
    (values_a, slopes_a), (values_b, slopes_b) = left, right
    theta = _theta(pairs, slopes_a, slopes_b)
    weights = np.concatenate(([1.0], -theta))
    down, up = weights @ slopes_a, weights @ slopes_b
    gradient, raw = np.concatenate((-down, up)), np.concatenate((-slopes_a[0], slopes_b[0]))
    own = slopes_a[0]
    covariance = means.covariance
    variance, unadjusted = float(gradient @ covariance @ gradient), float(raw @ covariance @ raw)
    control_variance = float(own @ covariance[:width, :width] @ own)
    within = [_unit_variance(arm, part) for arm, part in ((control, down), (treated, up))]
    spread = [_unit_variance(arm, part) for arm, part in ((control, own), (treated, slopes_b[0]))]
    if not (unadjusted > 0 and variance > ROUNDING * unadjusted and within[0] + within[1] > ROUNDING * (spread[0] + spread[1])):
        return None
    freedom = (control.n - 1, treated.n - 1)
    plain = not control.ratio
    contrast = LinearContrast(
        control=float(values_a[0]),
        difference=float(weights @ (values_b - values_a)),
        control_variance=control_variance,
        difference_variance=variance,
        covariance=float(gradient @ covariance[:, :width] @ own),
        df=welch_df(within[0] / control.n, within[1] / treated.n, freedom),
        units=means.units,
        delta_lift=float(values_b[0] / values_a[0]) - 1 if plain and len(theta) and values_a[0] else None,
    )
    return Adjusted(contrast, tuple(map(float, theta)), 1 - variance / unadjusted)


def linearised(arm: Joint, means: Floats) -> tuple[Floats, Floats] | None:
    """Outcome and covariates of one arm as numbers [1 + p] at these means, and their gradients [1 + p, k]: a ratio's by the
    delta method. None where the outcome's denominator is 0; a covariate whose denominator is 0 counts as constant."""
    layout = [arm.ratio, *(arm.ratios or (False,) * len(arm.covariates))]
    values, slopes = np.zeros(len(layout)), np.zeros((len(layout), len(means)))
    column = 0
    for row, ratio in enumerate(layout):
        top = float(means[column])
        if not ratio:
            values[row], slopes[row, column] = top, 1.0
            column += 1
            continue
        below = float(means[column + 1])
        if below != 0 and np.isfinite(top / below):
            values[row] = top / below
            slopes[row, column], slopes[row, column + 1] = 1 / below, -top / below**2
        elif row == 0:
            return None
        column += 2
    return values, slopes


def _theta(pairs: Sequence[Pair], slopes_a: Floats, slopes_b: Floats) -> Floats:
    """[p]. Over several strata, the sums over them: what differs between strata is not CUPED's to take."""
    count = len(slopes_a) - 1
    if count == 0:
        return np.zeros(0)
    first = pairs[0][0]
    total = np.zeros((count + 1, count + 1))
    if first.ratio or any(first.ratios):
        for arm, slopes in ((0, slopes_a), (1, slopes_b)):
            products = sum(np.asarray(pair[arm].products, dtype=np.float64) for pair in pairs)
            total += slopes @ products @ slopes.T / sum(pair[arm].n - 1 for pair in pairs)
    else:
        for a, b in pairs:
            apart = np.subtract(b.means, a.means)
            total += np.asarray(a.products, dtype=np.float64) + np.asarray(b.products, dtype=np.float64)
            total += a.n * b.n / (a.n + b.n) * np.outer(apart, apart)
    return solved(total[1:, 1:], total[1:, 0])


def solved(squares: Floats, products: Floats) -> Floats:
    """Coefficients [p] of the least squares with these normal equations; 0 for what does not vary, the smallest ones where
    covariates repeat each other."""
    scale = np.sqrt(np.maximum(np.diag(squares), 0.0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=(scale > 0) & np.isfinite(scale))
    if len(scale) == 1:
        return products * inverse * inverse
    correlation = squares * np.outer(inverse, inverse)
    coefficients: Floats = inverse * (np.linalg.pinv(correlation, rcond=1e-10, hermitian=True) @ (products * inverse))
    return coefficients


def _unit_variance(arm: Joint, slopes: Floats) -> float:
    """Variance per unit of a linear combination."""
    return max(0.0, float(slopes @ np.asarray(arm.products, dtype=np.float64) @ slopes)) / (arm.n - 1)
