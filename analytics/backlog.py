"""How much of a spool is not consumed yet: counted once, then kept up, so that asking costs nothing however much waits."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec

from analytics.log_file import Row, consumed_position, note_consumed, oldest_waiting, waiting


class SpoolState(msgspec.Struct, frozen=True):
    """What waits in the spool: how many events, the bytes of their JSON, when the oldest was stored (UTC; None: nothing waits).

    `dead_letters`: how many events were set aside.
    """

    events: int
    bytes: int
    oldest_at: datetime | None
    dead_letters: int = 0


class Backlog:
    """The counts of one writing connection. Every call belongs to the thread that owns it, inside its transaction.

    A transaction that fails must be followed by `forget`. Nothing is counted before somebody asks.
    """

    def __init__(self) -> None:
        self._counted = False
        self._events = self._bytes = 0
        self._version = -1

    def forget(self) -> None:
        """Count anew when asked next."""
        self._counted = False

    def appended(self, rows: Sequence[Row], new: Sequence[bool]) -> None:
        """Note what an append has stored."""
        if self._counted:
            sizes = [len(row[2]) for row, fresh in zip(rows, new, strict=True) if fresh]
            self._events += len(sizes)
            self._bytes += sum(sizes)

    def consumed(self, db: sqlite3.Connection, position: int) -> None:
        """Move the mark of what is consumed, never back."""
        before = consumed_position(db)
        if position <= before:
            return
        if self._counted:
            events, size = waiting(db, before, position)
            self._events, self._bytes = self._events - events, self._bytes - size
        note_consumed(db, position)

    def state(self, db: sqlite3.Connection) -> SpoolState:
        """Now."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if not self._counted or version != self._version:
            # The first time, or another process has written.
            self._events, self._bytes = waiting(db, consumed_position(db))
            self._counted, self._version = True, version
        (dead,) = db.execute("SELECT count(*) FROM dead_letters").fetchone()
        return SpoolState(self._events, self._bytes, oldest_waiting(db), int(dead))
