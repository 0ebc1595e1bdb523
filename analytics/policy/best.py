"""How probable each of several normal posteriors is to hold the largest mean, and the second largest, by quadrature."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr

NODES_PER_PANEL = 20
# Panels end here, in standard deviations of every posterior: within one no density or distribution bends more than the nodes follow.
ENDS = np.arange(-12.0, 12.5, 1.5)


def best_and_second(means: Sequence[float], errors: Sequence[float]) -> tuple[list[float], list[float]]:
    """P(largest) and P(second largest) of independent normals; each list sums to 1. `errors`: their standard deviations, > 0.

    P(k largest) = integral of phi_k(u) prod_{j != k} Phi_j(u) du; for the second exactly one of the others lies above u.
    Gauss-Legendre on panels around every mean, so that a narrow posterior beside a wide one is not stepped over.
    Raises ValueError for errors that are not positive and finite, or fewer than 2 posteriors.
    """
    centre, spread = np.asarray(means, dtype=float), np.asarray(errors, dtype=float)
    if len(centre) < 2 or len(centre) != len(spread):
        raise ValueError(f"{len(centre)} means and {len(spread)} errors; give at least 2, and one error for each")
    if not (np.isfinite(centre).all() and np.isfinite(spread).all() and (spread > 0).all()):
        raise ValueError(f"means {list(means)} with errors {list(errors)}; means must be finite, errors finite and above 0")
    points, weights = _grid(centre, spread)
    z = (points - centre[:, None]) / spread[:, None]
    density = np.exp(-z * z / 2) / (np.sqrt(2 * np.pi) * spread[:, None]) * weights
    below, above = ndtr(z), ndtr(-z)
    best, second = np.empty(len(centre)), np.empty(len(centre))
    for k in range(len(centre)):
        none, one = np.ones_like(points), np.zeros_like(points)
        for j in range(len(centre)):
            if j != k:
                one = one * below[j] + none * above[j]
                none = none * below[j]
        best[k], second[k] = density[k] @ none, density[k] @ one
    return (best / best.sum()).tolist(), (second / second.sum()).tolist()


def _grid(centre: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights over all panels."""
    ends = np.unique((centre[:, None] + spread[:, None] * ENDS).ravel())
    nodes, weights = np.polynomial.legendre.leggauss(NODES_PER_PANEL)
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()
