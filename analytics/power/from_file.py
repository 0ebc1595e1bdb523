"""A plan from a table of the past: one row per unit, or per event with --unit."""

import argparse
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analytics.analyze.metric_option import MetricOption, parse_cap, parse_metric
from analytics.analyze.table import Table, TableError
from analytics.experiment import MetricKind
from analytics.facts import Joint, Moments, QuantileFacts
from analytics.inference.quantile import quantile_half_width
from analytics.power.answer import Answer, answer
from analytics.power.arrivals import Arrivals, fit, steady
from analytics.power.history import History, outcome_of
from analytics.power.numbers import parse_number
from analytics.power.options import design_asked, refuse, remaining

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def from_file(arguments: argparse.Namespace) -> Answer:
    """Raises ValueError (TableError) that names the column and row, OSError."""
    refuse(arguments, ("baseline", "sd", "kind"), "comes from the file; leave it out")
    refuse(arguments, ("history_days",), "goes with --route")
    if arguments.metric is None:
        raise ValueError("--metric is missing: name the column to plan for, such as --metric revenue or --metric clicks:ratio:views")
    if arguments.time is not None and arguments.units_per_day is not None:
        raise ValueError("--time and --units-per-day both say how units come; give one")
    said = remaining(arguments) if arguments.variance_reduction is not None or arguments.correlation is not None else None
    if said is not None and arguments.covariate:
        raise ValueError("--covariate estimates what --variance-reduction or --correlation would say; give one")
    history = read(arguments.file, parse_metric(arguments.metric), arguments)
    arrivals = history.arrivals
    if arguments.units_per_day is not None:
        counts = [parse_number("--units-per-day", part) for part in arguments.units_per_day.split(",")]
        arrivals = steady(counts[0]) if len(counts) == 1 else fit(counts)
    asked = design_asked(arguments, metric=history.metric, kind=history.kind, outcome=outcome_of(history, said), arrivals=arrivals)
    notes = [f"Baseline and variance are of {history.units:,} units in {arguments.file.name}, as if they were the control."]
    return answer(asked, arguments.file.name, notes)


def read(path: Path, metric: MetricOption, arguments: argparse.Namespace) -> History:
    """The metric over all units of the table. Raises ValueError (TableError), OSError."""
    table = Table(path)
    unit = table.labels(arguments.unit) if arguments.unit else None
    of_row = np.arange(table.rows) if unit is None else unit.codes
    count = table.rows if unit is None else len(unit.names)
    arrivals = None
    if arguments.time is not None:
        arrivals = _arrivals(_days(table, arguments.time), of_row, count)
    kind, facts, joint = _measured(table, metric, of_row, count, arguments)
    return History(metric=metric.name, kind=kind, facts=facts, joint=joint, arrivals=arrivals, units=count)


def _measured(
    table: Table, metric: MetricOption, of_row: Codes, count: int, arguments: argparse.Namespace
) -> tuple[MetricKind, Moments | QuantileFacts, Joint | None]:
    rows = table.numbers(metric.column)
    if metric.level is not None:
        if arguments.covariate:
            raise ValueError("--covariate does not go with a quantile: covariates adjust means; leave it out")
        return "quantile", _quantile(rows, of_row, metric.level), None
    binary = bool(np.isin(rows, (0.0, 1.0)).all())
    kind: MetricKind = metric.kind or ("proportion" if binary else "mean")
    if kind == "proportion" and not binary:
        raise TableError(
            f"{table.path}: column {metric.column!r} is no proportion: it holds other numbers than 0 and 1; use {metric.column}:mean"
        )
    values = np.bincount(of_row, weights=rows, minlength=count).astype(np.float64)
    per_event = getattr(metric, "per", "unit") == "event"
    if kind == "proportion" and not per_event:
        values = (values > 0).astype(np.float64)
    if arguments.cap is not None and kind != "proportion":
        cap = parse_cap(arguments.cap)
        bound = float(np.percentile(values, cap.percentile)) if cap.percentile is not None else cap.value
        values = np.minimum(values, math.inf if bound is None else bound)
    columns = [values]
    if per_event:
        columns.append(np.bincount(of_row, minlength=count).astype(np.float64))
    elif metric.denominator is not None:
        columns.append(np.bincount(of_row, weights=table.numbers(metric.denominator), minlength=count).astype(np.float64))
    below = len(columns) == 2
    columns += [_covariate(table, name, of_row, count) for name in arguments.covariate]
    n, means, products = _joint(columns)
    facts = Moments(n=n, mean=means[0], m2=products[0][0])
    if below:
        facts = Moments(
            n=n,
            mean=means[0],
            m2=products[0][0],
            denominator_mean=means[1],
            denominator_m2=products[1][1],
            comoment=products[0][1],
        )
    joint = None
    if arguments.covariate:
        names = tuple(arguments.covariate)
        joint = Joint(n=n, means=means, products=products, ratio=below, covariates=names, ratios=(False,) * len(names))
    return ("ratio" if below else kind), facts, joint


