"""The past of a route as an experiment would have met it, for planning: sums by push-down SQL, no row of a unit comes to Python.

Every unit that asked for a picture in the last days counts as exposed at its first request in them. How many came for the first time
on each day is then just how an experiment's units would have come: fewer every day, as people come back.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from analytics.experiment import Metric
from analytics.facts import Joint, Moments, QuantileFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.past_columns import Columns, columns_of
from analytics.warehouse.quantiles import Z_975, quantile_of
from analytics.warehouse.rows import from_microseconds, microseconds

DAY = 86_400_000_000
TIME = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"


class Past(NamedTuple):
    """`new_units` [days]: units by the day of their first request. `facts` and `joint` are of the `measured` units whose window is
    over; `facts` is None where there is nothing to measure."""

    since: datetime
    until: datetime
    new_units: list[int]
    measured: int
    facts: Moments | QuantileFacts | None
    joint: Joint | None


class _Stretch(NamedTuple):
    since: int
    until: int
    parameters: dict[str, Any]


def route_names(warehouse: Warehouse) -> list[str]:
    """Routes with at least one request. Raises LookupError (no tables), OSError."""
    return [str(route) for (route,) in warehouse.query("SELECT DISTINCT route FROM events WHERE kind = 'generation' ORDER BY route")]


def read_past(
    warehouse: Warehouse, route: str, name: str, metric: Metric | None, days: int, covariates: Mapping[str, Metric] | None = None
) -> Past | None:
    """The last `days` whole days before the route's last request, or as many as there are with `covariate_days` before them.

    `metric` None: the built-in one of that `name`. `covariates`: the metrics that `metric.covariates` names. Flagged events count
    nowhere. None when the route has no requests. Raises ValueError for a window longer than the past, LookupError, OSError.
    """
    span = _span(warehouse, route)
    if span is None:
        return None
    first, last = span
    before = 0.0 if metric is None or metric.covariate_days is None else metric.covariate_days
    whole = max(1, min(days, int((last - first) / DAY - before)))
    window = 0 if metric is None or metric.window_hours is None else round(metric.window_hours * 3_600_000_000)
    since, until = last + 1 - whole * DAY, last + 1
    if window >= until - since:
        raise ValueError(
            f"route {route!r} has {(last - first) / DAY:.1f} days of past, and {name!r} is measured over {window / DAY:g} days"
            " of a unit (window_hours); plan when there is more, or read more with --history-days"
        )
    stretch = _Stretch(since, until, {"route": route, "since": since, "until": until, "first_day": _day(since, before)})
    counts = {int(day): int(units) for day, units in warehouse.query(_NEW.format(visits=_visits()), stretch.parameters)}
    columns = columns_of(name, metric, covariates or {})
    closed = _Stretch(since, until, {**stretch.parameters, "closed": until - window})
    facts: Moments | QuantileFacts | None
    if columns.quantile is not None:
        facts, joint = _quantile(warehouse, closed, columns), None
    else:
        facts, joint = _moments(warehouse, closed, columns)
    return Past(
        since=from_microseconds(since),
        until=from_microseconds(until),
        new_units=[counts.get(day, 0) for day in range(whole)],
        measured=0 if facts is None else facts.n if isinstance(facts, Moments) else facts.units,
        facts=facts,
        joint=joint,
    )


def exposed_per_day(warehouse: Warehouse, experiment: str, started_at: datetime, until: datetime) -> list[int]:
    """Units by the 24 hours of their first exposure since `started_at`, whole ones only. Raises LookupError, OSError."""
    start, days = microseconds(started_at), int((until - started_at) / timedelta(days=1))
    sql = """SELECT greatest(0, intDiv(came_at - {start:Int64}, {day:Int64})) AS day, count()
        FROM (SELECT unit, min(exposed_at) AS came_at FROM exposures WHERE experiment = {experiment:String} GROUP BY unit) GROUP BY day"""
    counts = {int(day): int(units) for day, units in warehouse.query(sql, {"experiment": experiment, "start": start, "day": DAY})}
    return [counts.get(day, 0) for day in range(days)]


_NEW = f"SELECT intDiv(came_at - {{{{since:Int64}}}}, {DAY}) AS day, count() FROM {{visits}} GROUP BY day"


def _span(warehouse: Warehouse, route: str) -> tuple[int, int] | None:
    sql = f"""SELECT count(), min({TIME}), max({TIME}) FROM events
        WHERE route = {{route:String}} AND kind = 'generation' AND unit != '' AND flags = 0"""
    ((count, first, last),) = warehouse.query(sql, {"route": route})
    return (int(first), int(last)) if count else None


def _day(since: int, days_before: float) -> Any:
    """From which day on events are read: an id may be a day older than what it tells of."""
    return (from_microseconds(since) - timedelta(days=days_before + 2)).date()


def _events(columns: str, where: str) -> str:
    return f"""(SELECT {columns}, {TIME} AS at FROM events FINAL
        WHERE route = {{route:String}} AND day >= {{first_day:Date}} AND flags = 0 AND unit != '' AND {where} LIMIT 1 BY event_id)"""


def _visits() -> str:
    requests = _events("event_id, unit", "kind = 'generation'")
    return f"(SELECT unit, min(at) AS came_at FROM {requests} WHERE at >= {{since:Int64}} AND at < {{until:Int64}} GROUP BY unit)"


def _joined(columns: Columns) -> str:
    needed = ", ".join(dict.fromkeys(("event_id", "kind", "unit", *columns.needs)))
    events = _events(needed, "kind IN {kinds:Array(String)}")
    return f"""(SELECT * FROM {_visits()} WHERE came_at <= {{closed:Int64}}) AS v
        LEFT JOIN (SELECT * FROM {events} WHERE at < {{until:Int64}}) AS e ON e.unit = v.unit"""


def _moments(warehouse: Warehouse, stretch: _Stretch, columns: Columns) -> tuple[Moments | None, Joint | None]:
    parameters = {**stretch.parameters, **columns.parameters, "kinds": list(columns.kinds)}
    numbers = list(columns.numbers)
    joined = _joined(columns)
    if columns.cap is not None:
        bound: float | str = columns.cap
        if isinstance(bound, str):
            level = float(bound[1:]) / 100
            sql = f"SELECT quantileExactInclusive({level!r})(x) FROM (SELECT {numbers[0]} AS x FROM {joined} GROUP BY v.unit)"
            bound = float(warehouse.query(sql, parameters)[0][0])
        numbers[0] = f"least({numbers[0]}, {bound!r})"
    k = len(numbers)
    pairs = [(i, j) for i in range(k) for j in range(i, k)]
    outer = [*(f"sumKahan(x{i}) / count()" for i in range(k)), *(f"covarPopStable(x{i}, x{j}) * count()" for i, j in pairs)]
    inner = ", ".join(f"toFloat64({number}) AS x{i}" for i, number in enumerate(numbers))
    sql = f"SELECT count(), {', '.join(outer)} FROM (SELECT {inner} FROM {joined} GROUP BY v.unit)"
    ((n, *found),) = warehouse.query(sql, parameters)
    if not n:
        return None, None
    means = tuple(float(mean) for mean in found[:k])
    values = {pair: float(value) for pair, value in zip(pairs, found[k:], strict=True)}
    products = tuple(tuple(values[min(i, j), max(i, j)] for j in range(k)) for i in range(k))
    facts = Moments(n=int(n), mean=means[0], m2=products[0][0])
    if columns.ratio:
        facts = Moments(
            n=int(n),
            mean=means[0],
            m2=products[0][0],
            denominator_mean=means[1],
            denominator_m2=products[1][1],
            comoment=products[0][1],
        )
    if not columns.covariates:
        return facts, None
    joint = Joint(n=int(n), means=means, products=products, ratio=columns.ratio, covariates=columns.covariates, ratios=columns.ratios)
    return facts, joint


def _quantile(warehouse: Warehouse, stretch: _Stretch, columns: Columns) -> QuantileFacts | None:
    """As in `quantiles`, over all units together."""
    level = columns.quantile
    number, condition = columns.numbers
    parameters = {**stretch.parameters, **columns.parameters, "kinds": list(columns.kinds)}
    values = f"(SELECT v.unit AS unit, assumeNotNull(toFloat64({number})) AS number FROM {_joined(columns)} WHERE {condition})"
    half = f"{Z_975} * sqrt({level} * {1 - (level or 0.0)} / length(s))"
    shares = (f"{level}", f"{level} - {half}", f"{level} + {half}")
    at = [f"s[toUInt64(greatest(1.0, least(toFloat64(length(s)), ceil(length(s) * ({share})))))]" for share in shares]
    ((events, value, low, high),) = warehouse.query(
        f"SELECT length(s), {', '.join(at)} FROM (SELECT arraySort(groupArray(number)) AS s FROM {values})", parameters
    )
    if not events:
        return None
    sql = f"""SELECT count(), sum(b) / count(), varPopStable(b) * count(), sum(c) / count(), varPopStable(c) * count(),
            covarPopStable(b, c) * count()
        FROM (SELECT unit, toFloat64(count()) AS c, toFloat64(countIf(number <= {{cut:Float64}})) AS b FROM {values} GROUP BY unit)"""
    (clusters,) = warehouse.query(sql, {**parameters, "cut": float(value)})
    return quantile_of(level or 0.0, (events, value, low, high, *clusters))
