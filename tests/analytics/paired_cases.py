"""Votes of pairs for tests: drawn with a fixed seed, one row each, and put together as the warehouse does."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analytics.facts_of_designs import DuelFacts, Meeting, SideVotes

Row = tuple[int, int, int, int]  # rater, first arm < second arm, outcome (0 won, 1 lost, 2 tied)


def drawn(strengths: Sequence[float], *, raters: int, each: int, nu: float = 0.0, habit: float = 0.0, seed: int = 1) -> list[Row]:
    """Uniform pairs; `habit`: the standard deviation of every rater's own taste for every arm."""
    chance, rows = np.random.default_rng(seed), []
    pairs = list(combinations(range(len(strengths)), 2))
    for rater in range(raters):
        own = np.asarray(strengths) + chance.normal(0, habit, len(strengths))
        for _ in range(each):
            i, j = pairs[chance.integers(len(pairs))]
            odds = np.exp([(own[i] - own[j]) / 2, (own[j] - own[i]) / 2, -np.inf if nu == 0 else np.log(nu)])
            rows.append((rater, i, j, int(chance.choice(3, p=odds / odds.sum()))))
    return rows


def names(arms: int) -> list[str]:
    return [chr(ord("a") + arm) for arm in range(arms)]


def facts(rows: Sequence[Row], arms: int) -> DuelFacts:
    """No sides."""
    met = sorted({(i, j) for _, i, j, _ in rows})
    held: NDArray[np.int64] = np.zeros((1 + max(row[0] for row in rows), 3 * len(met)), dtype=np.int64)
    for rater, i, j, outcome in rows:
        held[rater, 3 * met.index((i, j)) + outcome] += 1
    products, total = held.T @ held, held.sum(axis=0)
    letters = names(arms)
    return DuelFacts(
        meetings=[
            Meeting(
                first=letters[i],
                second=letters[j],
                won=int(total[3 * place]),
                lost=int(total[3 * place + 1]),
                tied=int(total[3 * place + 2]),
                raters=len({row[0] for row in rows if row[1:3] == (i, j)}),
            )
            for place, (i, j) in enumerate(met)
        ],
        raters=len({row[0] for row in rows}),
        raters_of={letter: len({row[0] for row in rows if arm in row[1:3]}) for arm, letter in enumerate(letters)},
        products=[(a, b, int(products[a, b])) for a in range(len(total)) for b in range(a, len(total)) if products[a, b]],
        sides=SideVotes(raters=0, decided=0, left=0, left_squares=0, left_decided=0, decided_squares=0),
    )
