"""How a bandit's report would have grown day by day, from the draws of the stretches that had begun by each day's end."""

import math

import numpy as np

from analytics.checks.sample_ratio import running_log_e, shares
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts, WeightPeriod
from analytics.inference.contrast import UNBOUNDED, Interval
from analytics.inference.tails import two_sided_p
from analytics.report.adaptive_contrast import adaptive_found, table_of
from analytics.report.comparisons import finite
from analytics.report.evidence import always_valid
from analytics.report.question import Question, Rules
from analytics.report.schema import PathPoint


def adaptive_path(experiment: Experiment, metric: Metric, facts: ExperimentFacts, rules: Rules) -> list[PathPoint]:
    """A point per day (UTC) on which a stretch with units began, over all units until that stretch ended, with their totals as they
    stand now. `metric` is the primary one; a quantile has units and sample ratio only."""
    arms = list(experiment.arms)
    others = [arm for arm in arms if arm != experiment.control]
    table = table_of(facts.allocation, experiment.primary, metric.inferred_as, arms)
    begun = [facts.allocation[place].started_at for place in table.places]
    question = Question(
        metric=experiment.primary, role="primary", kind=metric.inferred_as, direction=metric.direction, facts={}, allocation=table
    )
    family = 1 if rules.correction == "none" else len(others)
    counts, expected = np.zeros(len(arms)), np.zeros(len(arms))
    points: list[PathPoint] = []
    periods = [period for period in facts.periods if any(period.units.values())]
    rows = [
        (weights, [n if w > 0 else 0 for w, n in zip(weights, units, strict=True)]) for units, weights in (_row(p, arms) for p in periods)
    ]
    log_e = running_log_e(rows)
    for i, period in enumerate(periods):
        units, weights = _row(period, arms)
        counts, expected = counts + units, expected + np.array(shares(weights)) * sum(units)
        day = period.started_at.date()
        if i + 1 < len(periods) and periods[i + 1].started_at.date() == day:
            continue
        until = sum(at <= period.started_at for at in begun)
        shown = {arm: _point(question, arm, experiment.control, family, rules, until) for arm in others}
        points.append(
            PathPoint(
                day=day,
                units={arm: int(n) for arm, n in zip(arms, counts, strict=True)},
                expected={arm: float(n) for arm, n in zip(arms, expected, strict=True)},
                srm_e_value=math.exp(min(log_e[i], 690.0)),
                lift={arm: lift for arm, (lift, _) in shown.items()},
                always_valid_ci={arm: interval for arm, (_, interval) in shown.items()},
            )
        )
    return points


def _row(period: WeightPeriod, arms: list[str]) -> tuple[list[int], list[float]]:
    return [period.units.get(arm, 0) for arm in arms], [period.weights.get(arm, 0.0) for arm in arms]


def _point(question: Question, arm: str, control: str, family: int, rules: Rules, until: int) -> tuple[float | None, Interval]:
    with np.errstate(all="ignore"):
        contrast = adaptive_found(question, arm, control, until).contrast
    if contrast is None or not contrast.control or not math.isfinite(contrast.statistic()):
        return None, UNBOUNDED
    p = two_sided_p(contrast.statistic(), None)
    sequence = always_valid(contrast, p, rules.alpha, family, rules.planned_units, rules.lift)
    return finite(contrast.difference / abs(contrast.control)), sequence.relative_ci
