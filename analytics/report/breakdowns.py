"""The primary metric by one dimension of the context: each slice on its own, and whether the effect differs between them."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from analytics.checks import SRM_GATE, SampleRatio, sample_ratio
from analytics.decision import established
from analytics.experiment import Experiment, Metric
from analytics.facts import Moments, QuantileFacts, Slice, WeightPeriod
from analytics.inference.heterogeneity import cochran_q
from analytics.inference.multiplicity import holm
from analytics.report.comparisons import Question, Rules, compare_family
from analytics.report.merging import merged_arms
from analytics.report.schema import Breakdown, Heterogeneity, MetricReport, SliceReport
from analytics.report.words import p_value

# More slices than people read: the smaller ones are taken together.
MOST_SLICES = 20
OTHERS = "(others)"
UNKNOWN = "(not given)"
# Fewer units in an arm than this and a slice's lift has no normal distribution to test with.
SMALLEST_SLICE = 30


def breakdowns(
    experiment: Experiment,
    metric: Metric,
    sliced: Mapping[str, Sequence[Slice]],
    periods: Sequence[WeightPeriod],
    rules: Rules,
    primary: MetricReport | None = None,
) -> list[Breakdown]:
    """One per dimension of `sliced`. `metric` is the primary one, `primary` what the report says of it.

    Intervals and p-values are corrected over the slices and arms of a dimension; the sample-ratio alarm of a slice stands at
    1000 x the number of slices. Heterogeneity: Cochran's Q over the lifts, Holm over all dimensions and arms, for one look.
    """
    made = []
    for dimension, slices in sliced.items():
        kept = _largest(slices)
        if kept:
            made.append(_breakdown(experiment, metric, dimension, kept, periods, rules))
    adjusted = _adjusted(made, rules.alpha)
    return [msgspec.structs.replace(b, warnings=_warnings(b, experiment, primary)) for b in adjusted]


def _largest(slices: Sequence[Slice]) -> list[Slice]:
    """Slices by size; the smallest of very many together as one, but for quantiles, which do not add up."""
    ordered = sorted((s for s in slices if _size(s)), key=lambda s: (-_size(s), s.value))
    if len(ordered) <= MOST_SLICES:
        return ordered
    kept, rest = ordered[: MOST_SLICES - 1], ordered[MOST_SLICES - 1 :]
    units: list[dict[str, int]] = [{} for _ in rest[0].units]
    for one in rest:
        for sums, counts in zip(units, one.units, strict=False):
            for arm, n in counts.items():
                sums[arm] = sums.get(arm, 0) + n
    parts = [{arm: m for arm, m in one.primary.items() if isinstance(m, Moments)} for one in rest]
    together: dict[str, Moments | QuantileFacts] = {**merged_arms(parts)}
    return [*kept, Slice(value=OTHERS, units=units, primary=together)]


def _size(one: Slice) -> int:
    return sum(sum(units.values()) for units in one.units)


def _breakdown(
    experiment: Experiment, metric: Metric, dimension: str, slices: Sequence[Slice], periods: Sequence[WeightPeriod], rules: Rules
) -> Breakdown:
    arms = list(experiment.arms)
    questions = [
        Question(metric=one.value, role="primary", kind=metric.inferred_as, direction=metric.direction, facts=one.primary, brief=True)
        for one in slices
    ]
    compared = compare_family(questions, arms, experiment.control, rules)
    reports = []
    for one, row in zip(slices, compared, strict=True):
        srm = _ratio(one, periods, arms, len(slices))
        reports.append(SliceReport(value=one.value or UNKNOWN, units=srm.units, srm=srm, arms=row.arms, comparisons=row.comparisons))
    found = [_heterogeneity(arm, reports) for arm in arms if arm != experiment.control]
    return Breakdown(dimension=dimension, slices=reports, heterogeneity=[h for h in found if h is not None])


def _ratio(one: Slice, periods: Sequence[WeightPeriod], arms: Sequence[str], slices: int) -> SampleRatio:
    """The sample ratio of a slice, gated so that one healthy breakdown in 1000 raises an alarm, not one slice in 1000."""
    units = [msgspec.structs.replace(period, units=dict(counts)) for period, counts in zip(periods, one.units, strict=False)]
    srm = sample_ratio(units, arms)
    return msgspec.structs.replace(srm, ok=srm.ok or (srm.e_value < SRM_GATE * slices and not srm.stray_units))


def _heterogeneity(arm: str, slices: Sequence[SliceReport]) -> Heterogeneity | None:
    """Cochran's Q of one arm over the slices that are large enough; None where fewer than two are."""
    lifts: list[tuple[float, float]] = []
    for one in slices:
        comparison = next(c for c in one.comparisons if c.arm == arm)
        sizes = [a.n for a in one.arms if a.arm in (arm, comparison.vs)]
        value, se = comparison.relative.value, comparison.relative.se
        if value is not None and se is not None and 0 < se < math.inf and min(sizes) >= SMALLEST_SLICE:
            lifts.append((value, se))
    if len(lifts) < 2:
        return None
    q, df, p, i2 = cochran_q([value for value, _ in lifts], [se for _, se in lifts])
    return Heterogeneity(arm=arm, q=q, df=df, p_value=p, adjusted_p_value=p, i2=i2)


def _adjusted(made: Sequence[Breakdown], alpha: float) -> list[Breakdown]:
    """With the p-values of heterogeneity by Holm over every dimension and arm."""
    levels = iter(holm([h.p_value for b in made for h in b.heterogeneity], alpha))
    replace = msgspec.structs.replace
    return [replace(b, heterogeneity=[replace(h, adjusted_p_value=next(levels).p_value) for h in b.heterogeneity]) for b in made]


def _warnings(breakdown: Breakdown, experiment: Experiment, primary: MetricReport | None) -> list[str]:
    where = breakdown.dimension
    warnings = []
    for one in breakdown.slices:
        if not one.srm.ok:
            found = " / ".join(f"{arm} {n:,} of {one.srm.expected[arm]:,.0f}" for arm, n in one.srm.units.items())
            warnings.append(
                f"The sample ratio is broken where {where} is {one.value!r} ({found} expected; e-value {one.srm.e_value:.3g}): something "
                "there meets one arm more often."
            )
    warnings += [
        f"The lift of {h.arm!r} differs by {where} (Cochran's Q = {h.q:.1f}, df {h.df}, adjusted p = {p_value(h.adjusted_p_value)}): one "
        "number does not stand for all of them."
        for h in breakdown.heterogeneity
        if h.adjusted_p_value < experiment.alpha
    ]
    direction = primary.direction if primary else "up"
    whole = {c.arm: established(c, direction) for c in primary.comparisons} if primary else {}
    for one in breakdown.slices:
        for comparison in one.comparisons:
            large = all(a.n >= SMALLEST_SLICE for a in one.arms if a.arm in (comparison.arm, comparison.vs))
            if large and established(comparison, direction) == "worse" and whole.get(comparison.arm) != "worse":
                warnings.append(f"{comparison.arm!r} is established worse where {where} is {one.value!r}, though not over all units.")
    return warnings
