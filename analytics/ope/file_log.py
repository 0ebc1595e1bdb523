"""A log in a CSV or Parquet file: one row per draw."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from analytics.analyze.table import Codes, Floats, Table, TableError
from analytics.ope.logged import Chunk, Key, Log, whole_numbers
from analytics.ope.reward_model import FOLDS

# Chances that were added up may exceed 1 in the last digits.
ROUNDING = 1e-9


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns of the log are called."""

    action: str
    reward: str
    propensity: str
    position: str | None = None
    contexts: tuple[str, ...] = ()
    prediction: str | None = None
    unit: str | None = None


def read_log(path: Path, columns: Columns) -> Log:
    """Names are read at once, numbers chunk by chunk. Raises TableError naming column and row (also from `chunks`), OSError."""
    names = [columns.action, *([columns.position] if columns.position else []), *columns.contexts]
    numbers = [columns.reward, columns.propensity, *([columns.prediction] if columns.prediction else [])]
    names = [*names, columns.unit] if columns.unit else names
    twice = [name for name in dict.fromkeys((*names, *numbers)) if (*names, *numbers).count(name) > 1]
    if twice:
        raise ValueError(f"column {twice[0]!r} is named for two things; name each column once")
    table = Table(path)
    table.keep(numbers, names)
    action, *keys = (whole_numbers(table.labels(name)) for name in names)
    unit = keys.pop() if columns.unit else None
    if unit is not None and len(unit.names) < 2:
        raise TableError(f"{path}: column {columns.unit!r} has one unit alone; errors are told from how units differ: give at least 2")
    codes = np.stack([key.codes for key in keys], axis=1) if keys else np.zeros((table.rows, 0), dtype=np.int64)

    def chunks() -> Iterator[Chunk]:
        for start, arrays in table.chunks(numbers):
            reward = _numbers(table, columns.reward, arrays[0], start)
            propensity = _numbers(table, columns.propensity, arrays[1], start)
            end, shown, prediction = start + len(reward), np.ones(len(reward), dtype=bool), None
            if columns.prediction is not None:
                prediction = _numbers(table, columns.prediction, arrays[2], start)
                _refuse(table, columns.prediction, np.isnan(prediction), prediction, start, "every row needs a prediction")
                shown = ~np.isnan(reward)
            else:
                fix = "give the reward, or leave the row out (with --prediction it may be empty: not shown)"
                _refuse(table, columns.reward, np.isnan(reward), reward, start, fix)
            fix = "give the chance that the draw had to show this action, above 0 and at most 1"
            _refuse(table, columns.propensity, shown & ~((propensity > 0) & (propensity <= 1 + ROUNDING)), propensity, start, fix)
            yield Chunk(
                action=action.codes[start:end],
                keys=codes[start:end],
                propensity=np.where(shown, propensity, 1.0),
                fold=folds(np.arange(start, end) if unit is None else unit.codes[start:end]),
                rows=np.ones(len(reward)),
                mean=np.where(shown, reward, 0.0),
                m2=np.zeros(len(reward)),
                shown=shown,
                prediction=prediction,
                unit=None if unit is None else unit.codes[start:end],
            )

    found = [Key(name, label.names, name == columns.position) for name, label in zip(names[1:], keys, strict=False)]
    return Log(action=columns.action, actions=action.names, keys=tuple(found), chunks=chunks, units=len(unit.names) if unit else 0)


def folds(rows: Codes) -> Codes:
    """The fold of a row by a hash of its number, or its unit's (splitmix64): a log's order, by day or by person, is spread over all."""
    mixed = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(FOLDS)).astype(np.int64)


def _numbers(table: Table, name: str, values: pa.Array, start: int) -> Floats:
    return table.floats(name, values, start, empty=np.nan)


def _refuse(table: Table, name: str, wrong: "np.ndarray[tuple[int], np.dtype[np.bool_]]", values: Floats, start: int, fix: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = "empty" if np.isnan(values[row]) else f"{values[row]:g}"
        raise TableError(f"{table.path}: row {table.row_number(start + row)} of column {name!r} is {shown}; {fix}")
