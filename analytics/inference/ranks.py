"""Ranks with intervals that hold together: from all pairwise differences, corrected by Holm (Klein, Wright & Wieczorek 2020,
J. R. Stat. Soc. A 183:589; Mogstad, Romano, Shaikh & Wilhelm 2024, Rev. Econ. Stud. 91:476)."""

import math
from collections.abc import Sequence
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.inference.multiplicity import holm
from analytics.inference.tails import two_sided_p


class Rank(msgspec.Struct, frozen=True):
    """1 is best. `low` to `high`: every rank that is not excluded, for all arms at once."""

    rank: int
    low: int
    high: int


def ranks(values: Sequence[float], covariance: NDArray[np.float64], degrees: Sequence[float | None], alpha: float) -> list[Rank]:
    """Of K estimates; larger is better, equal ones share the better rank.

    `degrees` [K]: of freedom for each; a difference has the fewer of its two. None: nothing is known of that arm's error, and it is
    told apart from none. An arm's rank is at least 1 + those shown to be better, at most K - those shown to be worse.
    """
    known = [(i, j) for i, j in combinations(range(len(values)), 2) if degrees[i] is not None and degrees[j] is not None]
    p_values = []
    for i, j in known:
        variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
        gap = values[i] - values[j]
        statistic = gap / math.sqrt(variance) if variance > 0 else 0.0
        p_values.append(two_sided_p(statistic, min(degrees[i] or 1, degrees[j] or 1)))
    better, worse = [0] * len(values), [0] * len(values)
    # Every pair is in the family, also those that no error is known of: what they will show is not known yet.
    family = [*p_values, *[1.0] * (math.comb(len(values), 2) - len(known))]
    for (i, j), adjusted in zip(known, holm(family, alpha), strict=False):
        if adjusted.p_value <= alpha:
            above, below = (i, j) if values[i] > values[j] else (j, i)
            better[below] += 1
            worse[above] += 1
    return [
        Rank(1 + sum(other > value for other in values), 1 + better[place], len(values) - worse[place])
        for place, value in enumerate(values)
    ]
