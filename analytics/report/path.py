"""How the report would have grown day by day: the primary metric, the units and the sample ratio, over units by first exposure."""

from collections.abc import Mapping, Sequence

import msgspec

from analytics.checks import sample_ratio
from analytics.experiment import Experiment, Metric
from analytics.facts import Cohort, Moments, WeightPeriod
from analytics.inference.contrast import UNBOUNDED, Interval
from analytics.inference.tails import two_sided_p
from analytics.report.comparisons import finite
from analytics.report.contrasts import contrast_of
from analytics.report.evidence import always_valid
from analytics.report.merging import as_joint, merged_arms, too_few
from analytics.report.question import Question, Rules
from analytics.report.schema import PathPoint

Stretch = tuple[frozenset[tuple[tuple[str, float], ...]], dict[str, Moments]]


def path(
    experiment: Experiment, metric: Metric, cohorts: Sequence[Cohort], periods: Sequence[WeightPeriod], rules: Rules
) -> list[PathPoint]:
    """A point per day on which units came, over all units that had come by its end: their totals as they stand now, without
    CUPED. `metric` is the primary one, `periods` those of the facts. Where weights changed, days of the same weights are compared
    within themselves and put together (a day with several weights is one part). Counts that need an exact test have no interval
    yet. A quantile has no path of its lift, since
    quantiles do not add up: units and sample ratio only.
    """
    arms = list(experiment.arms)
    family = 1 if rules.correction == "none" else len(arms) - 1
    running = [dict.fromkeys(arms, 0) for _ in periods]
    stretches: list[Stretch] = []
    points = []
    for cohort in sorted(cohorts, key=lambda c: c.day):
        for sums, units in zip(running, cohort.units, strict=False):
            for arm, n in units.items():
                sums[arm] = sums.get(arm, 0) + n
        _join(stretches, _weights(cohort, periods), cohort.primary)
        srm = sample_ratio([msgspec.structs.replace(p, units=dict(sums)) for p, sums in zip(periods, running, strict=True)], arms)
        question = _question(experiment, metric, stretches)
        shown = {arm: _point(question, arm, experiment.control, family, rules) for arm in arms if arm != experiment.control}
        points.append(
            PathPoint(
                day=cohort.day,
                units=srm.units,
                expected=srm.expected,
                srm_e_value=srm.e_value,
                lift={arm: lift for arm, (lift, _) in shown.items()},
                always_valid_ci={arm: interval for arm, (_, interval) in shown.items()},
            )
        )
    return points


def _weights(cohort: Cohort, periods: Sequence[WeightPeriod]) -> frozenset[tuple[tuple[str, float], ...]]:
    """The weights under which the units of a day came."""
    met = (p for p, units in zip(periods, cohort.units, strict=False) if any(units.values()))
    return frozenset(tuple(sorted(p.weights.items())) for p in met)


def _join(stretches: list[Stretch], weights: frozenset[tuple[tuple[str, float], ...]], primary: Mapping[str, Moments]) -> None:
    if stretches and stretches[-1][0] == weights:
        stretches[-1] = (weights, merged_arms([stretches[-1][1], primary]))
    else:
        stretches.append((weights, dict(primary)))


def _question(experiment: Experiment, metric: Metric, stretches: Sequence[Stretch]) -> Question:
    parts = [arms for _, arms in stretches]
    return Question(
        metric=experiment.primary,
        role="primary",
        kind=metric.inferred_as,
        direction=metric.direction,
        facts=merged_arms(parts),
        periods=[{arm: as_joint(m, ratio=metric.inferred_as == "ratio") for arm, m in part.items()} for part in parts[1:] and parts],
    )


def _point(question: Question, arm: str, control: str, family: int, rules: Rules) -> tuple[float | None, Interval]:
    """The lift and its interval at any look: all that a point shows of a comparison."""
    a, b = question.facts.get(control), question.facts.get(arm)
    if isinstance(a, Moments) and isinstance(b, Moments) and too_few(question.kind, a, b):
        return (b.mean - a.mean) / a.mean if a.mean else None, UNBOUNDED
    contrast = contrast_of(question, arm, control).contrast
    if contrast is None or not contrast.control:
        return None, UNBOUNDED
    sequence = always_valid(contrast, two_sided_p(contrast.statistic(), contrast.df), rules.alpha, family, rules.planned_units, rules.lift)
    return finite(contrast.difference / abs(contrast.control)), sequence.relative_ci
