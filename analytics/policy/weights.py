"""A bandit's next weights, from what is known of its arms."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from analytics.designs import Bandit
from analytics.inference.adaptive import AllocationPeriod, mean
from analytics.policy.best import best_and_second

PRIOR_VARIANCE = 1e4
SMALLEST_MOVE = 0.005


class Belief(msgspec.Struct, frozen=True, kw_only=True):
    """Of one arm: its mean outcome and the standard deviation of what it may be, in the metric's unit; how probable it is that no
    arm is better, and that just one is."""

    value: float
    error: float
    best: float
    second: float


def beliefs(periods: Sequence[AllocationPeriod], arms: Sequence[str], *, up: bool, minimum_units: int) -> dict[str, Belief] | None:
    """What the periods say about `arms`, all of them; None while one has fewer than `minimum_units`, or no outcome differs.

    Means and their errors are AIPW estimates over the periods in which each of `arms` could be got, so that a season is not taken
    for merit. To the errors comes what one unit more could have said, 1/n^2 of the outcomes' pooled variance: an arm whose units
    all did alike is not known for certain. Posterior: normal, with a prior at the pooled mean whose variance is `PRIOR_VARIANCE`
    times that of an outcome (notes: statistics 2.7).
    """
    rows = [p for p in periods if p.units > 0 and all(arm in p.arms and p.arms[arm].propensity > 0 for arm in arms)]
    counts = {arm: sum(p.arms[arm].n for p in rows) for arm in arms}
    if len(arms) < 2 or min(counts.values()) < max(1, minimum_units):
        return None
    total = sum(counts.values())
    centre = math.fsum(p.arms[arm].s1 for p in rows for arm in arms) / total
    variance = math.fsum(p.arms[arm].s2 - 2 * centre * p.arms[arm].s1 + p.arms[arm].n * centre**2 for p in rows for arm in arms) / total
    if not variance > 1e-12 * centre**2:
        return None
    prior = PRIOR_VARIANCE * variance
    values, errors = [], []
    for arm in arms:
        estimate = mean(rows, arm)
        if estimate is None:
            return None
        likely = estimate.se**2 + variance / counts[arm] ** 2
        precision = 1 / prior + 1 / likely
        values.append((centre / prior + estimate.value / likely) / precision)
        errors.append(precision**-0.5)
    best, second = best_and_second(values if up else [-value for value in values], errors)
    return {
        arm: Belief(value=value, error=error, best=b, second=s)
        for arm, value, error, b, s in zip(arms, values, errors, best, second, strict=True)
    }


def next_weights(
    periods: Sequence[AllocationPeriod], current: Mapping[str, float], bandit: Bandit, *, up: bool, minimum_units: int
) -> dict[str, float] | None:
    """Weights for all arms of `current` (those of weight 0 stay there), summing to 1; None while too little is known to move, or
    when no arm would move by `SMALLEST_MOVE`.

    `up`: larger outcomes are better. `minimum_units`: of each arm of weight above 0, in the periods that count (`beliefs`).
    """
    active = [arm for arm, weight in current.items() if weight > 0]
    known = beliefs(periods, active, up=up, minimum_units=minimum_units)
    if known is None:
        return None
    weights = weights_of(known, bandit)
    if max(abs(weights[arm] - current[arm]) for arm in active) < SMALLEST_MOVE:
        return None
    return {arm: weights.get(arm, 0.0) for arm in current}


def weights_of(known: Mapping[str, Belief], bandit: Bandit) -> dict[str, float]:
    """The policy's weights for the arms of `known`: `floor` + (1 - K `floor`) P, all alike where K floors leave nothing to share;
    none above its cap. Clipping at the floor and scaling would take from the others more than the floor gives."""
    floor, count = bandit.floor, len(known)
    if count * floor >= 1:
        shares = dict.fromkeys(known, 1 / count)
    else:
        wanted = {arm: b.best if bandit.policy == "thompson" else (b.best + b.second) / 2 for arm, b in known.items()}
        shares = {arm: floor + (1 - count * floor) * chance for arm, chance in wanted.items()}
    return _exact(_capped(shares, bandit.caps))


def _capped(shares: Mapping[str, float], caps: Mapping[str, float]) -> dict[str, float]:
    """What is above a cap goes to the arms below theirs, in proportion. Where no arm has room left, to all in proportion: caps
    that retired arms left too low for the rest cannot hold."""
    found, full = dict(shares), set[str]()
    while over := {arm for arm, share in found.items() if arm not in full and share > caps.get(arm, 1.0)}:
        full |= over
        fixed = math.fsum(caps[arm] for arm in full)
        rest = {arm: share for arm, share in shares.items() if arm not in full}
        if not rest:
            return {arm: caps[arm] / fixed for arm in shares}
        scale = (1 - fixed) / math.fsum(rest.values())
        found = {arm: caps[arm] if arm in full else share * scale for arm, share in shares.items()}
    return found


def _exact(shares: Mapping[str, float]) -> dict[str, float]:
    """The same, with the rounding error in the largest, so that the sum is 1 to the last place."""
    largest = max(shares, key=lambda arm: shares[arm])
    return {**shares, largest: 1 - math.fsum(share for arm, share in shares.items() if arm != largest)}
