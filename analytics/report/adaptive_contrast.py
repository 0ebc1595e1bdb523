"""Two arms of a bandit compared by scores on the logged propensities; never by the arms' own means."""

import math
from collections.abc import Sequence

import numpy as np

from analytics.facts_of_designs import AllocationStretch
from analytics.inference.adaptive_bound import difference_bounds
from analytics.inference.adaptive_periods import allocation_periods
from analytics.inference.adaptive_scores import arm_estimate, contrast, used
from analytics.inference.adaptive_table import Stretch, Table
from analytics.inference.contrast import UNBOUNDED, Interval
from analytics.inference.exact import SMALLEST_EXPECTED
from analytics.report.found import Found
from analytics.report.question import Question
from analytics.report.schema import MetricArm

# Scores of fewer units are not near normal, whatever `minimum_units` says.
SMALLEST_ARM = 30
NONE = "no inference under adaptive weights"
QUANTILE = f"{NONE}: quantiles of arms that were met at different times do not compare"


def table_of(allocation: Sequence[AllocationStretch], metric: str, kind: str, arms: Sequence[str]) -> Table:
    """The draws of one metric; empty for a quantile, which has none."""
    parts = [Stretch(weights=one.weights, draws=one.draws[metric]) for one in allocation if metric in one.draws]
    return Table(parts, arms, ratio=kind == "ratio")


def adaptive_found(question: Question, arm: str, control: str, until: int | None = None) -> Found:
    """`arm` against `control` by augmented inverse propensity weighting, over the stretches (the first `until`) in which both could
    be got."""
    table = question.allocation
    if table is None or question.kind == "quantile":
        return Found(None, QUANTILE)
    rows = used(table, control, arm, until=until)
    units = [int(table.n[rows, table.arms.index(name)].sum()) for name in (control, arm)]
    if min(units) < SMALLEST_ARM:
        return Found(None, f"{NONE}: fewer than {SMALLEST_ARM} units in an arm while both could be got")
    if question.kind == "proportion" and _expected(table, rows.tolist(), (control, arm), units) < SMALLEST_EXPECTED:
        return Found(None, f"{NONE}: too few did it, or did not, to tell arms apart")
    left = int(table.units[: len(rows) if until is None else until].sum() - table.units[rows].sum())
    count = f"{rows.sum()} stretch{'' if rows.sum() == 1 else 'es'} of weights"
    scores = "AIPW on the logged propensities" + (", ratio of totals per unit by the delta method" if question.kind == "ratio" else "")
    method = f"{scores}, over {count}"
    if left:
        method = f"within the {count} in which both could be got ({left:,} units of others left out); {scores}"
    return Found(contrast(table, control, arm, hits=question.kind == "proportion", until=until), method)


def _expected(table: Table, rows: Sequence[bool], arms: Sequence[str], units: Sequence[int]) -> float:
    """The smallest cell of the 2 x 2 table, as expected where arms are alike."""
    at = [table.arms.index(arm) for arm in arms]
    total = sum(units)
    hits = float(table.first[list(rows)][:, at, 0].sum()) + total * float(table.centre[0])
    return min(units) * min(hits, total - hits) / total


def shown_arms(table: Table, kind: str, arms: Sequence[str]) -> dict[str, MetricArm]:
    """What every unit would have done in each arm, estimated; nothing of a quantile."""
    found = {}
    for arm in arms:
        with np.errstate(all="ignore"):
            estimate = None if kind == "quantile" else arm_estimate(table, arm)
        if estimate is None or not (math.isfinite(estimate.value) and math.isfinite(estimate.deviation)):
            found[arm] = MetricArm(arm=arm, n=0, mean=None, sd=None)
            continue
        found[arm] = MetricArm(arm=arm, n=estimate.units, mean=estimate.value, sd=estimate.deviation if estimate.units > 1 else None)
    return found


def adaptive_guaranteed(question: Question, arm: str, control: str, alpha: float, units: float) -> Interval | str:
    """The difference at every look and sample size, for proportions and means with bounds; why there is none, in words, or empty."""
    table, bounds = question.allocation, (0.0, 1.0) if question.kind == "proportion" else question.bounds
    if table is None or bounds is None or question.kind not in ("proportion", "mean"):
        return ""
    floor, ceiling = bounds
    periods = allocation_periods(table.stretches, table.arms, floor=floor, width=ceiling - floor, strict=True)
    chosen = [period for period, both in zip(periods, used(table, control, arm).tolist(), strict=True) if both]
    try:
        low, high = difference_bounds(chosen, control, arm, alpha, units)
    except ValueError:
        return f"none: values lie outside `bounds` = [{floor:g}, {ceiling:g}]; correct them"
    if low is None or high is None:
        return UNBOUNDED
    return (low * (ceiling - floor), high * (ceiling - floor))
