"""Holm's correction of a family of p-values, and the interval levels that agree with it."""

from collections.abc import Sequence

import msgspec


class Adjusted(msgspec.Struct, frozen=True):
    """An adjusted p-value and the alpha at which that comparison's interval excludes 0 exactly when it is significant."""

    p_value: float
    alpha: float


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
