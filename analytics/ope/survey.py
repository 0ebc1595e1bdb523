"""A first reading of the log: what was shown how often, and how the weights lie."""

import math

import msgspec
import numpy as np

from analytics.analyze.table import Floats
from analytics.ope.running import Running
from analytics.ope.target import Target


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` [strata] of the policy, `shown` [strata, actions] rows by what they were shown; `levels` per column of the log, the
    action first, rows with a reward of each value.

    `weight`, `weight_se`: their mean over all rows, unclipped. `total`, `squares`, `earned`: sums of w, w^2 and w Y of the
    weights used (`clip`), `largest` and `least_propensity` of rows with a weight, `clipped` rows whose weight was cut.
    `logged`, `logged_se`: the mean reward under the policy that logged, over rows with one.
    """

    n: int
    with_reward: int
    rows: Floats
    shown: Floats
    levels: tuple[Floats, ...]
    weight: float
    weight_se: float
    total: float
    squares: float
    earned: float
    largest: float
    least_propensity: float
    clipped: int
    logged: float
    logged_se: float

    @property
    def effective(self) -> float:
        """Kish's effective number of rows, (sum w)^2/sum w^2."""
        return self.total**2 / self.squares if self.squares else 0.0

    @property
    def snips(self) -> float:
        """Self-normalised: sum w Y/sum w."""
        return self.earned / self.total if self.total else math.nan


def survey(target: Target, clip: float | None) -> Survey:
    """Raises ValueError for a value that is none, and where the policy says nothing about rows of the log."""
    strata, actions = target.probability.shape
    rows, shown = np.zeros(strata), np.zeros(strata * actions)
    levels = tuple(np.zeros(size) for size in (len(target.log.actions), *(len(key.values) for key in target.log.keys)))
    weight, logged = Running(target.log.units, 1.0), Running(target.log.units)
    total = squares = earned = largest = clipped = 0.0
    least = 1.0
    for chunk in target.log.chunks():
        stratum, raw = target.weighed(chunk)
        used = raw if clip is None else np.minimum(raw, clip)
        weight.add(raw, np.zeros(len(raw)), chunk.rows, chunk.unit)
        counts = np.where(chunk.shown, chunk.rows, 0.0)
        logged.add(chunk.mean, chunk.m2, counts, chunk.unit)
        rows += np.bincount(stratum, weights=chunk.rows, minlength=strata)
        shown += np.bincount(stratum * actions + chunk.action, weights=counts, minlength=strata * actions)
        for level, codes in zip(levels, (chunk.action, *chunk.keys.T), strict=True):
            level += np.bincount(codes, weights=counts, minlength=len(level))
        total += float(used @ counts)
        squares += float((used * used) @ counts)
        earned += float((used * chunk.mean) @ counts)
        weighing = raw > 0
        if weighing.any():
            largest = max(largest, float(raw.max()))
            least = min(least, float(chunk.propensity[weighing].min()))
        clipped += float(chunk.rows[raw > used].sum())
    return Survey(
        n=int(weight.n),
        with_reward=int(logged.n),
        rows=rows,
        shown=shown.reshape(strata, actions),
        levels=levels,
        weight=weight.mean,
        weight_se=weight.se,
        total=total,
        squares=squares,
        earned=earned,
        largest=largest,
        least_propensity=least,
        clipped=int(clipped),
        logged=logged.mean,
        logged_se=logged.se,
    )
