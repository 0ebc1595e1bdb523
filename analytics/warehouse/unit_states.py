"""One row per exposed unit with all its numbers, made in one pass for one set of facts: which columns it has."""

from collections.abc import Mapping
from typing import NamedTuple

from analytics.experiment import Experiment, Metric
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_events import exposed_units
from analytics.warehouse.unit_numbers import MICROSECONDS_PER_DAY, Numbers, Streams, before_exposure, on_day_of_life, since_exposure
from analytics.warehouse.unit_rules import Column, fixed_columns

DAYS_OF_LIFE = 14
PRE_PERIOD_DAYS = 14.0


class Outcome(NamedTuple):
    """Where a metric's numbers stand: `y`, of a ratio its `denominator`, and per covariate a name with one column, or two."""

    y: str
    denominator: str | None
    covariates: tuple[tuple[str, str, str | None], ...] = ()


class Work(NamedTuple):
    """Columns of what was done for a unit, and its mean latency in ms (0 without one)."""

    generations: str
    images: str
    failures: str
    latency: str


class Layout(NamedTuple):
    """The columns of the units' table: of each metric that is no quantile its numbers, of each quantile its values."""

    work: Work
    outcomes: dict[str, Outcome]
    values: dict[str, str]
    ages: tuple[str, str | None] | None
    before: Outcome | None
    dimensions: dict[str, str]
    select: str
    columns: tuple[Column, ...]
    arms: int
    parameters: Parameters


def lay_out(
    source: Source,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    span: tuple[int, int],
    now: int,
    *,
    brief: bool = False,
) -> Layout:
    """The SELECT that makes a row of each exposed unit.

    `span`: first and last exposure, `now`: until when units have lived; in microseconds. `brief`: nothing but `metrics`
    themselves and the units' arms. Columns beside the numbers: arm and drawn (1-based places in the experiment's arms; arm 0:
    the unit is in no figure), several, rule (place in RULES; 0: none), trained, suspicious (has a flagged event), exposed_at
    (microseconds), chance.
    """
    streams, parameters = Streams(), source.parameters()
    numbers = Numbers(streams, parameters)
    columns: list[Column] = []

    def column(sql: str, kind: str = "Float64") -> str:
        name = f"{'m' if kind == 'Float64' else 'q'}{len(columns)}"
        columns.append(Column(name, kind, sql))
        return name

    def outcome(metric: Metric, days: float | None = None) -> tuple[str, str | None]:
        if days is None:
            y, d = numbers.of(metric, since_exposure(metric.window_hours))
        else:
            y, d = numbers.of(metric, before_exposure(days), "before", cap=False)
        return column(y), None if d is None else column(d)

    latency = "arrayFilter(ms -> isFinite(ms), u.latencies)"
    values = {"latency_p95_ms": column(latency, "Array(Float64)")}
    generations, failures = column("toFloat64(u.generations)"), column("toFloat64(u.failures)")
    outcomes = {"failure_rate": Outcome(failures, generations)}
    work = Work(generations, column("toFloat64(u.images)"), failures, column(f"if(empty({latency}), 0, arrayAvg({latency}))"))
    for name, metric in metrics.items():
        if metric.kind == "quantile":
            values[name] = column(numbers.values(metric, since_exposure(metric.window_hours)), "Array(Float64)")
            continue
        y, d = outcome(metric)
        covariates: tuple[tuple[str, str, str | None], ...] = ()
        if metric.covariate_days is not None and not brief:
            others = [other for other in dict.fromkeys((name, *metric.covariates)) if metrics[other].kind != "quantile"]
            covariates = tuple((other, *outcome(metrics[other], metric.covariate_days)) for other in others)
        outcomes[name] = Outcome(y, d, covariates)
    primary, ages, before = metrics.get(experiment.primary), None, None
    if primary is not None and primary.kind != "quantile" and not brief:
        before = Outcome(*outcome(primary, PRE_PERIOD_DAYS))
        lived = f"toUInt64(greatest(0, least({DAYS_OF_LIFE}, intDiv({now} - u.exposed_at, {MICROSECONDS_PER_DAY}))))"
        y, d = numbers.of(primary, on_day_of_life, cap=False)
        named = [None if sql is None else column(f"arrayMap(d -> {sql}, range({lived}))", "Array(Float64)") for sql in (y, d)]
        ages = (str(named[0]), named[1])
    keys = () if brief else dict.fromkeys((*experiment.breakdowns, *([experiment.strata] if experiment.strata else [])))
    dimensions: dict[str, str] = {}
    for key in keys:
        dimensions[key] = f"b{len(dimensions)}"
        columns.append(Column(dimensions[key], "String", f"u.context[{parameters.add('String', key)}]"))
    fixed = fixed_columns(source, experiment, parameters)
    units = exposed_units(source, streams, _reach(metrics), span, parameters)
    shown = ", ".join(f"{each.sql} AS {each.name}" for each in (*fixed, *columns))
    # Two steps: whether the unit counts depends on the other columns.
    counted = "toUInt8(if(c.drawn > 0 AND c.several = 0 AND c.rule = 0 AND c.trained = 0, c.drawn, 0)) AS arm"
    names = ", ".join(f"c.{each.name} AS {each.name}" for each in (*fixed, *columns))
    select = f"SELECT {counted}, {names} FROM (SELECT {shown} FROM {units} AS u) AS c"
    arm = Column("arm", "UInt8", "")
    return Layout(work, outcomes, values, ages, before, dimensions, select, (arm, *fixed, *columns), len(experiment.arms), parameters)


def looks_back(experiment: Experiment, metrics: Mapping[str, Metric]) -> tuple[list[str], float]:
    """Which kinds of events from before the exposure the numbers need, and how far back, in days."""
    asked = [metrics[experiment.primary]] if experiment.primary in metrics else []
    for name, metric in metrics.items():
        if metric.covariate_days is not None:
            asked += [metrics[other] for other in (name, *metric.covariates)]
    kinds = {kind for metric in asked for kind in (metric.event, metric.denominator, metric.per) if kind and kind not in {"unit", "event"}}
    return sorted(kinds), _reach(metrics)


def _reach(metrics: Mapping[str, Metric]) -> float:
    """How far before an exposure the numbers of `metrics` look, in days."""
    return max((PRE_PERIOD_DAYS, *(m.covariate_days for m in metrics.values() if m.covariate_days is not None)))
