"""A model of the reward: ridge regression on one-hot action, position and contexts, cross-fitted, from sums alone."""

from typing import NamedTuple

import numpy as np

from analytics.analyze.table import Codes, Floats
from analytics.ope.logged import Chunk
from analytics.ope.survey import Survey
from analytics.ope.target import Target

FOLDS = 5
# Every level is pulled to the mean as if so many rows more had it.
RIDGE = 10.0
# The rarest levels beyond are not told apart.
MOST_LEVELS = 200


class RewardModel(NamedTuple):
    """`constant` [folds]; per column of the log, the action first, `effects[column]` [folds, values]. Of fold f: what was fitted on
    the rows of all other folds. `policy` [strata, folds]: the mean effect of the actions under the policy."""

    constant: Floats
    effects: tuple[Floats, ...]
    policy: Floats

    def of_rows(self, chunk: Chunk, stratum: Codes) -> tuple[Floats, Floats]:
        """[g] the reward predicted of what was shown, and of what the policy would show."""
        base = self.constant[chunk.fold]
        for effect, codes in zip(self.effects[1:], chunk.keys.T, strict=True):
            base = base + effect[chunk.fold, codes]
        return base + self.effects[0][chunk.fold, chunk.action], base + self.policy[stratum, chunk.fold]


def fit(target: Target, seen: Survey) -> RewardModel:
    """Two-way effects are left out: doubly robust estimates need a model that helps, not one that is right."""
    chosen = [_kept(levels) for levels in seen.levels]
    starts = np.cumsum([1, *(int(places.max(initial=-1)) + 1 for places in chosen)])
    size = int(starts[-1])
    sums, sums_of_rewards = np.zeros(FOLDS * size * size), np.zeros(FOLDS * size)
    for chunk in target.log.chunks():
        counts = np.where(chunk.shown, chunk.rows, 0.0)
        # Column 0 is the constant; a level that is not kept has no column.
        columns = [np.zeros(len(counts), dtype=np.int64)]
        for places, start, codes in zip(chosen, starts, (chunk.action, *chunk.keys.T), strict=False):
            columns.append(np.where(places[codes] >= 0, places[codes] + start, -1))
        for i, first in enumerate(columns):
            has = first >= 0
            place = chunk.fold * size + first
            np.add.at(sums_of_rewards, place[has], (counts * (chunk.mean - seen.logged))[has])
            for second in columns[i:]:
                both = has & (second >= 0)
                np.add.at(sums, (place * size + second)[both], counts[both])
    gram, products = sums.reshape(FOLDS, size, size), sums_of_rewards.reshape(FOLDS, size)
    gram = np.maximum(gram, gram.transpose(0, 2, 1))
    penalty = np.diag([1e-9, *([RIDGE] * (size - 1))])
    rest, asked = gram.sum(axis=0) - gram + penalty, products.sum(axis=0) - products
    solved = np.linalg.solve(rest, asked[..., None])[..., 0]
    effects = tuple(
        np.where(places >= 0, solved[:, np.where(places >= 0, places + start, 0)], 0.0)
        for places, start in zip(chosen, starts, strict=False)
    )
    policy = target.probability[:, : len(target.log.actions)] @ effects[0].T
    return RewardModel(solved[:, 0] + seen.logged, effects, policy)


def _kept(levels: Floats) -> Codes:
    """[values] the place among the kept, -1 for the others."""
    places = np.full(len(levels), -1, dtype=np.int64)
    frequent = np.sort(np.argsort(-levels, kind="stable")[:MOST_LEVELS])
    frequent = frequent[levels[frequent] > 0]
    places[frequent] = np.arange(len(frequent))
    return places
