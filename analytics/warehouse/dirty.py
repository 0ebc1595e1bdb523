"""Days whose rollups no longer say what the events say, each with the reasons."""

from collections.abc import Iterable
from datetime import date
from typing import Any

from analytics.events import utc_now

COLUMNS = ["day", "reason", "at", "cleared"]
# Marks repeat themselves on purpose; ReplacingMergeTree makes them one, and no token may drop one.
SETTINGS = {"async_insert": 0, "insert_deduplicate": 0, "max_partitions_per_insert_block": 0}


def mark_days(client: Any, days: Iterable[date], reason: str, *, cleared: bool = False) -> None:
    """Set, or clear, one reason for each day. Setting a reason that is cleared leaves it cleared."""
    now = utc_now()
    if rows := [[day, reason, now, int(cleared)] for day in days]:
        client.insert("dirty_days", rows, column_names=COLUMNS, settings=SETTINGS)


def clear_reasons(client: Any, day: date, reasons: Iterable[str]) -> None:
    """Clear these reasons of a day, and no other."""
    now = utc_now()
    if rows := [[day, reason, now, 1] for reason in reasons]:
        client.insert("dirty_days", rows, column_names=COLUMNS, settings=SETTINGS)
