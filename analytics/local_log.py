"""The local event log: one SQLite file, one writer thread, group commit. An event is acknowledged after its fsync."""

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from analytics.event_log import DeadLetter, LogFull
from analytics.events import Event, decode, encode, new_id, utc_now
from analytics.log_file import SCHEMA, Row, append, fold_in_wal, note_consumed, os_error, sync_folder, trim

DEFAULT_MAX_BYTES = 4 << 30
MINIMUM_BYTES = 256 << 10
GROUP_ROWS = 20_000
TRIM_ROUNDS = 20
BUSY_SECONDS = 10.0
FILE = "events.sqlite"

T = TypeVar("T")


class LocalLog:
    """An event log in `folder`. Several processes may have it open at once; each writes through a thread of its own.

    `max_bytes` bounds the data. What the sink has reported as consumed stays as history up to half of that and is then
    dropped, oldest first; what it has not consumed is never dropped: past the bound `submit` raises LogFull.
    Duplicates are known by event_id as long as the event is still in the log; the warehouse knows them for ever.
    """

    def __init__(self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES, retry_after_seconds: float = 5.0) -> None:
        if max_bytes < MINIMUM_BYTES:
            raise ValueError(f"[events] log: max_bytes is {max_bytes}; give at least {MINIMUM_BYTES}")
        self.path = folder / FILE
        self.max_bytes, self._retry_after_seconds = max_bytes, retry_after_seconds
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            self.name = self._prepare(self._reader)
            sync_folder(folder)
        except sqlite3.Error as error:
            raise os_error(error, self.path) from error
        self._writer: sqlite3.Connection | None = None
        self._reading = threading.Lock()
        self._used = self._measure(self._reader)
        self._waiting: deque[_Append | _Task] = deque()
        self._waiting_bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="salon-event-log", daemon=True)
        self._thread.start()

    def submit(self, events: Sequence[Event]) -> Future[list[bool]]:
        """Append; see EventLog. Encodes on the calling thread."""
        rows = [(event.event_id.bytes, event.unit, encode(event)) for event in events]
        work = _Append(rows, sum(len(data) for _, _, data in rows))
        # Page overhead and the unique index cost about 100 bytes a row; the exact figure comes from SQLite after the commit.
        work.size += 100 * len(rows)
        with self._changed:
            if self._used + self._waiting_bytes + work.size > self.max_bytes:
                self._refuse_if_full(work.size)
            self._enqueue(work)
            self._waiting_bytes += work.size
        return work.future

    def read(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """Events at positions above `after`; see EventLog."""
        sql = "SELECT position, data FROM events WHERE position > ? ORDER BY position LIMIT ?"
        return [(position, decode(data)) for position, data in self._select(sql, after, limit)]

    def end(self) -> int:
        """The highest position given out, or 0."""
        rows = self._select("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def consumed(self, position: int) -> None:
        """Note how far the sink is, and drop old history when over half of the bound. Raises OSError."""
        self._do(lambda db: note_consumed(db, position))
        for _ in range(TRIM_ROUNDS):
            if self._used <= self.max_bytes // 2 or not self._do(trim):
                break

    def set_aside(self, position: int, error: str) -> None:
        """Copy an event to the dead letters. Raises OSError."""
        sql = "INSERT OR REPLACE INTO dead_letters SELECT position, unit, data, ?, ? FROM events WHERE position = ?"
        self._do(lambda db: db.execute(sql, (error, utc_now().isoformat(), position)).rowcount)

    def dead_letters(self) -> list[DeadLetter]:
        """All that was set aside, oldest first."""
        rows = self._select("SELECT position, data, error, set_aside_at FROM dead_letters ORDER BY position")
        return [
            DeadLetter(position=position, event=decode(data), error=error, set_aside_at=datetime.fromisoformat(at))
            for position, data, error, at in rows
        ]

    def erase(self, unit: str) -> int:
        """Delete a unit's events and overwrite their bytes. Raises OSError."""

        def delete(db: sqlite3.Connection) -> int:
            count = db.execute("DELETE FROM events WHERE unit = ?", (unit,)).rowcount
            return count + db.execute("DELETE FROM dead_letters WHERE unit = ?", (unit,)).rowcount

        count = self._do(delete)
        self._do(fold_in_wal, transaction=False)
        return count

    def close(self) -> None:
        """Store what was submitted, then stop. A second call does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        with self._reading:
            self._reader.close()

    def _prepare(self, db: sqlite3.Connection) -> str:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA)
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

    @staticmethod
    def _measure(db: sqlite3.Connection) -> int:
        (pages,), (free,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size"))
        return int((pages - free) * size)

    def _refuse_if_full(self, size: int) -> None:
        # Another process (the sink) may have made room since our last commit.
        with self._reading, contextlib.suppress(sqlite3.Error):
            self._used = self._measure(self._reader)
        if self._used + self._waiting_bytes + size > self.max_bytes:
            text = (
                f"the event log {self.path} holds {self._used} of {self.max_bytes} bytes and the sink has yet to take them; is it running?"
            )
            raise LogFull(self._retry_after_seconds, text)

    def _enqueue(self, work: "_Append | _Task") -> None:
        if self._closed:
            raise ValueError(f"the event log {self.path} is closed")
        work.future.set_running_or_notify_cancel()
        self._waiting.append(work)
        self._changed.notify()

    def _do(self, action: Callable[[sqlite3.Connection], T], *, transaction: bool = True) -> T:
        task = _Task(action, transaction)
        with self._changed:
            self._enqueue(task)
        result: T = task.future.result()
        return result

    def _write(self) -> None:
        while group := self._next_group():
            self._commit(group)
        if self._writer:
            self._writer.close()

    def _next_group(self) -> "list[_Append] | list[_Task]":
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting and isinstance(task := self._waiting[0], _Task):
                self._waiting.popleft()
                return [task]
            group: list[_Append] = []
            rows = 0
            while self._waiting and rows < GROUP_ROWS and isinstance(work := self._waiting[0], _Append):
                self._waiting.popleft()
                group.append(work)
                rows += len(work.rows)
            return group

    def _commit(self, group: "list[_Append] | list[_Task]") -> None:
        failure: Exception | None = None
        results: list[Any] = []
        transaction = group[0].transaction
        try:
            if self._writer is None:
                self._writer = self._connect()
            if transaction:
                self._writer.execute("BEGIN IMMEDIATE")
            results = [work.apply(self._writer) for work in group]
            if transaction:
                self._writer.execute("COMMIT")
        except Exception as error:
            failure = os_error(error, self.path) if isinstance(error, sqlite3.Error) else error
            self._abandon()
        used = self._used
        if self._writer:
            with contextlib.suppress(sqlite3.Error):
                used = self._measure(self._writer)
        with self._changed:
            self._used = used
            self._waiting_bytes -= sum(work.size for work in group)
        if failure:
            for failed in group:
                failed.future.set_exception(failure)
            return
        futures: list[Future[Any]] = [work.future for work in group]
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)

    def _abandon(self) -> None:
        """Roll back. A connection that saw an I/O error is not trusted again."""
        if self._writer:
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
        self._writer = None


class _Append:
    """Rows to store in one transaction with others, and who waits for them."""

    transaction = True

    def __init__(self, rows: Sequence[Row], size: int) -> None:
        self.rows, self.size = rows, size
        self.future: Future[list[bool]] = Future()

    def apply(self, db: sqlite3.Connection) -> list[bool]:
        return append(db, self.rows)


class _Task:
    """Any other change, alone in its transaction."""

    size = 0

    def __init__(self, action: Callable[[sqlite3.Connection], Any], transaction: bool) -> None:
        self.apply, self.transaction = action, transaction
        self.future: Future[Any] = Future()
