"""The local event log, and the spool in front of Kafka: one SQLite file, an event is acknowledged after its fsync."""

import contextlib
import errno
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from analytics.backlog import SpoolState
from analytics.drain_rate import ROOM, DrainRate
from analytics.event_log import DeadLetter, LogFull
from analytics.events import Event, decode, encode, new_id, utc_now
from analytics.log_file import append_again, create, fold_in_wal, measure, oldest_waiting, os_error, sync_folder, trim
from analytics.log_writer import ROW_OVERHEAD_BYTES, LogWriter

DEFAULT_MAX_BYTES = 4 << 30
MINIMUM_BYTES = 256 << 10
TRIM_ROUNDS = 20
BUSY_SECONDS = 10.0
FILE = "events.sqlite"
# The share over `max_bytes` that `reserve` may use.
RESERVE = 1 / 8
NEARLY_FULL = 0.9
LOOKED_UP = 500
EMPTY_ROW_BYTES = 500

T = TypeVar("T")


class Spooled(msgspec.Struct, frozen=True):
    """One stored event as it lies in the spool. Rows of the same `batch` came in one request; None: alone."""

    position: int
    event_id: bytes
    unit: str
    data: bytes
    batch: int | None


class LocalLog:
    """An event log in `folder`. Several processes may have it open at once; each writes through a thread of its own.

    `max_bytes` bounds the data, `max_age_seconds` how long an event may wait to be consumed. What was consumed stays as
    history up to half of `max_bytes`, less when what waits needs the room, and is dropped oldest first; what was not is never
    dropped: past a bound `submit` raises LogFull. `reader` is who consumes, for that error's text. Duplicates are known by
    event_id as long as the event is still here; the warehouse knows them for ever.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, max_age_seconds: float | None = None, retry_after_seconds: float = 5.0,
        reader: str = "the sink",
    ) -> None:  # fmt: skip
        if max_bytes < MINIMUM_BYTES:
            raise ValueError(f"[events] log: max_bytes is {max_bytes}; give at least {MINIMUM_BYTES}")
        self.path = folder / FILE
        self.max_bytes, self.max_age_seconds, self._retry_after_seconds = max_bytes, max_age_seconds, retry_after_seconds
        self._consumer = reader
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
        except sqlite3.Error as error:
            raise os_error(error, self.path) from error
        try:
            self.name = self._prepare(self._reader)
            sync_folder(folder)
            used, self._oldest_at = measure(self._reader), oldest_waiting(self._reader)
        except sqlite3.Error as error:
            self._reader.close()
            raise os_error(error, self.path) from error
        self._reading = threading.Lock()
        self._drain = DrainRate()
        self._row_bytes = float(EMPTY_ROW_BYTES)
        self._last_submit_at = utc_now()
        # None: there may be history to drop.
        self._trimming: Future[int] | None = None
        self._writer = LogWriter(self.path, self._connect, used)

    @property
    def used_bytes(self) -> int:
        """The bytes of the file's pages in use, history included: what `max_bytes` bounds."""
        return self._writer.used

    def submit(self, events: Sequence[Event], *, together: bool = False, reserve: bool = False) -> Future[list[bool]]:
        """Append; see EventLog. Encodes on the calling thread."""
        rows = [(event.event_id.bytes, event.unit, encode(event)) for event in events]
        size = sum(len(data) for _, _, data in rows) + ROW_OVERHEAD_BYTES * len(rows)
        writer = self._writer
        with writer.turn:
            bound = self.max_bytes + int(RESERVE * self.max_bytes) if reserve else self.max_bytes
            if writer.used + writer.coming + size > NEARLY_FULL * self.max_bytes:
                self._make_room()
            if writer.used + writer.coming + size > bound:
                self._refuse_if_full(size, bound)
            if self.max_age_seconds is not None and not reserve:
                self._refuse_if_old(self.max_age_seconds)
            self._last_submit_at = utc_now()
            if rows:
                self._row_bytes += 0.05 * (size / len(rows) - self._row_bytes)
            return writer.append(rows, size, together)

    def read(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Events at positions above `after`; see EventLog. What cannot be decoded is set aside and left out."""
        sql = "SELECT position, data FROM events WHERE position > ? ORDER BY position LIMIT ?"
        while rows := self._select(sql, after, limit):
            events = []
            for position, data in rows:
                try:
                    events.append((position, decode(data)))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self.set_aside(position, f"cannot be read: {error}")
            if events:
                return events
            # None of them: an empty answer would say that there is nothing more.
            after = rows[-1][0]
        return []

    def read_spooled(self, after: int, limit: int) -> list[Spooled]:
        """At most `limit` rows at positions above `after`, in order, as they were stored. Raises OSError."""
        sql = "SELECT position, event_id, unit, data, batch FROM events WHERE position > ? ORDER BY position LIMIT ?"
        return [Spooled(*row) for row in self._select(sql, after, limit)]

    def stored(self, event_ids: Sequence[UUID]) -> dict[UUID, Event]:
        """The events that are still here, of those asked for, by id. Blocks. Raises OSError."""
        found = {}
        for start in range(0, len(event_ids), LOOKED_UP):
            asked = [event_id.bytes for event_id in event_ids[start : start + LOOKED_UP]]
            for event_id, data in self._select(f"SELECT event_id, data FROM events WHERE event_id IN ({_marks(asked)})", *asked):
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                    found[UUID(bytes=bytes(event_id))] = decode(data)
        return found

    def spool_state(self) -> SpoolState:
        """What waits to be consumed, and what was set aside. Blocks; the first call reads all that waits. Raises OSError."""
        return self._do(self._writer.backlog.state, transaction=False)

    def end(self) -> int:
        """The highest position given out, or 0."""
        rows = self._select("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def consumed_position(self) -> int:
        """How far the consumer said that it is; 0 before that."""
        rows = self._select("SELECT value FROM facts WHERE key = 'consumed'")
        return int(rows[0][0]) if rows else 0

    def consumed(self, position: int) -> None:
        """Note how far the consumer is, and drop old history when over half of the bound. Raises OSError."""
        before = utc_now()

        def note(db: sqlite3.Connection) -> datetime | None:
            self._writer.backlog.consumed(db, position)
            return oldest_waiting(db)

        oldest_at = self._do(note)
        for _ in range(TRIM_ROUNDS):
            if self._writer.used <= self.max_bytes // 2 or not self._do(trim):
                break
        with self._writer.turn:
            self._trimming = None
            # Behind our back something may have come into an empty spool.
            self._oldest_at = before if oldest_at is None and self._last_submit_at > before else oldest_at
            self._drain.note(position, oldest_at)

    def set_aside(self, position: int, error: str) -> None:
        """Copy an event to the dead letters. Raises OSError."""
        sql = "INSERT OR REPLACE INTO dead_letters SELECT position, unit, data, ?, ? FROM events WHERE position = ?"
        self._do(lambda db: db.execute(sql, (error, utc_now().isoformat(), position)).rowcount)

    def dead_letters(self) -> list[DeadLetter]:
        """All that was set aside, oldest first."""
        rows = self._select("SELECT position, data, error, set_aside_at FROM dead_letters ORDER BY position")
        letters = []
        for position, data, error, at in rows:
            try:
                event = decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                event = None
            letters.append(DeadLetter(position=position, event=event, data=data, error=error, set_aside_at=datetime.fromisoformat(at)))
        return letters

    def send_again(self, letter: DeadLetter) -> int:
        """Put a dead letter back at the end of the log, once. Returns its new position; 0: it is no dead letter any more.

        Raises ValueError for a letter that cannot be read as an event, OSError.
        """
        if letter.event is None:
            raise ValueError(f"the dead letter at position {letter.position} is no event: {letter.error}")
        event_id = letter.event.event_id.bytes

        def again(db: sqlite3.Connection) -> int:
            self._writer.backlog.forget()
            return append_again(db, letter.position, event_id)

        return self._do(again)

    def erase(self, unit: str, until: datetime | None = None) -> int:
        """Delete a unit's events and overwrite their bytes; see EventLog."""
        # Rows of the first release do not say when they came: long ago.
        chosen = "unit = ?"
        values: tuple[object, ...] = (unit,)
        if until is not None:
            chosen, values = "unit = ? AND coalesce(spooled_at, 0) <= ?", (unit, int(until.timestamp() * 1000))

        def delete(db: sqlite3.Connection) -> int:
            self._writer.backlog.forget()
            count = db.execute(f"DELETE FROM events WHERE {chosen}", values).rowcount
            count += db.execute("DELETE FROM dead_letters WHERE unit = ?", (unit,)).rowcount
            if db.execute(f"SELECT 1 FROM events WHERE {chosen} LIMIT 1", values).fetchone():
                raise OSError(errno.EIO, "events of the unit are still there after they were deleted", str(self.path))
            return count

        count = self._do(delete)
        self._do(fold_in_wal, transaction=False)
        return count

    def units(self) -> list[str]:
        """All units with an event or a dead letter; see EventLog."""
        return [unit for (unit,) in self._select("SELECT DISTINCT unit FROM (SELECT unit FROM events UNION SELECT unit FROM dead_letters)")]

    def close(self) -> None:
        """Store what was submitted, then stop. A second call does nothing."""
        self._writer.close()
        with self._reading:
            self._reader.close()

    def _prepare(self, db: sqlite3.Connection) -> str:
        db.execute("PRAGMA journal_mode = WAL")
        create(db)
        db.execute("INSERT INTO facts VALUES ('id', ?) ON CONFLICT DO NOTHING", (new_id().hex,))
        (identity,) = db.execute("SELECT value FROM facts WHERE key = 'id'").fetchone()
        return f"local:{identity}"

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        return db

    def _select(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._reading:
            try:
                return self._reader.execute(sql, parameters).fetchall()
            except sqlite3.ProgrammingError:
                raise ValueError(f"the event log {self.path} is closed") from None
            except sqlite3.Error as error:
                raise os_error(error, self.path) from error

    def _do(self, action: Callable[[sqlite3.Connection], T], *, transaction: bool = True) -> T:
        return self._writer.do(action, transaction=transaction)

    def _make_room(self) -> None:
        """What waits goes before history: begin to drop that, without waiting."""
        if self._trimming is None or (self._trimming.done() and not self._trimming.exception() and self._trimming.result()):
            self._trimming = self._writer.later(trim)

    def _look_again(self) -> None:
        """Another process may have written since our last commit."""
        with self._reading, contextlib.suppress(sqlite3.Error):
            self._writer.used, self._oldest_at = measure(self._reader), oldest_waiting(self._reader)

    def _refuse_if_full(self, size: int, bound: int) -> None:
        self._look_again()
        over = self._writer.used + self._writer.coming + size - bound
        if over > 0:
            wait = self._drain.seconds_for((over + ROOM * bound) / self._row_bytes)
            text = (
                f"the event log {self.path} holds {self._writer.used} of {self.max_bytes} bytes and {self._consumer} has yet to take them; "
                "is it running?"
            )
            raise LogFull(wait or self._retry_after_seconds, text)

    def _refuse_if_old(self, bound_seconds: float) -> None:
        if self._oldest_at is None:
            # Nothing waited: the oldest will be what comes now, or what another process brings.
            self._oldest_at = utc_now()
        if (utc_now() - self._oldest_at).total_seconds() <= bound_seconds:
            return
        self._look_again()
        age = utc_now() - self._oldest_at if self._oldest_at else timedelta(0)
        if age.total_seconds() > bound_seconds:
            wait = self._drain.seconds_until_younger(age.total_seconds() - bound_seconds)
            text = (
                f"the oldest event in {self.path} has waited {age.total_seconds():.0f} s for {self._consumer}, over the bound of "
                f"{bound_seconds:.0f} s; is it running?"
            )
            raise LogFull(wait or self._retry_after_seconds, text)


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
