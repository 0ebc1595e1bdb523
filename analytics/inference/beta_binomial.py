"""Two proportions with exact posteriors: Beta priors, binomial data, no normal approximation.

P(b > a) = int f_b F_a; E max(a - b, 0) = int F_b (1 - F_a); E max(b - a, 0) = int F_a (1 - F_b), over [0, 1], with F the
posterior distribution functions and f the density.
"""

import math

import numpy as np
from scipy.special import betainc

# In the angle asin(sqrt(u)) every posterior has about the standard deviation 1/(2 sqrt(n)), whatever its mean: the quadrature's
# panels end at so many of these around both peaks. Beyond them lies less than rounding.
SPREADS = np.arange(-10.0, 10.1, 2.5)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
Array = np.ndarray[tuple[int], np.dtype[np.float64]]


def compare(x_a: int, n_a: int, x_b: int, n_b: int, prior: float = 1.0) -> tuple[float, float, float]:
    """(P(b better), expected loss of shipping b, expected loss of keeping a), better being higher; losses are differences
    of proportions. Prior Beta(`prior`, `prior`) in both arms: 1 is flat, 1/2 Jeffreys'.

    Raises ValueError for counts that cannot be, or a prior below 1/2 (whose density no quadrature here follows to 0).
    """
    for arm, x, n in (("a", x_a, n_a), ("b", x_b, n_b)):
        if not 0 <= x <= n:
            raise ValueError(f"x_{arm} = {x} of n_{arm} = {n} units cannot be: give 0 <= x <= n")
    if not 0.5 <= prior < math.inf:
        raise ValueError(f"prior = {prior}: give a number from 0.5 (Jeffreys) up")
    a, b = (prior + x_a, prior + n_a - x_a), (prior + x_b, prior + n_b - x_b)
    if sum(a) + sum(b) < 2 * (a[0] + b[0]):
        # Near 1 a proportion has few digits left: there its complement is compared, with the arms changing places.
        a, b = b[::-1], a[::-1]
    peaks = _peak(a), _peak(b)
    angle, weight = _points((peaks[0], sum(a)), (peaks[1], sum(b)))
    u = np.sin(angle) ** 2
    below_a, below_b = betainc(*a, u), betainc(*b, u)
    # du = sin(2 angle) d angle.
    step, density = weight * np.sin(2 * angle), weight * _density(b, peaks[1], angle)
    better = float(density @ below_a / density.sum())
    return (min(1.0, better), float(step @ (below_b * (1 - below_a))), float(step @ (below_a * (1 - below_b))))


def _peak(shape: tuple[float, float]) -> float:
    """Where the density in the angle is highest."""
    return math.atan2(math.sqrt(shape[0] - 0.5), math.sqrt(shape[1] - 0.5)) if sum(shape) > 1 else math.pi / 4


def _points(*arms: tuple[float, float]) -> tuple[Array, Array]:
    """Gauss-Legendre points and weights in the angle, around the peak of each arm, given with its number of observations."""
    edges = np.unique(np.clip(np.concatenate([peak + SPREADS / (2 * math.sqrt(count)) for peak, count in arms]), 0, math.pi / 2))
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (NODES + 1)).ravel(), (half * WEIGHTS).ravel()


def _density(shape: tuple[float, float], peak: float, angle: Array) -> Array:
    """The posterior's density in the angle, up to a constant: as a distance from its peak, so that 1e8 units do not cancel."""
    alpha, beta = shape
    half, middle = 2 * np.sin((angle - peak) / 2), (angle + peak) / 2
    # An exponent of 0 (Jeffreys' prior and no success, or no failure) takes its factor away, whose peak would be 0.
    logs = np.zeros(angle.size)
    if alpha > 0.5:
        logs += (2 * alpha - 1) * _log_ratio(np.sin(angle), math.sin(peak), half * np.cos(middle))
    if beta > 0.5:
        logs += (2 * beta - 1) * _log_ratio(np.cos(angle), math.cos(peak), -half * np.sin(middle))
    return np.asarray(np.exp(logs - logs.max()))


def _log_ratio(value: Array, reference: float, apart: Array) -> Array:
    """ln(value/reference), by their difference `apart` where they are close."""
    change = apart / reference
    near = np.abs(change) < 0.5
    return np.where(near, np.log1p(np.where(near, change, 0.0)), np.log(value / reference))
