"""Numbers that say whether facts computed earlier still hold: one is added after everything that may change a report."""

import secrets
from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from analytics.warehouse.rows import FIRST_DAY, days_of_rows

COLUMNS = ["experiment", "day", "mark"]
SETTINGS = {"async_insert": 0, "insert_deduplicate": 0}


def mark_rows(client: Any, table: pa.Table) -> None:
    """After the rows of `rows.to_arrow` are in: their experiments change, on their days."""
    names = table.column("experiment").combine_chunks()
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    words = names.dictionary.to_pylist()
    codes, days = names.indices.to_numpy(zero_copy_only=False).astype(np.int64), days_of_rows(table)
    pairs = np.unique(codes * (1 << 16) + days)
    _add(client, [(words[pair >> 16], _day(pair & 0xFFFF)) for pair in pairs.tolist()])
    # A unit that a model was trained on leaves experiments whose own events do not change.
    if "trained" in table.column("kind").unique().to_pylist():
        mark_all(client)


def mark_all(client: Any) -> None:
    """After something that may change any report."""
    _add(client, [("", FIRST_DAY)])


def read_mark(client: Any, experiment: str, until: date) -> int:
    """The sum of an experiment's marks, of those that count for all, and of those of any experiment up to the day `until`.

    Read it before what it stands for.
    """
    sql = "SELECT sum(mark) FROM experiment_marks WHERE experiment = {experiment:String} OR day <= {until:Date}"
    ((mark,),) = client.query(sql, parameters={"experiment": experiment, "until": until}).result_rows
    return int(mark)


def _add(client: Any, marked: Iterable[tuple[str, date]]) -> None:
    rows = [[experiment, day, secrets.randbits(64)] for experiment, day in marked]
    client.insert("experiment_marks", rows, column_names=COLUMNS, settings=SETTINGS)


def _day(number: int) -> date:
    return date.fromordinal(FIRST_DAY.toordinal() + number)
