"""The report of a table: the same comparisons as an experiment's, with what a table can tell."""

from collections.abc import Sequence

import msgspec

from analytics.analyze.asked import Asked
from analytics.analyze.covariate_option import covariates_of
from analytics.analyze.from_rows import Resampled, bounded_means, resample
from analytics.analyze.measure import Measured, measure
from analytics.analyze.metric_option import MetricOption, find_metric
from analytics.analyze.notes import notes
from analytics.analyze.split import Split, counts, split
from analytics.analyze.statistics import AnalysisStatistics, AskedOf, Period, break_down, compare, sample_ratio_of
from analytics.analyze.table import Codes, Table, TableError
from analytics.analyze.units import Units, group
from analytics.analyze.weights_option import check_arms
from analytics.checks import SampleRatio
from analytics.nearest import nearest
from analytics.report.schema import Breakdown, MetricReport

MOST_ARMS = 50


class AnalysisArm(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of the table; `weight` as given with --weights, of the last period."""

    arm: str
    control: bool
    weight: float | None
    units: int


class AnalysisChecks(msgspec.Struct, frozen=True, kw_only=True):
    """`srm` needs --weights; `multiple_exposure`: units with rows in several arms, left out; `units_with_several_rows`: their rows
    are taken together; `units_that_moved[column]`: units whose rows differ in a column of --period, --stratify or --breakdown, and
    that count by their first row."""

    srm: SampleRatio | None
    multiple_exposure: int
    units_with_several_rows: int = 0
    units_that_moved: dict[str, int] = {}


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a report (design §3.6) that a table can fill, with their names and meaning."""

    experiment: str
    rows: int
    method_notes: list[str]
    arms: list[AnalysisArm]
    checks: AnalysisChecks
    metrics: list[MetricReport]
    breakdowns: list[Breakdown]
    bootstrap: list[Resampled]
    sufficient_statistics: AnalysisStatistics


def analyze(table: Table, asked: Asked) -> Analysis:
    """Compare every arm with the control. The first metric is primary, the others one family, guardrails another.

    Raises TableError, ValueError.
    """
    _check_names(asked)
    units = group(table.labels(asked.arm), table.labels(asked.unit) if asked.unit else None)
    _check_arms(table, units, asked)
    parts = split(table, units, asked.period, asked.stratify, list(asked.breakdowns))
    measured = [_measure(table, units, parts, asked, place) for place in range(len(asked.metrics))]
    statistics = _statistics(asked, units, parts, measured)
    compared = compare(statistics)
    moved = {p.column: p.changed for p in (parts.periods, parts.strata, *parts.breakdowns) if p is not None and p.changed}
    weights = statistics.periods[-1].weights
    total = {arm: sum(period.units.get(arm, 0) for period in statistics.periods) for arm in statistics.arms}
    checks = AnalysisChecks(
        srm=sample_ratio_of(statistics),
        multiple_exposure=units.several_arms,
        units_with_several_rows=units.several_rows,
        units_that_moved=moved,
    )
    return Analysis(
        experiment=table.path.name,
        rows=table.rows,
        method_notes=notes(asked, statistics, checks.units_with_several_rows, moved),
        arms=[
            AnalysisArm(arm=arm, control=arm == asked.control, weight=weights[arm] if weights else None, units=total[arm])
            for arm in statistics.arms
        ],
        checks=checks,
        metrics=compared,
        breakdowns=break_down(statistics, compared),
        bootstrap=resample(table, units, asked, measured, compared),
        sufficient_statistics=statistics,
    )


def _measure(table: Table, units: Units, parts: Split, asked: Asked, place: int) -> Measured:
    option = asked.metrics[place]
    measured = measure(
        table,
        units,
        parts,
        option,
        covariates_of(option, asked.covariates),
        asked.cap,
        asked.empty,
        sliced=asked.role(place) == "primary",
    )
    if option.name not in asked.bounds:
        return measured
    given = {arm for shares in asked.weights.values() for arm in shares}
    sharing = sum(asked.role(i) == asked.role(place) for i in range(len(asked.metrics))) * (len({*units.arms, *given}) - 1)
    return msgspec.structs.replace(measured, bounded=bounded_means(table, units, asked, place, measured, sharing))


def _statistics(asked: Asked, units: Units, parts: Split, measured: Sequence[Measured]) -> AnalysisStatistics:
    names = parts.periods.names if parts.periods else [""]
    weights = [asked.weights.get(name) for name in names]
    given = [arm for shares in asked.weights.values() for arm in shares]
    arms = list(dict.fromkeys([asked.control, *units.arms, *given]))
    found = [{arm: row.get(arm, 0) for arm in arms} for row in counts(units, parts.periods)]
    return AnalysisStatistics(
        rules=asked.rules,
        control=asked.control,
        arms=arms,
        sequential=asked.sequential,
        periods=[
            Period(name=name, units=row, weights=dict(shares) if shares else None)
            for name, row, shares in zip(names, found, weights, strict=True)
        ],
        asked=[
            AskedOf(role=asked.role(i), direction=asked.direction(option), margin=option.margin, bounds=asked.bounds.get(option.name))
            for i, option in enumerate(asked.metrics)
        ],
        metrics=list(measured),
        slice_units={p.column: _slice_units(units, p.names, p.codes, parts) for p in parts.breakdowns},
    )


def _slice_units(units: Units, names: Sequence[str], codes: Codes, parts: Split) -> dict[str, list[dict[str, int]]]:
    result = {}
    for value, name in enumerate(names):
        here = codes == value
        inside = msgspec.structs.replace(units, arm=units.arm[here])
        of_period = None if parts.periods is None else msgspec.structs.replace(parts.periods, codes=parts.periods.codes[here])
        result[name] = counts(inside, of_period)
    return result


def _check_names(asked: Asked) -> None:
    names = [metric.name for metric in asked.metrics]
    given = [(metric.name, metric.kind, metric.margin is None) for metric in asked.metrics]
    for one in given:
        if given.count(one) > 1:
            raise ValueError(f"{'--metric' if one[2] else '--guardrail'} {one[0]!r} is given {given.count(one)} times; once is enough")
    if all(metric.margin is not None for metric in asked.metrics):
        raise ValueError("there are guardrails only; give at least one --metric")
    columns = [m.column for m in asked.metrics]
    for name in asked.lower:
        if name not in columns and name not in names:
            raise ValueError(f"--lower {name!r} is no column of a --metric; {nearest(name, columns)}")
    for name in asked.bounds:
        option = find_metric(name, asked.metrics, "--bounds")
        if option.kind not in (None, "mean") or option.per != "unit":
            raise ValueError(f"--bounds {name!r}: only a mean per unit has bounds; {name!r} is a {option.kind}")
    _check_columns(asked.metrics, asked)


def _check_columns(metrics: Sequence[MetricOption], asked: Asked) -> None:
    used = [column for column in (asked.arm, asked.unit) if column]
    for metric in metrics:
        if metric.column in used:
            raise ValueError(f"--metric {metric.name!r}: {metric.column!r} is the column of --arm or --unit, no number to compare")


def _check_arms(table: Table, units: Units, asked: Asked) -> None:
    if asked.control not in units.arms:
        raise TableError(
            f"{table.path}: column {asked.arm!r} has no arm {asked.control!r} (--control); {nearest(asked.control, units.arms)}"
        )
    given = {arm for shares in asked.weights.values() for arm in shares}
    if len({*units.arms, *given}) < 2:
        raise TableError(f"{table.path}: column {asked.arm!r} holds one arm only, {units.arms[0]!r}; a comparison needs two")
    if len(units.arms) > MOST_ARMS:
        raise TableError(f"{table.path}: column {asked.arm!r} holds {len(units.arms)} different values; is it the arm?")
    for shares in asked.weights.values():
        check_arms(shares, units.arms, asked.arm)
