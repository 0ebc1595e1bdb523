"""The answer of `salon power`: the plan in all its forms, what it rests on, and notes in words."""

import msgspec

from analytics.experiment import MetricKind
from analytics.power.arrivals import MOST_DAYS, Arrivals
from analytics.power.asked import Asked
from analytics.power.midrun import Ahead
from analytics.power.plan import Design, Reached, Size, by_day, designs, sized


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm and its share of the units."""

    arm: str
    control: bool
    share: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Units are of all arms together unless said. `variance` is per unit, before covariates take `variance_reduction` of it.

    `effect` is the change asked for; `ahead` what a running experiment still needs.
    """

    source: str
    metric: str
    kind: MetricKind
    baseline: float
    variance: float
    variance_reduction: float
    alpha: float
    alpha_per_comparison: float
    power: float
    arms: list[Arm]
    effect: Size | None
    margin: float | None
    lower_is_better: bool
    designs: list[Design]
    by_day: list[Reached]
    window_days: float
    arrivals: Arrivals | None
    ahead: Ahead | None
    method_notes: list[str]


def answer(asked: Asked, source: str, notes: list[str], ahead: Ahead | None = None) -> Answer:
    """Raises ValueError for what cannot be asked."""
    outcome = asked.outcome
    if asked.effect is None and asked.margin is None and asked.units is None and asked.days is None and asked.arrivals is not None:
        planned: list[Design] = []
    else:
        planned = designs(asked)
    return Answer(
        source=source,
        metric=asked.metric,
        kind=asked.kind,
        baseline=outcome.baseline,
        variance=outcome.variance_at(outcome.baseline) / outcome.remaining,
        variance_reduction=1 - outcome.remaining,
        alpha=asked.alpha,
        alpha_per_comparison=asked.level,
        power=asked.power,
        arms=[Arm(arm=arm, control=arm == asked.control, share=share) for arm, share in asked.shares.items()],
        effect=None if asked.effect is None else sized(asked.effect.absolute(outcome.baseline), outcome.baseline),
        margin=asked.margin,
        lower_is_better=asked.lower_is_better,
        designs=planned,
        by_day=by_day(asked),
        window_days=asked.window_days,
        arrivals=asked.arrivals,
        ahead=ahead,
        method_notes=[*notes, *_notes(asked, planned)],
    )


def _notes(asked: Asked, planned: list[Design]) -> list[str]:
    compared, sharing = len(asked.shares) - 1, asked.comparisons or len(asked.shares) - 1
    sides = "one-sided" if asked.margin is not None else "two-sided"
    notes = [f"Error rate {asked.alpha:g}, {sides}; power {asked.power:.0%}; normal approximation."]
    if asked.outcome.variance is None:
        adjusted = asked.outcome.remaining < 1
        variance = "unpooled, as covariates make it a comparison of means" if adjusted else asked.outcome.scale
        notes.append(f"A proportion: its variance is m (1 - m), {variance}.")
        if any(
            min(d.units_per_arm.values()) * min(asked.outcome.baseline, 1 - asked.outcome.baseline) < 5 for d in planned if d.units_per_arm
        ):
            notes.append("Fewer than 5 expected successes or failures in an arm: too few for the normal approximation.")
    elif any(min(d.units_per_arm.values()) < 30 for d in planned if d.units_per_arm):
        notes.append("Fewer than 30 units in an arm: Student's t asks for one or two more, and skewed values for many more.")
    if asked.outcome.remaining < 1:
        notes.append(f"Covariates from before the exposure take {1 - asked.outcome.remaining:.0%} of the variance (CUPED).")
    if sharing > 1:
        split = f"alpha {asked.level:.3g} each" if asked.correction != "none" else "each at the whole alpha, uncorrected"
        notes.append(f"{sharing} comparisons, {split}.")
        if asked.correction == "benjamini_hochberg":
            notes.append("Benjamini-Hochberg is planned at its strictest step: it needs no more than this.")
    if compared > 1:
        notes.append(f"Figures are for {asked.smallest_arm!r}, the compared arm with the fewest units.")
    if any(d.design == "always_valid" for d in planned):
        notes.append("The report decides by what is valid at any look.")
    if any(d.design == "always_valid" and d.planned_units == asked.planned_units and (d.units or 0) > asked.planned_units for d in planned):
        notes.append(
            f"With planned_units = {asked.planned_units:,.0f} it recommends to stop when those are in and nothing is established:"
            " give the experiment the planned_units of the plan that you take."
        )
    if asked.arrivals is not None:
        notes.append(_coming(asked))
    return notes


def _coming(asked: Asked) -> str:
    arrivals = asked.arrivals
    assert arrivals is not None
    window = (
        f" and {asked.window_days:g} {'day' if asked.window_days == 1 else 'days'} more for the last unit's window"
        if asked.window_days
        else ""
    )
    if arrivals.observed_days == 1:
        return f"Days: {arrivals.cumulative[0]:,.0f} new units every day{window}; people who come back are not new, so it may take longer."
    after = f"{arrivals.steady:,.3g} new units a day"
    if arrivals.fading > 0:
        after += f" and {arrivals.fading:,.3g} more, which fade within {arrivals.fading_days:,.3g} days"
    return (
        f"Days: as units came in {arrivals.observed_days} days of history{window}; after those (*) {after},"
        f" {MOST_DAYS:,.0f} days at most. Whole weeks even out the days of the week."
    )
