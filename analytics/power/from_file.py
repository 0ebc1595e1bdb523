"""A plan from a table of the past: one row per unit, or per event with --unit."""

import argparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from analytics.analyze.covariate_option import covariates_of, parse_covariate
from analytics.analyze.measure import Measured, measure
from analytics.analyze.metric_option import parse_cap, parse_metric
from analytics.analyze.split import split
from analytics.analyze.table import Table, TableError
from analytics.analyze.units import Units
from analytics.power.answer import Answer, answer
from analytics.power.arrivals import Arrivals, fit
from analytics.power.history import History, outcome_of
from analytics.power.options import design_asked, refuse, remaining, said_arrivals

Codes = NDArray[np.int64]
ALL = "all"


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
    history = _read(arguments)
    asked = design_asked(
        arguments,
        metric=history.metric,
        kind=history.kind,
        outcome=outcome_of(history, said),
        arrivals=history.arrivals or said_arrivals(arguments),
    )
    notes = [f"Baseline and variance are of {history.units:,} units in {arguments.file.name}, as if they were the control."]
    return answer(asked, arguments.file.name, notes)


def _read(arguments: argparse.Namespace) -> History:
    """The metric over all units of the table, as one arm. Raises ValueError (TableError), OSError."""
    metric, table = parse_metric(arguments.metric), Table(arguments.file)
    covariates = [parse_covariate(text, table.columns, [metric]) for text in arguments.covariate]
    if len(covariates_of(metric, covariates)) < len(covariates):
        raise ValueError(f"--covariate does not go with {metric.name!r}: covariates adjust means, and a ratio of two columns ratios only")
    columns = [metric.column, metric.denominator, arguments.time, *(name for c in covariates for name in (c.column, c.denominator))]
    names = [arguments.unit] if arguments.unit else []
    table.keep(numbers=[column for column in columns if column and column not in names], names=names)
    if arguments.unit:
        labels = table.labels(arguments.unit)
        units = Units(arms=[ALL], arm=np.zeros(len(labels.names), dtype=np.int64), of_row=labels.codes)
    else:
        units = Units(arms=[ALL], arm=np.zeros(table.rows, dtype=np.int64), of_row=None)
    measured: Measured = measure(
        table,
        units,
        split(table, units, None, None, []),
        metric,
        covariates,
        parse_cap(arguments.cap) if arguments.cap else None,
        0.0 if arguments.empty == "zero" else None,
        sliced=False,
    )
    arrivals = None
    if arguments.time is not None:
        arrivals = _arrivals(_days(table, arguments.time), units.row_units(), units.count)
    return History(
        metric=measured.name,
        kind=measured.kind,
        facts=measured.facts.get(ALL),
        joint=measured.joint[ALL] if measured.joint else None,
        arrivals=arrivals,
        units=units.count,
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
        if not (np.isfinite(days).all() and (np.abs(days) < 1e7).all()):
            raise TableError(f"{table.path}: column {name!r} holds numbers that are no days; give a time, a date or a number of days")
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
