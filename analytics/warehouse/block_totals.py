"""A metric of a switchback as totals per block, by push-down: no row of a unit comes to Python."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from analytics.experiment import Metric
from analytics.facts import QuantileFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.quantiles import read_quantiles
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_numbers import LARGEST, MICROSECONDS_PER_HOUR
from analytics.warehouse.unit_rules import fits
from analytics.warehouse.unit_table import Units


class Asked(NamedTuple):
    """When the first block began and how long each is, in microseconds; and the units that count, as a subquery with its values."""

    origin: int
    length: int
    units: tuple[str, dict[str, Any]]


def read_totals(warehouse: Warehouse, source: Source, metric: Metric, asked: Asked) -> dict[int, tuple[float, float]]:
    """(numerator, denominator) per block, over units with a request in it outside the wash-out.

    Per unit the denominator counts these units: a proportion counts those of them with an event, a mean sums their values. A cap
    bounds what a unit adds to one block. `metric` is no quantile.
    """
    subquery, values = asked.units
    parameters = Parameters(**values)
    conditions = {"own": _condition(metric.event, metric.where, parameters)}
    if metric.denominator is not None:
        conditions["below"] = _condition(metric.denominator, metric.denominator_where, parameters)
    elif metric.per in ("generation", "image"):
        conditions["below"] = _condition(metric.per, {}, parameters)
    kinds = parameters.add(
        "Array(String)", sorted({"generation", *(_kind(kind) for kind in (metric.event, metric.denominator, metric.per) if kind)})
    )
    at = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"
    inside = f"experiment = {{experiment:String}} AND kind IN {kinds} AND attributes['washout'] != 'true' AND attributes['block'] != ''"
    if metric.window_hours is not None:
        inside += f" AND {at} <= {_deadline(metric.window_hours, asked)}"
    columns = "event_id, experiment, unit, toInt64OrNull(attributes['block']) AS block, kind = 'generation' AS asked, value"
    columns += ", generation_id, image_id, " + ", ".join(f"({sql}) AS {name}" for name, sql in conditions.items())
    y, d = _numbers(metric)
    level = float(metric.cap[1:]) / 100 if isinstance(metric.cap, str) and metric.kind != "proportion" else None
    if isinstance(metric.cap, int | float) and metric.kind != "proportion":
        y = f"least({y}, {float(metric.cap)!r})"
    per_unit = f"""(SELECT block, unit, toFloat64({y}) AS y, toFloat64({d}) AS d FROM {source.events(inside, columns)}
        WHERE block IS NOT NULL AND unit IN {subquery} GROUP BY block, unit HAVING countIf(asked) > 0)"""
    shown = "y"
    if level is not None:
        ((cap,),) = warehouse.query(f"SELECT quantileExactInclusive({level!r})(y) FROM {per_unit}", parameters.values)
        shown = f"least(y, {float(cap)!r})" if cap == cap else "y"
    sql = f"SELECT block, sum({shown}), sum(d) FROM {per_unit} GROUP BY block ORDER BY block"
    return {int(block): (float(one), float(other)) for block, one, other in warehouse.query(sql, parameters.values)}


def read_block_quantiles(
    warehouse: Warehouse, source: Source, metric: Metric, asked: Asked, arms: Sequence[str], blocks: Sequence[int]
) -> dict[str, QuantileFacts]:
    """A quantile of events' values (of generations: of their latency in ms) per arm, clustered by block: `units` are blocks. Of the
    given `blocks`, of units that count, outside the wash-outs. A percentile is no cap here."""
    subquery, values = asked.units
    parameters = Parameters(**values)
    at = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"
    inside = "experiment = {experiment:String} AND attributes['washout'] != 'true' AND attributes['block'] != ''"
    inside += f" AND {_condition(metric.event, metric.where, parameters)}"
    if metric.window_hours is not None:
        inside += f" AND {at} <= {_deadline(metric.window_hours, asked)}"
    number = "value"
    if metric.event == "generation":
        inside, number = f"{inside} AND status != 'failed'", "queue_ms + service_ms"
    number = f"ifNull({number}, nan)"
    if isinstance(metric.cap, int | float):
        number = f"least({number}, {float(metric.cap)!r})"
    placed = source.events(inside, f"event_id, experiment, unit, arm, toInt64OrNull(attributes['block']) AS block, {number} AS number")
    known, numbers = parameters.add("Array(String)", list(arms)), parameters.add("Array(Int64)", list(blocks))
    table = f"""(SELECT toUInt8(indexOf({known}, toString(arm))) AS arm, groupArray(number) AS q FROM {placed}
        WHERE isFinite(number) AND block IN {numbers} AND unit IN {subquery} GROUP BY block, arm)"""
    found = read_quantiles(Units(warehouse, table, len(arms), parameters.values), "q", float(metric.quantile or 0.5), ["arm"])
    return {arms[arm - 1]: facts for (arm,), facts in sorted(found.items())}


def _deadline(window_hours: float, asked: Asked) -> str:
    """Until when the events of a row's block count."""
    end = f"{asked.origin} + (ifNull(toInt64OrNull(attributes['block']), 0) + 1) * {asked.length}"
    return f"{end} + {round(window_hours * MICROSECONDS_PER_HOUR)}"


def _numbers(metric: Metric) -> tuple[str, str]:
    if metric.per in ("generation", "image"):
        ids = f"{metric.per}_id"
        whole = f"groupUniqArrayIf(assumeNotNull({ids}), {ids} IS NOT NULL AND below)"
        own = f"groupUniqArrayIf(assumeNotNull({ids}), {ids} IS NOT NULL AND own)"
        return f"length(arrayIntersect({whole}, {own}))", f"length({whole})"
    if metric.per == "event":
        known = "own AND isFinite(ifNull(value, nan))"
        return _bounded(f"sumIf(ifNull(value, 0), {known})"), f"countIf({known})"
    if metric.kind == "proportion":
        return "countIf(own) > 0", "1"
    if metric.kind == "ratio":
        return "countIf(own)", "countIf(below)"
    return _bounded("sumIf(if(isFinite(ifNull(value, 1)), ifNull(value, 1), 1), own)"), "1"


def _bounded(sql: str) -> str:
    return f"greatest(-{LARGEST}, least({LARGEST}, {sql}))"


def _kind(name: str) -> str:
    """The kind of the events that a word of a metric stands for."""
    return {"failure": "generation", "unit": "generation", "event": "generation"}.get(name, name)


def _condition(kind: str, where: Any, parameters: Parameters) -> str:
    failed = " AND status = 'failed'" if kind == "failure" else ""
    return f"kind = {parameters.add('String', _kind(kind))}{failed} AND {fits('attributes', where, parameters)}"