def _covariate(table: Table, name: str, of_row: Codes, count: int) -> Floats:
    """Mean per unit; where there is none, the mean of all."""
    values = table.numbers(name, empty=math.nan)
    known = ~np.isnan(values)
    rows = np.bincount(of_row[known], minlength=count)
    means = np.bincount(of_row[known], weights=values[known], minlength=count) / np.maximum(rows, 1)
    if not (rows > 0).any():
        raise TableError(f"{table.path}: column {name!r} is empty; a covariate needs numbers")
    return np.where(rows > 0, means, means[rows > 0].mean())


def _joint(columns: list[Floats]) -> tuple[int, tuple[float, ...], tuple[tuple[float, ...], ...]]:
    table = np.stack(columns)
    means = table.mean(axis=1)
    apart = table - means[:, None]
    return table.shape[1], tuple(map(float, means)), tuple(tuple(map(float, row)) for row in apart @ apart.T)


def _quantile(values: Floats, of_row: Codes, level: float) -> QuantileFacts:
    ordered, n = np.sort(values), len(values)
    h = quantile_half_width(level, n)
    value, low, high = (float(ordered[min(n - 1, max(0, math.ceil(share * n) - 1))]) for share in (level, level - h, level + h))
    _, place = np.unique(of_row, return_inverse=True)
    counts = np.bincount(place).astype(np.float64)
    below = np.bincount(place, weights=(values <= value).astype(np.float64)).astype(np.float64)
    units, means, products = _joint([below, counts])
    return QuantileFacts(
        level=level,
        events=n,
        units=units,
        value=value,
        low=low,
        high=high,
        below_mean=means[0],
        below_m2=products[0][0],
        count_mean=means[1],
        count_m2=products[1][1],
        comoment=products[0][1],
    )


def _days(table: Table, name: str) -> Codes:
    """The day of each row [rows], from a time, a date, an ISO 8601 text, or a number of days. Raises TableError."""
    parts = []
    for start, (values,) in table.chunks([name]):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if values.null_count:
            row = start + int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
            raise TableError(f"{table.path}: column {name!r} has no time in its row {row + 1} of data; give one or leave the row out")
        try:
            if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
                days = np.floor(values.cast(pa.float64()).to_numpy(zero_copy_only=False))
            else:
                days = pc.cast(pc.cast(values, pa.timestamp("us")), pa.int64()).to_numpy(zero_copy_only=False) // 86_400_000_000
        except pa.ArrowException as error:
            raise TableError(
                f"{table.path}: column {name!r} holds no times ({str(error).splitlines()[0]});"
                " write for example 2026-11-23T12:00, or day numbers"
            ) from None
        if not np.isfinite(days).all():
            raise TableError(f"{table.path}: column {name!r} holds a day that is no number; give one or leave the row out")
        parts.append(days.astype(np.int64))
    return np.concatenate(parts)


def _arrivals(days: Codes, of_row: Codes, count: int) -> Arrivals:
    """From the first day of each unit."""
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, of_row, days)
    length = int(days.max() - days.min()) + 1
    if length > 3650:
        raise ValueError(f"--time spans {length:,} days, more than ten years; are these times?")
    return fit(np.bincount(first - days.min(), minlength=length).astype(np.float64).tolist())
