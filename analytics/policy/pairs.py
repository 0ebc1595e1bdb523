"""Which two arms meet next in a duel: those whose order is least known, more often."""

from collections.abc import Sequence

from analytics.facts_of_designs import DuelFacts


def next_pairs(duels: DuelFacts, arms: Sequence[str], floor: float) -> dict[str, float] | None:
    """The chance of each pair of `arms`, by its name (both arms in alphabetical order, joined by "|"), summing to 1; each at least
    `floor` / number of pairs. None while there is nothing to prefer one pair for."""
    return None
