"""The policy asked about: a table of probabilities of actions, by position and by contexts where it depends on them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np

from analytics.analyze.table import Floats, Labels, Table, TableError
from analytics.nearest import nearest
from analytics.ope.logged import whole_numbers

PROBABILITY = "probability"
ACTION, POSITION = "action", "position"
# Tables are written with a few digits.
SLACK = 1e-3
MOST_CELLS = 50_000_000


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """`probability` [strata, actions]; a stratum is a combination of values of `columns`, and its row sums to 1."""

    columns: tuple[str, ...]
    actions: list[str]
    strata: list[tuple[str, ...]]
    probability: Floats
    notes: tuple[str, ...] = ()


def read_policy(path: Path, actions: Sequence[str], position: str | None, contexts: Collection[str] | None) -> Policy:
    """From a CSV or Parquet file. `actions`: what its column of actions may be called, besides "action"; so "position" is `position`.
    `contexts`: which columns it may have besides; None: any. Raises TableError naming column and row, OSError."""
    table = Table(path)
    action = next((name for name in (*actions, ACTION) if name in table.columns), None)
    if action is None or PROBABILITY not in table.columns:
        lacking = actions[0] if action is None else PROBABILITY
        raise TableError(f"{path}: has no column {lacking!r}; {nearest(lacking, table.columns)}; a policy has {actions[0]}, {PROBABILITY}")
    read = [name for name in table.columns if name not in (action, PROBABILITY)]
    # What a column of the table is in the log.
    columns = [position if position and name == POSITION and position not in table.columns else name for name in read]
    known = [*([position] if position else []), *(contexts or ())]
    strange = [name for name in columns if name not in known]
    if strange and contexts is not None:
        raise TableError(
            f"{path}: column {strange[0]!r} is nothing that the log was asked for; name it with --position or --context, or leave it out"
        )
    table.keep([PROBABILITY], [action, *read])
    notes = []
    if position and position not in columns:
        notes.append(f"The policy has no column {position!r}: it is taken to be the same at every position.")
    given = _probabilities(table)
    named = {name: whole_numbers(table.labels(name)) for name in (action, *read)}
    stratum, strata = _strata([named[name] for name in read], table.rows)
    names = named[action].names
    if len(strata) * len(names) > MOST_CELLS:
        raise TableError(f"{path}: {len(strata):,} contexts times {len(names):,} actions are too many; group the contexts")
    _refuse_twice(table, stratum * len(names) + named[action].codes, action, read)
    probability = np.zeros((len(strata), len(names)))
    probability[stratum, named[action].codes] = given
    probability, said = _sum_to_one(path, probability, columns, strata, position)
    return Policy(columns=tuple(columns), actions=names, strata=strata, probability=probability, notes=(*notes, *said))


def _probabilities(table: Table) -> Floats:
    found = np.empty(table.rows)
    for start, (values,) in table.chunks([PROBABILITY]):
        found[start : start + len(values)] = table.floats(PROBABILITY, values, start, empty=np.nan)
    wrong = ~((found >= 0) & (found <= 1 + SLACK))
    if wrong.any():
        row = int(np.argmax(wrong))
        shown = "empty" if np.isnan(found[row]) else f"{found[row]:g}"
        raise TableError(f"{table.path}: row {table.row_number(row)} of column '{PROBABILITY}' is {shown}; give a number from 0 to 1")
    return found


def _strata(columns: Sequence[Labels], rows: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[tuple[str, ...]]]:
    if not columns:
        return np.zeros(rows, dtype=np.int64), [()]
    codes = np.stack([labels.codes for labels in columns], axis=1)
    known, place = np.unique(codes, axis=0, return_inverse=True)
    strata = [tuple(labels.names[code] for labels, code in zip(columns, row, strict=True)) for row in known.tolist()]
    return place.reshape(-1).astype(np.int64), strata


def _refuse_twice(table: Table, cells: np.ndarray[tuple[int], np.dtype[np.int64]], action: str, columns: Sequence[str]) -> None:
    _, first, counts = np.unique(cells, return_index=True, return_counts=True)
    if not (counts > 1).any():
        return
    one = int(first[np.argmax(counts > 1)])
    other = int(np.flatnonzero(cells == cells[one])[1])
    what = ", ".join((action, *columns))
    raise TableError(
        f"{table.path}: rows {table.row_number(one)} and {table.row_number(other)} give a probability for the same {what}; keep one of them"
    )


def _sum_to_one(
    path: Path, probability: Floats, columns: Sequence[str], strata: Sequence[tuple[str, ...]], position: str | None
) -> tuple[Floats, list[str]]:
    totals = probability.sum(axis=1)
    off = np.abs(totals - 1) > SLACK
    if not off.any():
        exact = np.abs(totals - 1).max() <= 1e-9
        largest = float(totals[np.argmax(np.abs(totals - 1))])
        return probability / totals[:, None], [] if exact else [f"Probabilities sum to as much as {largest:.6f}; they were divided by it."]
    at = columns.index(position) if position in columns else None
    if at is not None and (totals > 0).all():
        others: dict[tuple[str, ...], float] = {}
        for stratum, total in zip(strata, totals.tolist(), strict=True):
            rest = stratum[:at] + stratum[at + 1 :]
            others[rest] = others.get(rest, 0.0) + total
        if all(abs(total - 1) <= SLACK for total in others.values()):
            return probability / totals[:, None], [
                f"The table sums to 1 over all positions together: at each {position} its probabilities were divided by that one's sum."
            ]
    first = int(np.argmax(off))
    where = ", ".join(f"{name} {value!r}" for name, value in zip(columns, strata[first], strict=True))
    raise TableError(
        f"{path}: the probabilities{f' at {where}' if where else ''} sum to {totals[first]:g}; "
        f"they must sum to 1{' at every combination of ' + ', '.join(columns) if columns else ''}"
    )
