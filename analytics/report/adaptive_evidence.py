"""From a bandit's draws to what its report says beside the comparisons."""

import math
from collections.abc import Sequence

import numpy as np

from analytics.designs import Bandit
from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts, WeightPeriod
from analytics.inference.adaptive_scores import arm_estimate, fixed_horizon, used
from analytics.inference.adaptive_table import Table
from analytics.inference.tails import two_sided_critical, two_sided_p
from analytics.report.adaptive import AdaptiveArm, AdaptiveDifference, AdaptiveReport, Weights
from analytics.report.adaptive_contrast import SMALLEST_ARM, table_of
from analytics.report.words import count, percent, plural

# More stretches than people read are put together by days.
MOST_STRETCHES = 48
# Below this propensity few units stand for many (docs/statistics/adaptive.md).
LOWEST_PROPENSITY = 0.05


def adaptive_report(experiment: Experiment, facts: ExperimentFacts) -> AdaptiveReport | None:
    """Of the primary metric, a proportion or a mean; None for another design."""
    if experiment.design != "bandit":
        return None
    bandit, arms = experiment.bandit or Bandit(), list(experiment.arms)
    table = table_of(facts.allocation, experiment.primary, "mean", arms)
    others = [arm for arm in arms if arm != experiment.control]
    alpha = experiment.alpha / (len(others) if experiment.correction != "none" else 1)
    with np.errstate(all="ignore"):
        found = [_arm(table, arm) for arm in arms]
        differences = [one for arm in others if (one := _difference(table, arm, experiment.control, alpha)) is not None]
    drawn = sum(sum(period.units.values()) for period in facts.periods)
    known = int(table.units.sum())
    thin = [one.arm for one in found if one.smallest_propensity is not None and one.smallest_propensity < LOWEST_PROPENSITY - 1e-9]
    warnings = []
    if thin:
        lowest = min(one.smallest_propensity or 1.0 for one in found if one.arm in thin)
        warnings.append(
            f"{', '.join(map(repr, thin))} was drawn with a propensity of {percent(lowest)}: below {percent(LOWEST_PROPENSITY)} "
            "estimates rest on few units that stand for many; raise the floor."
        )
    if drawn > known and facts.allocation:
        warnings.append(f"{plural(drawn - known, 'unit')} came without a logged propensity and count in no estimate.")
    return AdaptiveReport(
        policy=bandit.policy,
        floor=bandit.floor,
        metric=experiment.primary,
        ci_level=1 - alpha,
        stretches=len(facts.periods),
        arms=found,
        differences=differences,
        weights=weights_over_time(facts.periods),
        left_out=[text for arm in others if (text := _left_out(table, arm, experiment.control))],
        warnings=warnings,
    )


def weights_over_time(periods: Sequence[WeightPeriod]) -> list[Weights]:
    """Stretch by stretch; of very many the means of each day (UTC), by units."""
    days: dict[object, list[WeightPeriod]] = {}
    for i, period in enumerate(periods):
        days.setdefault(period.started_at.date() if len(periods) > MOST_STRETCHES else i, []).append(period)
    found = []
    for parts in days.values():
        units = [sum(part.units.values()) for part in parts]
        shares = units if any(units) else [1] * len(parts)
        means = {
            arm: math.fsum(share * part.weights.get(arm, 0.0) for share, part in zip(shares, parts, strict=True)) / sum(shares)
            for arm in parts[0].weights
        }
        found.append(Weights(since=parts[0].started_at, stretches=len(parts), units=sum(units), weights=means))
    return found


def _arm(table: Table, arm: str) -> AdaptiveArm:
    rows = used(table, arm)
    estimate = arm_estimate(table, arm) if len(rows) else None
    if estimate is None or estimate.units < SMALLEST_ARM or not _finite(estimate.value, estimate.se, estimate.effective_units):
        return AdaptiveArm(arm=arm, units=estimate.units if estimate else 0, stretches=int(rows.sum()))
    single = fixed_horizon(table, arm)
    return AdaptiveArm(
        arm=arm,
        units=estimate.units,
        stretches=int(rows.sum()),
        smallest_propensity=estimate.smallest_propensity,
        effective_units=estimate.effective_units,
        value=estimate.value,
        se=estimate.se,
        fixed_value=single.value if single and _finite(single.value, single.se) else None,
        fixed_se=single.se if single and _finite(single.value, single.se) else None,
    )


def _difference(table: Table, arm: str, control: str, alpha: float) -> AdaptiveDifference | None:
    """For one look; None with under 30 units in an arm while both could be got."""
    rows = used(table, arm, control)
    at = [table.arms.index(name) for name in (arm, control)]
    if not len(rows) or table.n[rows][:, at].sum(axis=0).min() < SMALLEST_ARM:
        return None
    found = fixed_horizon(table, arm, control)
    if found is None or not found.se > 0 or not _finite(found.value, found.se):
        return None
    value, se = found.value, found.se
    half = two_sided_critical(alpha, None) * se
    return AdaptiveDifference(
        arm=arm, vs=control, value=value, se=se, ci=(value - half, value + half), p_value=two_sided_p(value / se, None)
    )


def _finite(*numbers: float) -> bool:
    return all(map(math.isfinite, numbers))


def _left_out(table: Table, arm: str, control: str) -> str:
    rows = used(table, arm, control)
    left = int(table.units[~rows].sum())
    if not left:
        return ""
    return (
        f"{arm!r} and {control!r} could both be got in {count(int(rows.sum()))} of {count(len(rows))} stretches with units: the "
        f"{plural(left, 'unit')} of the others are left out of their comparison."
    )
