"""Does the effect last? The lift of the units' first day with an arm against the lift of their later days."""

import math
from collections.abc import Sequence

import msgspec

from analytics.facts import Age, ExperimentFacts, Moments
from analytics.inference.ratio import ratio_contrast
from analytics.inference.tails import two_sided_p

NOVELTY_ALPHA = 0.01
SMALLEST_SAMPLE = 30
# The delta method for a lift needs a control mean that is well away from 0.
LARGEST_RELATIVE_SE = 0.25


class Fading(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: its lift on the first day of life, over the later ones, and the p-value of their difference (Bonferroni over the
    arms)."""

    first_day_lift: float
    later_lift: float
    later_days: int
    p_value: float


class Novelty(msgspec.Struct, frozen=True, kw_only=True):
    """`ok` is False where the first day's lift is not that of later days (p < 0.01). An arm without two days to compare is left
    out."""

    arms: dict[str, Fading]
    ok: bool
    problems: tuple[str, ...] = ()


def novelty_check(facts: ExperimentFacts, arms: Sequence[str], control: str) -> Novelty:
    """Lifts, not differences: people do less as days pass, and a constant lift of less is no fading.

    The days hold the same people, so their lifts are not independent, and nobody kept how they go together: the standard
    error of the difference is taken as the sum of both, which it never exceeds. Later days are weighted by 1/se.
    """
    others = [arm for arm in arms if arm != control]
    found, problems = {}, []
    for arm in others:
        lifts = {age.day: lift for age in facts.ages if (lift := _lift(age, control, arm)) is not None}
        first = lifts.pop(0, None)
        if first is None or not lifts:
            continue
        weight = math.fsum(1 / se for _, se in lifts.values())
        later = math.fsum(value / se for value, se in lifts.values()) / weight
        statistic = (first[0] - later) / (first[1] + len(lifts) / weight)
        p = min(1.0, two_sided_p(statistic) * len(others))
        found[arm] = Fading(first_day_lift=first[0], later_lift=later, later_days=len(lifts), p_value=p)
        if p < NOVELTY_ALPHA:
            problems.append(
                f"the effect of {arm!r} changes with time: {first[0]:+.1%} on the first day, {later:+.1%} on later days (p = {p:.1e}); "
                "what is new may be liked for being new, or need getting used to: let it run on"
            )
    return Novelty(arms=found, ok=not problems, problems=tuple(problems))


def _lift(age: Age, control: str, arm: str) -> tuple[float, float] | None:
    """The lift of one day and its standard error; None where it cannot be told."""
    base, other = age.primary.get(control), age.primary.get(arm)
    if base is None or other is None or min(base.n, other.n) < SMALLEST_SAMPLE:
        return None
    contrast = ratio_contrast(base, other)
    if contrast is None or not contrast.control or contrast.control_variance <= 0:
        return None
    if math.sqrt(contrast.control_variance) > LARGEST_RELATIVE_SE * abs(contrast.control) or not _told(other):
        return None
    se = contrast.relative_se
    return (contrast.difference / abs(contrast.control), se) if se is not None and 0 < se < math.inf else None


def _told(moments: Moments) -> bool:
    """Whether the other arm did anything: where it did nothing its variance is 0, and the standard error says too little."""
    return moments.m2 > 0
