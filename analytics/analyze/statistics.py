"""From sufficient statistics to comparisons: pure, so that the same statistics give the same numbers bit for bit."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from analytics.analyze.measure import Measured
from analytics.checks import SampleRatio, sample_ratio
from analytics.experiment import Experiment, Guardrail, Metric
from analytics.facts import Slice, WeightPeriod
from analytics.inference.contrast import UNBOUNDED
from analytics.report.breakdowns import breakdowns
from analytics.report.comparisons import compare_family
from analytics.report.e_values import with_e_bh
from analytics.report.question import Question, Rules
from analytics.report.schema import Breakdown, Comparison, Guaranteed, MetricReport

ROLES: tuple[Literal["primary", "secondary", "guardrail"], ...] = ("primary", "secondary", "guardrail")
# A table's periods have an order and no times.
FIRST = datetime(1970, 1, 1, tzinfo=UTC)


class AskedOf(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one metric, beside its numbers."""

    role: Literal["primary", "secondary", "guardrail"]
    direction: Literal["up", "down"]
    margin: float | None = None
    bounds: tuple[float, float] | None = None


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """Units per arm under constant weights; `weights` None: not given."""

    name: str
    units: dict[str, int]
    weights: dict[str, float] | None = None


class AnalysisStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to compute every number of the analysis again: `asked[i]` is of `metrics[i]`; `slice_units[dimension][value][period]`
    are units per arm."""

    rules: Rules
    control: str
    arms: list[str]
    sequential: bool
    periods: list[Period]
    asked: list[AskedOf]
    metrics: list[Measured]
    slice_units: dict[str, dict[str, list[dict[str, int]]]]


def compare(statistics: AnalysisStatistics) -> list[MetricReport]:
    """Every metric in every arm against the control, in the order in which they were asked for."""
    found: dict[int, MetricReport] = {}
    for role in ROLES:
        places = [i for i, asked in enumerate(statistics.asked) if asked.role == role]
        questions = [_question(statistics.metrics[i], statistics.asked[i]) for i in places]
        if questions:
            found.update(zip(places, compare_family(questions, statistics.arms, statistics.control, statistics.rules), strict=True))
    compared = with_e_bh([found[i] for i in sorted(found)], statistics.rules.alpha)
    return [_shown(metric, measured, statistics) for metric, measured in zip(compared, statistics.metrics, strict=True)]


def sample_ratio_of(statistics: AnalysisStatistics) -> SampleRatio | None:
    """None where no weights were given."""
    if not all(period.weights for period in statistics.periods):
        return None
    return sample_ratio(_weight_periods(statistics), statistics.arms)


def break_down(statistics: AnalysisStatistics, compared: list[MetricReport]) -> list[Breakdown]:
    """The primary metric by every dimension; without weights, slices are held against the shares of all units."""
    place = next(i for i, asked in enumerate(statistics.asked) if asked.role == "primary")
    measured = statistics.metrics[place]
    if not measured.slices:
        return []
    periods = _weight_periods(statistics)
    experiment = Experiment(
        route="",
        arms={arm: periods[-1].weights.get(arm, 0.0) for arm in statistics.arms},
        control=statistics.control,
        primary=measured.name,
        alpha=statistics.rules.alpha,
    )
    metric = Metric(
        kind=measured.kind,
        event=measured.name,
        denominator=measured.name if measured.kind == "ratio" else None,
        quantile=0.5 if measured.kind == "quantile" else None,
        direction=statistics.asked[place].direction,
    )
    sliced = {
        dimension: [
            Slice(value=value, units=statistics.slice_units[dimension][value], primary=measured.slices[dimension][value])
            for value in measured.slices[dimension]
        ]
        for dimension in measured.slices
    }
    made = breakdowns(experiment, metric, sliced, periods, statistics.rules, compared[place])
    replace = msgspec.structs.replace
    return [replace(b, slices=[replace(s, comparisons=[_fixed(c, statistics) for c in s.comparisons]) for s in b.slices]) for b in made]


def _question(measured: Measured, asked: AskedOf) -> Question:
    guardrail = None if asked.margin is None else Guardrail(margin=asked.margin, direction=asked.direction)
    return Question(
        metric=measured.name,
        role=asked.role,
        kind=measured.kind,
        direction=asked.direction,
        facts=measured.facts,
        guardrail=guardrail,
        joint=measured.joint,
        regressed=measured.regressed,
        periods=measured.periods,
        strata=measured.strata,
        bounds=asked.bounds,
        cap=measured.cap,
        note="" if measured.cap is None else f"capped at {measured.cap:g} per unit",
    )


def _weight_periods(statistics: AnalysisStatistics) -> list[WeightPeriod]:
    result = []
    for i, period in enumerate(statistics.periods):
        total = max(1, sum(period.units.values()))
        observed = {arm: n / total for arm, n in period.units.items()}
        result.append(WeightPeriod(started_at=FIRST + timedelta(days=i), weights=period.weights or observed, units=period.units))
    return result


def _shown(metric: MetricReport, measured: Measured, statistics: AnalysisStatistics) -> MetricReport:
    comparisons = [_fixed(_guaranteed(c, measured), statistics) for c in metric.comparisons]
    return msgspec.structs.replace(metric, comparisons=comparisons)


def _guaranteed(comparison: Comparison, measured: Measured) -> Comparison:
    """From the rows where they were bounded: narrower than from moments alone. It holds 0 wherever the always-valid interval does."""
    a, b = (measured.bounded.get(arm, UNBOUNDED) for arm in (comparison.vs, comparison.arm))
    if comparison.guaranteed is None or a[0] is None or a[1] is None or b[0] is None or b[1] is None:
        return comparison
    low, high = b[0] - a[1], b[1] - a[0]
    shown = comparison.always_valid.difference_ci if comparison.always_valid else UNBOUNDED
    if shown[0] is None or shown[1] is None or shown[0] <= 0 <= shown[1]:
        low, high = min(low, 0.0), max(high, 0.0)
    found = Guaranteed(
        difference_ci=(low, high), method="empirical Bernstein over the rows in their order, each arm at half the error rate"
    )
    return msgspec.structs.replace(comparison, guaranteed=found)


def _fixed(comparison: Comparison, statistics: AnalysisStatistics) -> Comparison:
    """Without what is valid at any look, for a table looked at once."""
    return comparison if statistics.sequential else msgspec.structs.replace(comparison, always_valid=None, e_bh=None)
