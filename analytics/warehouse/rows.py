"""Events as one Arrow table, in the columns of the `events` table."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from analytics.events import Event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_DAY = date(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)
MILLISECONDS_PER_DAY = 86_400_000
END_OF_TIME = 2_932_896  # 9999-12-31, the last of a DateTime64
HEAD = 256 ** np.arange(5, -1, -1, dtype=np.int64)  # the first six bytes, a big-endian number
DAYS = 1 << 16  # that a Date can hold; it goes round after them


class RowsRejected(ValueError):
    """The warehouse cannot take at least one of these events, however often it is asked."""


def microseconds(at: datetime) -> int:
    """Since 1970, exactly. Raises ValueError for a time without a zone."""
    if at.tzinfo is None:
        raise ValueError(f"{at.isoformat()} has no time zone; times are UTC")
    return (at - EPOCH) // MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The inverse of `microseconds`."""
    return EPOCH + value * MICROSECOND


TIME = pa.timestamp("us", "UTC")
WORD = pa.dictionary(pa.int32(), pa.string())
COLUMNS: dict[str, pa.DataType] = {
    "event_id": pa.binary(16),
    "kind": WORD,
    "occurred_at": TIME,
    "received_at": TIME,
    "route": WORD,
    "experiment": WORD,
    "arm": WORD,
    "variant_digest": WORD,
    "unit": pa.string(),
    "propensity": pa.float64(),
    "generation_id": pa.binary(16),
    "image_id": pa.binary(16),
    "position": pa.int32(),
    "grid": pa.int32(),
    "value": pa.float64(),
    "flags": pa.uint32(),
    "attributes": pa.map_(pa.string(), pa.string()),
    "prompt": pa.string(),
    "seed": pa.int64(),
    "steps": pa.int32(),
    "guidance": pa.float64(),
    "queue_ms": pa.float64(),
    "service_ms": pa.float64(),
    "status": WORD,
    "schema_version": pa.uint16(),
    "sent_at": TIME,
}


def to_arrow(
    events: Sequence[Event], *, log_name: str = "", partition: int | None = None, offsets: Sequence[int] | None = None
) -> pa.Table:
    """One row per event, with where it came from: the log, and for Kafka the partition and each record's offset.

    Raises RowsRejected when a field does not fit its column; the text names the column. Raises ValueError for offsets that
    are not one per event.
    """
    if offsets is not None and len(offsets) != len(events):
        raise ValueError(f"{len(offsets)} offsets for {len(events)} events; give one for each event")
    columns = {}
    for name, kind in COLUMNS.items():
        try:
            columns[name] = _column(map(attrgetter(name), events), kind)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError, AttributeError) as error:
            raise RowsRejected(f"column {name}: {error}") from error
    count = len(events)
    columns["log_name"] = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([log_name], pa.string()))
    columns["log_partition"] = pa.array([-1 if partition is None else partition] * count, pa.int32())
    columns["log_offset"] = pa.array([-1] * count if offsets is None else offsets, pa.int64())
    return pa.table(columns)


def days_of(table: pa.Table) -> set[date]:
    """The days of `to_arrow`'s rows as the column `day` has them: of the UUIDv7's milliseconds; 1970-01-01 for another version."""
    return {FIRST_DAY + timedelta(days=int(day)) for day in np.unique(days_of_rows(table))}


def days_of_rows(table: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The same row by row, as days since 1970-01-01: int64 [rows]."""
    ids = table.column("event_id").combine_chunks()
    heads = np.frombuffer(ids.buffers()[1], np.uint8).reshape(-1, 16)[ids.offset : ids.offset + len(ids), :7].astype(np.int64)
    days = np.minimum(heads[:, :6] @ HEAD // MILLISECONDS_PER_DAY, END_OF_TIME) % DAYS
    return np.where(heads[:, 6] >> 4 == 7, days, 0)


def _column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    if kind == TIME:
        # Integers first: a list of datetimes would make pyarrow import pandas.
        return pa.array([None if at is None else microseconds(at) for at in values], pa.int64()).cast(TIME)
    if kind == WORD:
        return pa.array(list(values), pa.string()).dictionary_encode()
    if kind == pa.binary(16):
        return pa.array([None if value is None else value.bytes for value in values], kind)
    if pa.types.is_map(kind):
        return pa.array([tuple(value.items()) for value in values], kind)
    return pa.array(list(values), kind)
