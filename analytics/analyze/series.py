"""Columns of a table → numbers per unit, a chunk of units at a time."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from analytics.analyze.table import CHUNK, Floats, Table
from analytics.analyze.units import Units


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One number per unit: the sum of its rows' values, whether any of them is above 0, their mean (a covariate; NaN where there
    is none), or the number of its rows. `cap` bounds it; `empty` stands for a missing value, None refuses one."""

    column: str
    how: Literal["sum", "any", "mean", "rows"]
    cap: float | None = None
    empty: float | None = None


def unit_chunks(table: Table, units: Units, series: Sequence[Series]) -> Iterator[tuple[int, list[Floats]]]:
    """(first unit, one array per series). Where rows are units they stream from the file; else the totals are made first.
    Raises TableError for values that are no numbers."""
    if units.of_row is not None:
        totals = [_totals(table, units, one) for one in series]
        for start in range(0, units.count, CHUNK):
            yield start, [values[start : start + CHUNK] for values in totals]
        return
    names = list(dict.fromkeys(one.column for one in series if one.how != "rows"))
    for start, arrays in table.chunks(names):
        found = dict(zip(names, arrays, strict=True))
        yield start, [_bounded(_of_rows(table, one, found, start), one) for one in series]


def _of_rows(table: Table, one: Series, found: dict[str, object], start: int) -> Floats:
    values = _numbers(table, one, found[one.column], start)
    return (values > 0).astype(np.float64) if one.how == "any" else values


def _totals(table: Table, units: Units, one: Series) -> Floats:
    if one.how == "rows":
        return units.rows_each()
    rows = np.empty(table.rows)
    for start, (values,) in table.chunks([one.column]):
        rows[start : start + len(values)] = _numbers(table, one, values, start)
    if one.how == "mean":
        return units.means(rows)
    totals = units.totals(rows)
    return (totals > 0).astype(np.float64) if one.how == "any" else _bounded(totals, one)


def _numbers(table: Table, one: Series, values: object, start: int) -> Floats:
    return table.floats(one.column, values, start, empty=np.nan if one.how == "mean" else one.empty)


def _bounded(values: Floats, one: Series) -> Floats:
    return values if one.cap is None else np.minimum(values, one.cap)


def beyond_proportion(table: Table, column: str, empty: float | None) -> float | None:
    """The first value of the column that is neither 0 nor 1; None where all are."""
    for start, (values,) in table.chunks([column]):
        rows = table.floats(column, values, start, empty=empty)
        other = rows[(rows != 0) & (rows != 1)]
        if len(other):
            return float(other[0])
    return None


def whole(table: Table, units: Units, series: Sequence[Series]) -> list[Floats]:
    """The same for all units at once [units]."""
    parts = [columns for _, columns in unit_chunks(table, units, series)]
    return [np.concatenate([columns[i] for columns in parts]) for i in range(len(series))] if parts else [np.zeros(0) for _ in series]
