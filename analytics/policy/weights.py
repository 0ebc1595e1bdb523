"""A bandit's next weights, from what is known of its arms."""

from collections.abc import Mapping, Sequence

from analytics.designs import Bandit
from analytics.inference.adaptive import AllocationPeriod


def next_weights(
    periods: Sequence[AllocationPeriod], current: Mapping[str, float], bandit: Bandit, *, up: bool, minimum_units: int
) -> dict[str, float] | None:
    """Weights for all arms of `current` (those of weight 0 stay there); None while too little is known to move.

    `up`: larger outcomes are better. Means and their errors are AIPW estimates over the periods in which every active arm could be
    got, so that seasons are not taken for merit.
    """
    return None
