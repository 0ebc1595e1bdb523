"""Totals of parts of the units → totals of all of them, exactly; and whether they are enough to compare."""

from collections.abc import Iterable, Mapping
from functools import reduce

from analytics.facts import Joint, Moments
from analytics.inference.exact import SMALLEST_EXPECTED

NOTHING = Moments(n=0, mean=0.0, m2=0.0, denominator_mean=0.0)


def merged(parts: Iterable[Moments]) -> Moments:
    """The moments of all units of `parts` together (Chan, Golub & LeVeque 1983, eq. 2.1): no sum of squares that could cancel.

    No parts, or none with a unit: n = 0.
    """
    return reduce(_pair, parts, NOTHING)


def merged_arms(parts: Iterable[Mapping[str, Moments]]) -> dict[str, Moments]:
    """The same arm by arm; an arm that is in no part is not in the answer."""
    found: dict[str, Moments] = {}
    for part in parts:
        for arm, moments in part.items():
            found[arm] = _pair(found.get(arm, NOTHING), moments)
    return found


def _pair(a: Moments, b: Moments) -> Moments:
    if not a.n or not b.n:
        return a if a.n else b
    n = a.n + b.n
    share, weight = b.n / n, a.n * b.n / n
    step, below = b.mean - a.mean, b.denominator_mean - a.denominator_mean
    return Moments(
        n=n,
        mean=a.mean + share * step,
        m2=a.m2 + b.m2 + weight * step * step,
        denominator_mean=a.denominator_mean + share * below,
        denominator_m2=a.denominator_m2 + b.denominator_m2 + weight * below * below,
        comoment=a.comoment + b.comoment + weight * step * below,
    )


def too_few(kind: str, a: Moments, b: Moments) -> bool:
    """Does a cell of the 2 x 2 table of two proportions expect fewer than 5, so that only an exact test would do?"""
    n, hits = a.n + b.n, a.n * a.mean + b.n * b.mean
    return kind == "proportion" and min(a.n, b.n) * min(hits, n - hits) < SMALLEST_EXPECTED * n


def as_joint(moments: Moments, *, ratio: bool) -> Joint:
    """The same numbers as a `Joint` without covariates: y, and for a ratio its denominator."""
    if not ratio:
        return Joint(n=moments.n, means=(moments.mean,), products=((moments.m2,),))
    return Joint(
        n=moments.n,
        means=(moments.mean, moments.denominator_mean),
        products=((moments.m2, moments.comoment), (moments.comoment, moments.denominator_m2)),
        ratio=True,
    )
