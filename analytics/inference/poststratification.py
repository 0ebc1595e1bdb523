"""The means of two arms put together from parts of the units (strata, periods of constant weights), with their covariance.

With shares w_s = n_s/N of the units of both arms and per stratum the means A_s and their covariance C_s (independent arms):
A = sum w_s A_s and Cov = sum w_s^2 C_s, given the shares; where the shares are themselves a sample's,
+ (1/N) [sum w_s A_s A_s' - A A'] (Miratrix, Sekhon & Yu 2013; Xie & Aurisset, KDD 2016).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.facts import Joint

Floats = NDArray[np.float64]
Pair = tuple[Joint, Joint]
SMALL_CELL = 30


class Means(msgspec.Struct, frozen=True):
    """Of control and treated arm side by side: `values` [2k], the `covariance` of these means [2k, 2k], `units` of both arms."""

    values: Floats
    covariance: Floats
    units: int


def stratified_means(pairs: Sequence[Pair], *, shares_given: bool) -> Means:
    """From (control, treated) of every stratum, each arm with at least 2 units; one stratum is the plain comparison.

    Periods (shares given) begin with a small weight: there an arm of fewer than 30 units is given the arm's variance within all
    periods, since its own may be 0 by chance and the period's share is not.
    """
    units = sum(a.n + b.n for a, b in pairs)
    width = len(pairs[0][0].means)
    rows = np.array([(*a.means, *b.means) for a, b in pairs], dtype=np.float64)
    shares = np.array([(a.n + b.n) / units for a, b in pairs])
    covariance = np.zeros((2 * width, 2 * width))
    within = [_within([pair[k] for pair in pairs]) for k in (0, 1)]
    for share, (a, b) in zip(shares, pairs, strict=True):
        for offset, arm, typical in ((0, a, within[0]), (width, b, within[1])):
            borrows = shares_given and len(pairs) > 1 and arm.n < SMALL_CELL
            part = (typical if borrows else np.asarray(arm.products, dtype=np.float64) / (arm.n - 1)) / arm.n
            covariance[offset : offset + width, offset : offset + width] += share**2 * part
    values = shares @ rows if len(pairs) > 1 else rows[0]
    if not shares_given:
        apart = rows - values
        covariance += (apart * shares[:, None]).T @ apart / units
    return Means(values, covariance, units)


def _within(parts: Sequence[Joint]) -> Floats:
    """Covariance per unit [k, k] within the strata of one arm."""
    products: Floats = np.sum([np.asarray(part.products, dtype=np.float64) for part in parts], axis=0)
    return products / sum(part.n - 1 for part in parts)


def pooled(parts: Sequence[Joint]) -> Joint:
    """One arm's strata as one sample: exactly the moments of all its units."""
    first = parts[0]
    if len(parts) == 1:
        return first
    n = sum(part.n for part in parts)
    rows = np.array([part.means for part in parts], dtype=np.float64)
    counts = np.array([part.n for part in parts], dtype=np.float64)
    means = counts @ rows / n
    apart = rows - means
    products = sum(np.asarray(part.products, dtype=np.float64) for part in parts) + (apart * counts[:, None]).T @ apart
    return Joint(
        n=n,
        means=tuple(map(float, means)),
        products=tuple(tuple(map(float, row)) for row in products),
        ratio=first.ratio,
        covariates=first.covariates,
        ratios=first.ratios,
    )
