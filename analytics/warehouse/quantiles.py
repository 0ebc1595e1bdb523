"""Quantiles of events clustered by unit (Deng, Knoblich & Lu 2018, "Applying the Delta Method in Metric Analytics", §4.2)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from analytics.experiment import Metric
from analytics.facts import QuantileFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.moments import TIME, exposed_once, in_window
from analytics.warehouse.scope import Scope

Z_975 = 1.959963984540054


class Events(NamedTuple):
    """Numbers to take a quantile of: `number` over events of `kind` that fit `where`, within the window after exposure."""

    kind: str
    number: str
    where: str
    window_hours: float | None


LATENCY = Events("generation", "queue_ms + service_ms", "queue_ms + service_ms IS NOT NULL AND status != 'failed'", None)


def metric_events(metric: Metric) -> Events:
    """The values of a quantile metric; events without a value are left out."""
    number = "value" if metric.cap is None else f"least(value, {float(metric.cap)!r})"
    return Events(metric.event, number, "value IS NOT NULL", metric.window_hours)


def read_quantile(warehouse: Warehouse, scope: Scope, arms: Sequence[str], events: Events, level: float) -> dict[str, QuantileFacts]:
    """Per arm with at least one event. `units` are those with at least one event."""
    joined, parameters = _joined(scope, arms, events)
    half = f"{Z_975} * sqrt({level} * {1 - level} / length(v))"
    found = warehouse.query(
        f"""SELECT first_arm, length(v), {_at(f"{level}")}, {_at(f"{level} - {half}")}, {_at(f"{level} + {half}")}
        FROM (SELECT first_arm, arraySort(groupArray(number)) AS v FROM {joined} GROUP BY first_arm)""",
        parameters,
    )
    values = {arm: (int(n), float(value), float(low), float(high)) for arm, n, value, low, high in found}
    if not values:
        return {}
    parameters["cuts"] = [values[arm][1] if arm in values else 0.0 for arm in arms]
    clusters = warehouse.query(
        f"""SELECT first_arm, count(), sum(b) / count(), varPopStable(b) * count(), sum(c) / count(), varPopStable(c) * count(),
            covarPopStable(b, c) * count()
        FROM (SELECT unit, first_arm, toFloat64(count()) AS c,
                toFloat64(countIf(number <= {{cuts:Array(Float64)}}[indexOf({{arms:Array(String)}}, first_arm)])) AS b
            FROM {joined} GROUP BY unit, first_arm)
        GROUP BY first_arm""",
        parameters,
    )
    result = {}
    for arm, units, below_mean, below_m2, count_mean, count_m2, comoment in clusters:
        events_, value, low, high = values[arm]
        result[arm] = QuantileFacts(
            level=level,
            events=events_,
            units=int(units),
            value=value,
            low=low,
            high=high,
            below_mean=below_mean,
            below_m2=below_m2,
            count_mean=count_mean,
            count_m2=count_m2,
            comoment=comoment,
        )
    return result


def latency_median(warehouse: Warehouse, scope: Scope, arms: Sequence[str]) -> dict[str, float]:
    """The median latency of generations in ms, per arm with at least one."""
    joined, parameters = _joined(scope, arms, LATENCY)
    sql = f"SELECT first_arm, {_at('0.5')} FROM (SELECT first_arm, arraySort(groupArray(number)) AS v FROM {joined} GROUP BY first_arm)"
    return {arm: float(value) for arm, value in warehouse.query(sql, parameters)}


def _joined(scope: Scope, arms: Sequence[str], events: Events) -> tuple[str, dict[str, Any]]:
    chosen = scope.events(
        f"event_id, unit, arm, assumeNotNull(toFloat64({events.number})) AS number, {TIME} AS at",
        f"kind = {{kind:String}} AND {scope.counted} AND unit != '' AND {events.where}",
    )
    sql = f"""(SELECT x.unit AS unit, x.first_arm AS first_arm, e.number AS number
        FROM {chosen} AS e INNER JOIN {exposed_once(scope)} AS x ON e.unit = x.unit WHERE {in_window(events.kind, events.window_hours)})"""
    return sql, {**scope.parameters, "arms": list(arms), "kind": events.kind}


def _at(level: str) -> str:
    """Of the sorted array `v`, the smallest element with at least that share of all at or below it (the inverse cdf)."""
    return f"v[toUInt64(greatest(1.0, least(toFloat64(length(v)), ceil(length(v) * ({level})))))]"
