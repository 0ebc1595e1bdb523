"""A metric of a bandit as arrays over stretches of weights: all that scores on the logged propensities are added up from.

Each stretch s and arm k has its draws (units, mean and products of what they did, logged propensity e); of them are kept
N1 = sum of n/e, N2 = sum of n/e^2, and the first and second moments with the same weights. With any prediction m of the arm's mean
they give the sums r and q of the notes, exactly, also where one stretch holds several propensities. Outcomes are held about their
common mean, so that large values lose no digits.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.facts_of_designs import Draw

Array = NDArray[np.float64]


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Constant weights, and per arm the draws of one metric's units."""

    weights: Mapping[str, float]
    draws: Mapping[str, Sequence[Draw]]


class Table:
    """Arrays of S stretches, K arms, and d numbers per unit (1; of a ratio 2: numerator, denominator), of stretches with units.

    `reachable` [S, K]: arms with a weight. `n` [S, K] units; `units` [S] of all arms together. `centre` [d]: what outcomes are
    held about; `first` [S, K, d], `second` [S, K, d, d]: unweighted sums, `n1`, `n2` [S, K], `a1`, `a2` [S, K, d], `b1`, `b2`
    [S, K, d, d]: those weighted by 1/e and 1/e^2. `propensity` [S, K]: harmonic mean of the logged ones, the weight where there are
    none. `before` [S, K]: units of the arm in the stretches before. `stretches`: those with units, `places` their places among all.
    """

    def __init__(self, stretches: Sequence[Stretch], arms: Sequence[str], *, ratio: bool = False) -> None:
        self.arms, self.d = tuple(arms), 2 if ratio else 1
        kept = [(i, s) for i, s in enumerate(stretches) if any(draw.joint.n for draws in s.draws.values() for draw in draws)]
        self.places, self.stretches = [i for i, _ in kept], [s for _, s in kept]
        self.weights = np.array([[s.weights.get(arm, 0.0) for arm in arms] for _, s in kept], dtype=float).reshape(len(kept), len(arms))
        self.reachable = self.weights > 0
        # Numbers near the ends of what doubles hold, or propensities near 0, end as infinite or NaN: nothing is told of them then.
        with np.errstate(all="ignore"):
            self._fill()

    def _fill(self) -> None:
        kept, d, shape = self.stretches, self.d, (len(self.stretches), len(self.arms))
        rows = [
            (s, k, draw.joint.n, draw.propensity, *draw.joint.means[:d], *(x for row in draw.joint.products[:d] for x in row[:d]))
            for s, stretch in enumerate(kept)
            for k, arm in enumerate(self.arms)
            for draw in stretch.draws.get(arm, ())
            if draw.joint.n
        ]
        table = np.array(rows, dtype=float).reshape(len(rows), 4 + d + d * d)
        at = (table[:, 0].astype(int), table[:, 1].astype(int))
        n, e, means, products = table[:, 2], table[:, 3], table[:, 4 : 4 + d], table[:, 4 + d :].reshape(-1, d, d)
        self.centre: Array = n @ means / n.sum() if len(rows) else np.zeros(d)
        apart = means - self.centre
        square = products + n[:, None, None] * apart[:, :, None] * apart[:, None, :]

        def added(values: Array) -> Array:
            total = np.zeros(shape + values.shape[1:])
            np.add.at(total, at, values)
            return total

        self.n, self.n1, self.n2 = added(n), added(n / e), added(n / e**2)
        self.first, self.a1, self.a2 = (added(apart * (n / e**power)[:, None]) for power in (0, 1, 2))
        self.second, self.b1, self.b2 = (added(square / (e**power)[:, None, None]) for power in (0, 1, 2))
        self.units: Array = self.n.sum(axis=1)
        self.propensity: Array = np.where(self.n > 0, self.n / self.n1, self.weights)
        self.smallest: Array = np.full(shape, np.inf)
        np.minimum.at(self.smallest, at, e)
        self.before: Array = np.cumsum(self.n, axis=0) - self.n

    @cached_property
    def predictions(self) -> Array:
        """[S, K, d], about `centre`: each arm's mean over the stretches before; of an arm without any, that of all arms; in the
        first stretch the mean of all its own units, which no weight has followed yet."""
        sums = np.cumsum(self.first, axis=0) - self.first
        everyone, units = sums.sum(axis=1), self.before.sum(axis=1)
        with np.errstate(all="ignore"):
            own = sums / self.before[:, :, None]
            alike = everyone / units[:, None]
            itself = self.first.sum(axis=1) / self.units[:, None]
        alike = np.where(units[:, None] > 0, alike, itself)
        return np.asarray(np.where(self.before[:, :, None] > 0, own, alike[:, None, :]))

    def residuals(self, k: int, m: Array) -> tuple[Array, Array]:
        """r [S, d] and q [S, d, d] of arm `k` with predictions `m` [S, d]: sums of (x - m)/e, and of its products with itself."""
        r = self.a1[:, k] - self.n1[:, k, None] * m
        cross = self.a2[:, k, :, None] * m[:, None, :]
        q = self.b2[:, k] - cross - cross.transpose(0, 2, 1) + self.n2[:, k, None, None] * m[:, :, None] * m[:, None, :]
        return r, q
