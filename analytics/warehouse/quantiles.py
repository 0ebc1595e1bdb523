"""Quantiles of events clustered by unit (Deng, Knoblich & Lu 2018, "Applying the Delta Method in Metric Analytics", §4.2)."""

from collections.abc import Sequence
from typing import Any

from analytics.facts import QuantileFacts
from analytics.warehouse.unit_table import Units

Z_975 = 1.959963984540054


def read_quantiles(units: Units, column: str, level: float, keys: Sequence[str]) -> dict[tuple[Any, ...], QuantileFacts]:
    """Per group of `keys` with at least one event; `column`: an array of a unit's values, all of them finite. Exact at any size.

    `units` of the result are those with at least one event.
    """
    groups = ", ".join(f"{key} AS g{i}" for i, key in enumerate(keys))
    by = ", ".join(f"g{i}" for i in range(len(keys)))
    own = f"(SELECT {groups}, {column} AS q FROM {units.table} WHERE arm > 0 AND notEmpty({column}))"
    half = f"{Z_975} * sqrt({level} * {1 - level} / length(v))"
    points = f"{_at(f'{level}')} AS cut, {_at(f'{level} - {half}')} AS low, {_at(f'{level} + {half}')} AS high"
    cuts = f"""(SELECT {by}, length(v) AS events, {points}
        FROM (SELECT {by}, arraySort(groupArrayArray(q)) AS v FROM {own} GROUP BY {by}))"""
    rows = units.query(
        f"""SELECT {by}, any(events), any(cut), any(low), any(high), count(), avg(b), varPopStable(b) * count(), avg(c),
            varPopStable(c) * count(), covarPopStable(b, c) * count()
        FROM (SELECT {by}, events, cut, low, high, toFloat64(length(q)) AS c, toFloat64(arrayCount(x -> x <= cut, q)) AS b
            FROM {own} AS o INNER JOIN {cuts} AS s USING ({by}))
        GROUP BY {by}"""
    )
    result = {}
    for row in rows:
        result[tuple(row[: len(keys)])] = quantile_of(level, row[len(keys) :])
    return result


def quantile_of(level: float, row: Sequence[Any]) -> QuantileFacts:
    """From the number of events, the quantile and its two neighbours, the units, and per unit mean and centred sum of squares of
    the events at or below, the same of all events, and the sum of centred products."""
    events, value, low, high, units, *moments = row
    below_mean, below_m2, count_mean, count_m2, comoment = moments
    return QuantileFacts(
        level=level,
        events=int(events),
        units=int(units),
        value=float(value),
        low=float(low),
        high=float(high),
        below_mean=below_mean,
        below_m2=below_m2,
        count_mean=count_mean,
        count_m2=count_m2,
        comoment=comoment,
    )


def read_medians(units: Units, column: str) -> dict[int, float]:
    """The median of all values of an array column, per arm with at least one."""
    sql = f"""SELECT arm, {_at("0.5")}
        FROM (SELECT arm, arraySort(groupArrayArray({column})) AS v FROM {units.table} WHERE arm > 0 GROUP BY arm)
        WHERE notEmpty(v)"""
    return {int(arm): float(value) for arm, value in units.query(sql)}


def _at(level: str) -> str:
    """Of the sorted array `v`, the smallest element with at least that share of all at or below it (the inverse cdf)."""
    return f"v[toUInt64(greatest(1.0, least(toFloat64(length(v)), ceil(length(v) * ({level})))))]"
