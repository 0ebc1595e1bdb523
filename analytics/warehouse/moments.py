"""Per-unit totals and their moments per arm, by push-down SQL."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analytics.events import GATEWAY_KINDS
from analytics.experiment import Metric
from analytics.facts import Moments
from analytics.warehouse.client import Warehouse
from analytics.warehouse.scope import Scope

MICROSECONDS_PER_HOUR = 3_600_000_000
TIME = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"


class UnitMoments(NamedTuple):
    """`metrics[name][arm]` (with the built-in failure_rate), `latency[arm]`, and the work done per arm."""

    metrics: dict[str, dict[str, Moments]]
    latency: dict[str, Moments]
    generations: dict[str, int]
    images: dict[str, int]
    failures: dict[str, int]


class _Column(NamedTuple):
    """A per-unit value, and for a ratio its denominator, as aggregates over the unit's joined events `e`."""

    numerator: str
    denominator: str | None


def exposed(scope: Scope) -> str:
    """A subquery of (unit, first_arm, exposed_at in microseconds, chance, several): one row per unit with an exposure that counts."""
    exposures = scope.events(f"event_id, unit, arm, propensity, {TIME} AS at", f"kind = 'exposure' AND {scope.counted} AND unit != ''")
    return f"""(SELECT unit, argMin(arm, (at, event_id)) AS first_arm, min(at) AS exposed_at,
        argMin(tuple(propensity), (at, event_id)).1 AS chance, uniqExact(arm) > 1 AS several FROM {exposures} GROUP BY unit)"""


def exposed_once(scope: Scope) -> str:
    """`exposed` without the units that saw several arms or another than {arms:Array(String)}."""
    return f"(SELECT unit, first_arm, exposed_at FROM {exposed(scope)} WHERE NOT several AND has({{arms:Array(String)}}, first_arm))"


def in_window(kind: str, window_hours: float | None) -> str:
    """Whether the joined event `e` counts for the unit `x`; the inverse of what `read_facts` leaves out."""
    parts = []
    if kind not in GATEWAY_KINDS:
        parts.append("e.at >= x.exposed_at")
    if window_hours is not None:
        parts.append(f"e.at <= x.exposed_at + {round(window_hours * MICROSECONDS_PER_HOUR)}")
    if kind == "preference":
        parts.append("e.arm = x.first_arm")
    return " AND ".join(parts) or "1"


def read_moments(warehouse: Warehouse, scope: Scope, arms: Sequence[str], metrics: Mapping[str, Metric]) -> UnitMoments:
    """Moments of proportion, mean and ratio metrics over exposed units, of failure_rate, and of the mean latency per unit."""
    parameters: dict[str, Any] = {**scope.parameters, "arms": list(arms)}
    columns = [_column(metric, parameters) for metric in metrics.values()]
    names = [*metrics, "failure_rate"]
    columns.append(_Column("countIf(e.kind = 'generation' AND e.failed)", "countIf(e.kind = 'generation')"))
    kinds = {kind for metric in metrics.values() for kind in (metric.event, metric.denominator) if kind} | {"generation", "image"}
    events = scope.events(
        f"event_id, kind, unit, arm, value, {TIME} AS at, status = 'failed' AS failed, queue_ms + service_ms AS ms",
        f"kind IN {{kinds:Array(String)}} AND {scope.counted} AND unit != ''",
    )
    timed = "e.kind = 'generation' AND NOT e.failed AND e.ms IS NOT NULL"
    totals = [f"{c.numerator} AS n{i}, {c.denominator or 1} AS d{i}" for i, c in enumerate(columns)]
    work = [f"avgIf(e.ms, {timed}) AS latency", "countIf(e.kind = 'generation') AS generations", "countIf(e.kind = 'image') AS images"]
    outer = [f"{_moments(f'n{i}', f'd{i}')}" for i in range(len(columns))]
    sql = f"""
        SELECT first_arm, count(), sum(generations), sum(images), sum(n{len(columns) - 1}),
            countIf(latency IS NOT NULL), {_moments("ifNull(latency, 0)", "1", "If", "latency IS NOT NULL")}, {", ".join(outer)}
        FROM (SELECT x.unit AS unit, any(x.first_arm) AS first_arm, {", ".join([*work, *totals])}
            FROM {exposed_once(scope)} AS x LEFT JOIN {events} AS e ON e.unit = x.unit GROUP BY x.unit)
        GROUP BY first_arm"""
    result = UnitMoments({name: {} for name in names}, {}, {}, {}, {})
    for arm in arms:
        for name in names:
            ratio = columns[names.index(name)].denominator is not None
            result.metrics[name][arm] = Moments(n=0, mean=0.0, m2=0.0, denominator_mean=0.0 if ratio else 1.0)
    for arm, units, generations, images, failures, timed_units, *rest in warehouse.query(sql, {**parameters, "kinds": sorted(kinds)}):
        result.generations[arm], result.images[arm], result.failures[arm] = int(generations), int(images), int(failures)
        if timed_units:
            result.latency[arm] = moments(timed_units, rest[:5], False)
        for i, name in enumerate(names):
            result.metrics[name][arm] = moments(units, rest[5 * (i + 1) : 5 * (i + 2)], columns[i].denominator is not None)
    return result


def moments(n: int, row: Sequence[float], ratio: bool) -> Moments:
    """From mean, m2, denominator mean, denominator m2, comoment."""
    if not ratio:
        return Moments(n=int(n), mean=float(row[0]), m2=float(row[1]))
    mean, m2, denominator_mean, denominator_m2, comoment = map(float, row)
    return Moments(n=int(n), mean=mean, m2=m2, denominator_mean=denominator_mean, denominator_m2=denominator_m2, comoment=comoment)


def _moments(x: str, y: str, suffix: str = "", condition: str = "") -> str:
    """Mean, centred sum of squares, the same of `y`, and the sum of centred products; compensated, and stable far from 0."""
    also = f", {condition}" if condition else ""
    n = f"count{suffix}({condition})"

    def mean(v: str) -> str:
        return f"sumKahan{suffix}(toFloat64({v}){also}) / {n}"

    def pop(v: str) -> str:
        return f"varPopStable{suffix}(toFloat64({v}){also}) * {n}"

    return f"{mean(x)}, {pop(x)}, {mean(y)}, {pop(y)}, covarPopStable{suffix}(toFloat64({x}), toFloat64({y}){also}) * {n}"


def _column(metric: Metric, parameters: dict[str, Any]) -> _Column:
    def condition(kind: str) -> str:
        key = f"kind{len(parameters)}"
        parameters[key] = kind
        return f"e.kind = {{{key}:String}} AND {in_window(kind, metric.window_hours)}"

    counts = condition(metric.event)
    if metric.kind == "proportion":
        return _Column(f"countIf({counts}) > 0", None)
    total = f"countIf({counts})" if metric.kind == "ratio" else f"sumKahanIf(ifNull(e.value, 1), {counts})"
    if metric.cap is not None:
        total = f"least({total}, {float(metric.cap)!r})"
    return _Column(total, f"countIf({condition(metric.denominator)})" if metric.denominator else None)
