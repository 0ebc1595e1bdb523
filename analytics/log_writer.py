"""The one thread that writes a local log's file: appends are committed in groups, any other change alone."""

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from analytics.backlog import Backlog
from analytics.log_file import Row, append, measure, os_error

GROUP_ROWS = 20_000
# Page overhead and the unique index cost about that much a row; the exact figure comes from SQLite after the commit.
ROW_OVERHEAD_BYTES = 100

T = TypeVar("T")


class LogWriter:
    """Owns the writing connection. `used`: bytes of the file's pages after the last commit; `coming`: of what waits for one.

    `turn` guards both: hold it to decide by them and append in one step.
    """

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection], used: int) -> None:
        self.turn = threading.Condition()
        self.used, self.coming = used, 0
        self.backlog = Backlog()
        self._path, self._connect = path, connect
        self._db: sqlite3.Connection | None = None
        self._queue: deque[_Append | _Task] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="salon-event-log", daemon=True)
        self._thread.start()

    def append(self, rows: Sequence[Row], size: int, together: bool) -> Future[list[bool]]:
        """Store rows of `size` bytes; the future resolves after their fsync."""
        work = _Append(rows, size, together, self.backlog)
        with self.turn:
            self._enqueue(work)
            self.coming += size
        return work.future

    def do(self, action: Callable[[sqlite3.Connection], T], *, transaction: bool = True) -> T:
        """Run `action` on the writing connection, after what was appended before. Blocks. Raises OSError."""
        return self.later(action, transaction=transaction).result()

    def later(self, action: Callable[[sqlite3.Connection], T], *, transaction: bool = True) -> Future[T]:
        """The same without waiting."""
        task = _Task(action, transaction)
        with self.turn:
            self._enqueue(task)
        return task.future

    def close(self) -> None:
        """Store what was appended, then stop."""
        with self.turn:
            self._closed = True
            self.turn.notify()
        self._thread.join()

    def _enqueue(self, work: "_Append | _Task") -> None:
        if self._closed:
            raise ValueError(f"the event log {self._path} is closed")
        work.future.set_running_or_notify_cancel()
        self._queue.append(work)
        self.turn.notify()

    def _run(self) -> None:
        while group := self._next_group():
            self._commit(group)
        if self._db:
            self._db.close()

    def _next_group(self) -> "list[_Append] | list[_Task]":
        with self.turn:
            self.turn.wait_for(lambda: self._queue or self._closed)
            if self._queue and isinstance(task := self._queue[0], _Task):
                self._queue.popleft()
                return [task]
            group: list[_Append] = []
            rows = 0
            while self._queue and rows < GROUP_ROWS and isinstance(work := self._queue[0], _Append):
                self._queue.popleft()
                group.append(work)
                rows += len(work.rows)
            return group

    def _commit(self, group: "list[_Append] | list[_Task]") -> None:
        failure: Exception | None = None
        results: list[Any] = []
        transaction = group[0].transaction
        try:
            if self._db is None:
                self._db = self._connect()
            if transaction:
                self._db.execute("BEGIN IMMEDIATE")
            results = [work.apply(self._db) for work in group]
            if transaction:
                self._db.execute("COMMIT")
        except Exception as error:
            # Whatever it was, those who wait for the commit must hear of it: their futures carry it on.
            failure = os_error(error, self._path) if isinstance(error, sqlite3.Error) else error
            self._abandon()
        used = self.used
        if self._db:
            with contextlib.suppress(sqlite3.Error):
                used = measure(self._db)
        with self.turn:
            self.used = used
            self.coming -= sum(work.size for work in group)
        if failure:
            for failed in group:
                failed.future.set_exception(failure)
            return
        futures: list[Future[Any]] = [work.future for work in group]
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)

    def _abandon(self) -> None:
        """Roll back. A connection that saw an I/O error is not trusted again."""
        self.backlog.forget()
        if self._db:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None


class _Append:
    """Rows to store in one transaction with others, and who waits for them."""

    transaction = True

    def __init__(self, rows: Sequence[Row], size: int, together: bool, backlog: Backlog) -> None:
        self.rows, self.size = rows, size
        self._together, self._backlog = together, backlog
        self.future: Future[list[bool]] = Future()

    def apply(self, db: sqlite3.Connection) -> list[bool]:
        new = append(db, self.rows, self._together)
        self._backlog.appended(self.rows, new)
        return new


class _Task:
    """Any other change, alone in its transaction."""

    size = 0

    def __init__(self, action: Callable[[sqlite3.Connection], Any], transaction: bool) -> None:
        self.apply, self.transaction = action, transaction
        self.future: Future[Any] = Future()
