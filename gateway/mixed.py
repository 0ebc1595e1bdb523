"""Grids of several arms: which arm's picture stands where, by team draft, and which two arms meet in a duel. Pure but for the dice."""

import random
from collections.abc import Mapping, Sequence
from itertools import combinations

from gateway.ledger import pair_name


def team_draft(arms: Sequence[str], places: int, dice: random.Random) -> tuple[str, ...]:
    """The arm of each of `places` pictures, by position (Radlinski, Kurup and Joachims 2008, team draft).

    Rounds: in a random order each arm offers one picture, until the grid is full; then positions are shuffled. So no arm has more
    than one picture over another, and by symmetry each of K arms holds each place with probability 1/K.
    """
    drafted: list[str] = []
    while len(drafted) < places:
        drafted += dice.sample(arms, len(arms))
    del drafted[places:]
    dice.shuffle(drafted)
    return tuple(drafted)


def pair_chances(arms: Sequence[str], wanted: Mapping[str, float]) -> dict[str, float]:
    """How often each pair of `arms` meets, by `pair_name`; sums to 1.

    `wanted` is what a policy asked for. Pairs of arms that are gone are left out of it; a pair that it does not name yet gets as
    much as if all met alike. Empty: they do.
    """
    names = [pair_name(first, second) for first, second in combinations(sorted(arms), 2)]
    shares = {name: wanted.get(name, 1 / len(names)) for name in names}
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} if total > 0 else dict.fromkeys(names, 1 / len(names))


def draw_pair(arms: Sequence[str], wanted: Mapping[str, float], dice: random.Random) -> tuple[tuple[str, str], float]:
    """Two arms, the one on the left first, sides at random; and the chance of the pair. `wanted` as in `pair_chances`."""
    chances = pair_chances(arms, wanted)
    pairs = {pair_name(first, second): (first, second) for first, second in combinations(sorted(arms), 2)}
    (name,) = dice.choices(list(chances), list(chances.values()))
    first, second = pairs[name]
    return ((first, second) if dice.random() < 0.5 else (second, first)), chances[name]
