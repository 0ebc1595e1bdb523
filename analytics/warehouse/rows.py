"""Events as one Arrow table, in the columns of the `events` table."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa

from analytics.events import Event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


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


def _id(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


TIME = pa.timestamp("us", "UTC")
COLUMNS: tuple[tuple[str, pa.DataType, Callable[[Event], Any]], ...] = (
    ("event_id", pa.binary(16), lambda e: e.event_id.bytes),
    ("kind", pa.string(), lambda e: e.kind),
    ("occurred_at", TIME, lambda e: microseconds(e.occurred_at)),
    ("received_at", TIME, lambda e: microseconds(e.received_at)),
    ("route", pa.string(), lambda e: e.route),
    ("experiment", pa.string(), lambda e: e.experiment),
    ("arm", pa.string(), lambda e: e.arm),
    ("variant_digest", pa.string(), lambda e: e.variant_digest),
    ("unit", pa.string(), lambda e: e.unit),
    ("propensity", pa.float64(), lambda e: e.propensity),
    ("generation_id", pa.binary(16), lambda e: _id(e.generation_id)),
    ("image_id", pa.binary(16), lambda e: _id(e.image_id)),
    ("position", pa.int32(), lambda e: e.position),
    ("grid", pa.int32(), lambda e: e.grid),
    ("value", pa.float64(), lambda e: e.value),
    ("flags", pa.uint32(), lambda e: e.flags),
    ("attributes", pa.map_(pa.string(), pa.string()), lambda e: tuple(e.attributes.items())),
    ("prompt", pa.string(), lambda e: e.prompt),
    ("seed", pa.int64(), lambda e: e.seed),
    ("steps", pa.int32(), lambda e: e.steps),
    ("guidance", pa.float64(), lambda e: e.guidance),
    ("queue_ms", pa.float64(), lambda e: e.queue_ms),
    ("service_ms", pa.float64(), lambda e: e.service_ms),
    ("status", pa.string(), lambda e: e.status),
    ("schema_version", pa.uint16(), lambda e: e.schema_version),
)


def to_arrow(events: Sequence[Event]) -> pa.Table:
    """One row per event. Raises RowsRejected when a field does not fit its column; the text names the column."""
    columns = []
    for name, kind, read in COLUMNS:
        try:
            # Integers first: a list of datetimes would make pyarrow import pandas.
            plain = pa.int64() if kind == TIME else kind
            column = pa.array([read(event) for event in events], plain)
            columns.append(column.cast(TIME) if kind == TIME else column)
        except (pa.ArrowException, OverflowError, UnicodeError, ValueError, TypeError) as error:
            raise RowsRejected(f"column {name}: {error}") from error
    return pa.table(columns, names=[name for name, _, _ in COLUMNS])
