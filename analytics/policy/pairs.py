"""Which two arms meet next in a duel: those whose order is least known, and of which one may be best, more often."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from analytics.facts_of_designs import DuelFacts
from analytics.policy.best import best_and_second

# Of every strength, before any vote: 1.5 on the logit scale, so that few votes or one-sided ones leave an order open.
PRIOR_VARIANCE = 1.5**2
STEPS = 100
TOLERANCE = 1e-9


def next_pairs(duels: DuelFacts, arms: Sequence[str], floor: float) -> dict[str, float] | None:
    """The chance of each pair of `arms`, by its name (both arms in alphabetical order, joined by "|"), summing to 1; each at least
    `floor` / number of pairs. None while there is nothing to prefer one pair for.

    Beyond the floor a pair gets a share as its order is open, the entropy (bits) of which of the two is stronger, times the
    probability that one of the two is the strongest of all: no votes go to the order of two losers. Posterior: Bradley-Terry,
    normal at its mode, prior N(0, 1.5^2) on each strength, ties as half a win; votes of one rater count as fewer where
    they agree (the design effect). Contradictions and arms that won everything are no special case.
    """
    names = sorted(arms)
    pairs = list(combinations(range(len(names)), 2))
    if len(pairs) < 2:
        return None
    number = {name: place for place, name in enumerate(names)}
    met = [m for m in duels.meetings if m.first in number and m.second in number]
    if not any(m.votes for m in met):
        return None
    strengths, covariance = posterior(
        np.array([[number[m.first], number[m.second]] for m in met]),
        np.array([m.won + m.tied / 2 for m in met]),
        np.array([float(m.votes) for m in met]),
        len(names),
        design_effect(duels),
    )
    best, _ = best_and_second(strengths.tolist(), np.sqrt(np.diag(covariance)).tolist())
    wanted = np.empty(len(pairs))
    for place, (i, j) in enumerate(pairs):
        spread = math.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
        wanted[place] = _entropy(float(ndtr(-abs(strengths[i] - strengths[j]) / spread))) * (best[i] + best[j])
    total = float(wanted.sum())
    if not total > 0:
        return None
    chances = floor / len(pairs) + (1 - floor) * wanted / total
    # The rounding error goes to the largest, so that the sum is 1 and no more or less.
    largest = int(chances.argmax())
    chances[largest] = 1 - math.fsum(chance for place, chance in enumerate(chances) if place != largest)
    return {f"{names[i]}|{names[j]}": float(chance) for (i, j), chance in zip(pairs, chances, strict=True)}


def posterior(
    pairs: NDArray[np.int64], scores: NDArray[np.float64], votes: NDArray[np.float64], arms: int, effect: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mode [K] and covariance [K][K] of the strengths. `scores` [P]: of the first of each pair, a tie 1/2; `votes` [P]; `effect`:
    how many votes say as much as one of somebody new."""
    design = np.zeros((len(pairs), arms))
    rows = np.arange(len(pairs))
    design[rows, pairs[:, 0]], design[rows, pairs[:, 1]] = 1.0, -1.0
    said, count = scores / effect, votes / effect
    strengths, prior = np.zeros(arms), np.eye(arms) / PRIOR_VARIANCE
    curve = prior
    for _ in range(STEPS):
        expected = expit(design @ strengths)
        slope = design.T @ (said - count * expected) - strengths / PRIOR_VARIANCE
        curve = design.T @ ((count * expected * (1 - expected))[:, None] * design) + prior
        step = np.linalg.solve(curve, slope)
        # A step is held to 2 logits: far from the mode the likelihood is flat, and Newton's method overshoots.
        strengths = strengths + step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < TOLERANCE:
            break
    return strengths, np.asarray(np.linalg.inv(curve))


def design_effect(duels: DuelFacts) -> float:
    """By how much the votes of one rater hang together: the variance of the score of all pairs with raters as clusters, over that
    of as many independent votes; at least 1."""
    score, share = {0: 1.0, 1: 0.0, 2: 0.5}, {}
    counts: dict[int, float] = {}
    for place, m in enumerate(duels.meetings):
        share[place] = (m.won + m.tied / 2) / m.votes if m.votes else 0.5
        counts |= {3 * place: m.won, 3 * place + 1: m.lost, 3 * place + 2: m.tied}
    said = {cell: score[cell % 3] - share[cell // 3] for cell in counts}
    alone = math.fsum(count * said[cell] ** 2 for cell, count in counts.items())
    # Within a pair only: how a rater's taste runs across pairs depends on the sides that arms are written on.
    together = math.fsum((1 if a == b else 2) * said[a] * said[b] * product for a, b, product in duels.products if a // 3 == b // 3)
    return max(1.0, together / alone) if alone > 0 else 1.0


def _entropy(chance: float) -> float:
    """In bits, of what happens with this chance."""
    return -sum(p * math.log2(p) for p in (chance, 1 - chance) if p > 0)
