"""What a metric of a switchback became, as one statement that an analyst can read, and run against the events."""

from analytics.experiment import Filter, Metric
from analytics.warehouse.ddl import text


def block_sql(name: str, metric: Metric, cap: float | None = None) -> str:
    """Blocks and the ratio of totals per arm. `cap`: what a percentile came to. Reports also leave out blocks that are not over or
    had two arms, and units that the experiment's rules name; they weigh blocks by 1/propensity. Empty for a quantile."""
    if metric.kind == "quantile":
        return ""
    bound = cap if cap is not None else metric.cap if isinstance(metric.cap, int | float) else None
    kinds = sorted(
        {"generation", *(kind for kind in (metric.event, metric.denominator, metric.per) if kind not in {None, "unit", "event"})}
    )
    y, d = _numbers(metric)
    if bound is not None and metric.kind != "proportion":
        y = f"least({y}, {bound!r})"
    window = f"-- An event counts when it comes within {metric.window_hours:g} hours of its block's end." if metric.window_hours else ""
    lines = [
        window,
        "WITH placed AS (",
        "  SELECT unit, arm, kind, value, attributes, generation_id, image_id, toUInt64(attributes['block']) AS block",
        "  FROM events FINAL",
        f"  WHERE experiment = {text(name)} AND kind IN ({', '.join(text(kind) for kind in kinds if kind)}) AND flags = 0 AND unit != ''",
        "    AND attributes['block'] != '' AND attributes['washout'] != 'true'",
        "), units AS (",
        f"  SELECT block, unit, any(arm) AS arm, {y} AS y, {d} AS d",
        "  FROM placed AS e GROUP BY block, unit HAVING countIf(e.kind = 'generation') > 0",
        ")",
        "SELECT arm, uniqExact(block) AS blocks, sum(y) / sum(d) AS ratio",
        "FROM units GROUP BY arm ORDER BY arm",
    ]
    return "\n".join(line for line in lines if line)


def _numbers(metric: Metric) -> tuple[str, str]:
    own = _condition(metric.event, metric.where)
    if metric.per in {"generation", "image"}:
        ids, known = f"assumeNotNull(e.{metric.per}_id)", f"e.{metric.per}_id IS NOT NULL"
        whole = f"groupUniqArrayIf({ids}, {known} AND {_condition(metric.per, {})})"
        return f"length(arrayIntersect({whole}, groupUniqArrayIf({ids}, {known} AND {own})))", f"length({whole})"
    if metric.per == "event":
        return f"sumIf(ifNull(e.value, 0), {own})", f"countIf(e.value IS NOT NULL AND {own})"
    if metric.kind == "proportion":
        return f"countIf({own}) > 0", "1"
    if metric.kind == "ratio":
        return f"countIf({own})", f"countIf({_condition(metric.denominator or '', metric.denominator_where)})"
    return f"sumIf(ifNull(e.value, 1), {own})", "1"


def _condition(kind: str, where: Filter) -> str:
    parts = [f"e.kind = {text(kind)}"]
    for key, value in sorted(where.items()):
        values = (value,) if isinstance(value, str) else value
        parts.append(f"e.attributes[{text(key)}] IN ({', '.join(map(text, values))})")
    return " AND ".join(parts)
