"""What a metric became, as one statement that an analyst can read, and run against the events."""

from analytics.events import GATEWAY_KINDS
from analytics.experiment import Experiment, Filter, Metric
from analytics.warehouse.ddl import text


def metric_sql(name: str, experiment: Experiment, metric: Metric, cap: float | None = None) -> str:
    """Value and spread per arm (of a bandit sums per arm and propensity), from all events that count. `cap`: what a percentile came
    to. Reports compute the same from daily rollups; the experiment's rules of exclusion are named in a comment and not applied."""
    kinds = sorted(
        {
            metric.event,
            *([metric.denominator] if metric.denominator else []),
            *([metric.per] if metric.per in {"generation", "image"} else []),
        }
    )
    bound = cap if cap is not None else metric.cap if isinstance(metric.cap, int | float) else None
    y, d = _numbers(metric)
    if bound is not None and metric.kind != "proportion":
        y = f"least({y}, {bound!r})"
    drawn = experiment.design == "bandit"
    at = "least(e.occurred_at, e.received_at)"
    several = (
        "Units count in the arm of their first draw; means of arms are no estimates here"
        if drawn
        else "Units in several arms count nowhere"
    )
    arm = f"argMin(e.arm, {at}) AS arm, argMin(e.propensity, {at}) AS propensity" if drawn else "any(e.arm) AS arm"
    lines = [f"-- {several}." + _rules(experiment)]
    lines += [
        "WITH exposed AS (",
        f"  SELECT e.unit AS unit, {arm}, min({at}) AS exposed_at",
        "  FROM events AS e FINAL",
        f"  WHERE e.experiment = {text(name)} AND e.kind = 'exposure' AND e.flags = 0 AND e.unit != ''",
        "  GROUP BY e.unit" + ("" if drawn else " HAVING uniqExact(e.arm) = 1"),
        "), happened AS (",
        "  SELECT unit, arm, kind, value, attributes, generation_id, image_id, least(occurred_at, received_at) AS at",
        "  FROM events FINAL",
        f"  WHERE experiment = {text(name)} AND kind IN ({', '.join(map(text, kinds))}) AND flags = 0",
        "),",
    ]
    if metric.kind == "quantile":
        number = "e.value" if bound is None else f"least(e.value, {bound!r})"
        lines += [
            "counted AS (",
            f"  SELECT x.arm AS arm, {number} AS number",
            "  FROM happened AS e INNER JOIN exposed AS x ON x.unit = e.unit",
            f"  WHERE e.value IS NOT NULL AND {_condition(metric.event, metric.where, metric)}",
            ")",
            "SELECT arm, count() AS events,",
            f"  arraySort(groupArray(number))[toUInt64(ceil(count() * {metric.quantile}))] AS quantile",
            "FROM counted GROUP BY arm ORDER BY arm",
        ]
        return "\n".join(lines)
    lines += [
        "units AS (",
        f"  SELECT x.arm AS arm, {'x.propensity AS propensity, ' if drawn else ''}x.unit AS unit, {y} AS y{f', {d} AS d' if d else ''}",
        "  FROM exposed AS x LEFT JOIN happened AS e ON e.unit = x.unit",
        f"  GROUP BY x.arm, {'x.propensity, ' if drawn else ''}x.unit",
        ")",
    ]
    if drawn:
        sums = "sum(y) AS s1, sum(y * y) AS s2" + (", sum(d) AS d1, sum(d * d) AS d2, sum(y * d) AS yd" if d else "")
        lines.append("-- The report adds these up within every stretch of constant weights (docs/statistics/adaptive.md).")
        return "\n".join(
            [*lines, f"SELECT arm, propensity, count() AS units, {sums}", "FROM units GROUP BY arm, propensity ORDER BY arm, propensity"]
        )
    value = "sum(y) / sum(d) AS ratio" if d else "avg(y) AS mean, stddevSamp(y) AS sd"
    lines += [f"SELECT arm, count() AS units, {value}", "FROM units GROUP BY arm ORDER BY arm"]
    return "\n".join(lines)


def _numbers(metric: Metric) -> tuple[str, str | None]:
    own = _condition(metric.event, metric.where, metric)
    if metric.per in {"generation", "image"}:
        every, those = _condition(metric.per, {}, metric), own
        ids = f"assumeNotNull(e.{metric.per}_id)"
        known = f"e.{metric.per}_id IS NOT NULL"
        whole = f"groupUniqArrayIf({ids}, {known} AND {every})"
        return f"length(arrayIntersect({whole}, groupUniqArrayIf({ids}, {known} AND {those})))", f"length({whole})"
    if metric.per == "event":
        return f"sumIf(ifNull(e.value, 0), {own})", f"countIf(e.value IS NOT NULL AND {own})"
    if metric.kind == "proportion":
        return f"countIf({own}) > 0", None
    if metric.kind == "ratio":
        return f"countIf({own})", f"countIf({_condition(metric.denominator or '', metric.denominator_where, metric)})"
    return f"sumIf(ifNull(e.value, 1), {own})", None


def _condition(kind: str, where: Filter, metric: Metric) -> str:
    parts = [f"e.kind = {text(kind)}"]
    if kind not in GATEWAY_KINDS:
        parts.append("e.at >= x.exposed_at")
    if metric.window_hours is not None:
        parts.append(f"e.at <= x.exposed_at + INTERVAL {round(metric.window_hours * 3_600_000_000)} MICROSECOND")
    if kind == "preference":
        parts.append("e.arm = x.arm")
    for key, value in sorted(where.items()):
        values = (value,) if isinstance(value, str) else value
        parts.append(f"e.attributes[{text(key)}] IN ({', '.join(map(text, values))})")
    return " AND ".join(parts)


def _rules(experiment: Experiment) -> str:
    exclude, named = experiment.exclude, []
    if exclude.units:
        named.append(f"units like {', '.join(exclude.units)}")
    if exclude.context:
        named.append(f"context {', '.join(f'{key} = {value}' for key, value in exclude.context.items())}")
    if exclude.events_per_hour_above is not None:
        named.append(f"units with more than {exclude.events_per_hour_above:g} events in an hour")
    return f" Left out before: {'; '.join(named)}.".replace("\n", " ") if named else ""
