"""Corrections of a family of p-values, and the interval levels that agree with them."""

from collections.abc import Sequence
from typing import Literal

import msgspec

Correction = Literal["holm", "benjamini_hochberg", "none"]


class Adjusted(msgspec.Struct, frozen=True):
    """An adjusted p-value and the alpha at which that comparison's interval excludes 0 exactly when it is significant."""

    p_value: float
    alpha: float


def correct(p_values: Sequence[float], alpha: float, correction: Correction) -> list[Adjusted]:
    """By the correction of this name, in the order given."""
    if correction == "holm":
        return holm(p_values, alpha)
    if correction == "benjamini_hochberg":
        return benjamini_hochberg(p_values, alpha)
    return [Adjusted(p, alpha) for p in p_values]


def holm(p_values: Sequence[float], alpha: float) -> list[Adjusted]:
    """Holm (1979), step-down, in the order given: controls the chance of any false positive in the family at `alpha`.

    A p-value adjusted from p to c p is at most alpha exactly when p <= alpha/c, so alpha/c is that interval's level.
    """
    count = len(p_values)
    adjusted: list[Adjusted | None] = [None] * count
    largest = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        p = p_values[index]
        largest = max(largest, (count - rank) * p)
        factor = max(float(count - rank), largest / p) if p > 0 else float(count - rank)
        adjusted[index] = Adjusted(min(1.0, largest), alpha / factor)
    return [a for a in adjusted if a is not None]


def benjamini_hochberg(p_values: Sequence[float], alpha: float) -> list[Adjusted]:
    """Benjamini & Hochberg (1995), step-up, in the order given: controls the expected share of false positives at `alpha`, for
    p-values that are independent or positively dependent.

    With R rejections of K every interval is at alpha R/K (Benjamini & Yekutieli 2005: the expected share of rejected
    comparisons whose interval misses stays below alpha); those not rejected have p > alpha (R + 1)/K. R = 0 counts as 1.
    """
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    adjusted = [1.0] * count
    smallest, rejected = 1.0, 0
    for rank in range(count, 0, -1):
        index = order[rank - 1]
        smallest = min(smallest, count * p_values[index] / rank)
        adjusted[index] = smallest
        if rejected == 0 and smallest <= alpha:
            rejected = rank
    # alpha first: alpha * 3 / 3 can be more than alpha in floating point
    return [Adjusted(p, alpha * (max(rejected, 1) / count)) for p in adjusted]
