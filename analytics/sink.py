"""Event log to warehouse: exact ranges, repeated after any crash, and a poison row never stops the rest."""

import logging
import threading

from analytics.event_log import EventLog
from analytics.events import Event
from analytics.warehouse.client import Warehouse
from analytics.warehouse.erasure import Erased
from analytics.warehouse.rows import RowsRejected

log = logging.getLogger(__name__)
BATCH = 20_000
SHORT_PAUSE_SECONDS = 0.02
HAS_EVENT = """
SELECT count() FROM events
WHERE experiment = {experiment:String} AND kind = {kind:String} AND unit = {unit:String} AND event_id = {event_id:UUID}
"""


class LogIsOlder(OSError):
    """The warehouse has read positions of this log that the log has not given out, or has given to other events: an old copy."""


class Sink:
    """Moves events from a log to a warehouse, in order. One sink per log at a time; its calls take turns.

    `position`: the last position known to be in the warehouse; `set_aside`: how many events it rejected.
    """

    def __init__(self, event_log: EventLog, warehouse: Warehouse) -> None:
        self._log, self._warehouse = event_log, warehouse
        self._turn = threading.Lock()
        self._in_step = False
        self.position = 0
        self.set_aside = 0

    def drain(self, limit: int = BATCH) -> int:
        """Move one batch of at most `limit` events. Returns how many; 0: the warehouse has all that was there at the call.

        Events that the warehouse rejects go to the log's dead letters. Raises OSError, LookupError (no tables); the next
        call goes on where this one was cut. Raises LogIsOlder, and moves nothing, for an old log beside a newer warehouse.
        """
        with self._turn:
            try:
                return self._next(self.position, limit) if self._in_step else self._resume(limit)
            except BaseException:
                self._in_step = False
                raise

    def erase(self, unit: str) -> tuple[int, Erased]:
        """Delete a unit from log and warehouse, with no batch on its way between them. Returns the log's rows, the warehouse's receipt."""
        with self._turn:
            return self._log.erase(unit), self._warehouse.erase(unit)

    def _resume(self, limit: int) -> int:
        """Repeat the range that may have been cut short, exactly, so that its token is known; then go on."""
        name = self._log.name
        # Before `position` says that anything is in: reports wait for it.
        check_age(self._log, self._warehouse)
        self.position = self._warehouse.position(name)
        pending = self._warehouse.pending(name)
        moved = 0
        if pending is not None:
            rows = [row for row in self._log.read(self.position, pending - self.position) if row[0] <= pending]
            self._move(self.position + 1, pending, rows)
            self._note(pending)
            moved = len(rows)
        self._in_step = True
        return moved or self._next(self.position, limit)

    def _next(self, after: int, limit: int) -> int:
        end = self._log.end()
        rows = self._log.read(after, limit)
        # No row, yet higher positions were given out: those were erased.
        last = rows[-1][0] if rows else end
        if last > after:
            self._move(after + 1, last, rows)
            self._note(last)
        return len(rows)

    def _note(self, position: int) -> None:
        self.position = position
        self._log.consumed(position)

    def _move(self, first: int, last: int, rows: list[tuple[int, Event]]) -> None:
        try:
            self._warehouse.insert(self._log.name, first, last, [event for _, event in rows])
        except RowsRejected as error:
            if len(rows) == 1:
                position, event = rows[0]
                self._log.set_aside(position, str(error))
                self.set_aside += 1
                log.error("event %s at position %d is set aside: %s", event.event_id, position, error)
                self._warehouse.insert(self._log.name, first, last, [])
                return
            half = len(rows) // 2
            middle = rows[half - 1][0]
            self._move(first, middle, rows[:half])
            self._move(middle + 1, last, rows[half:])


def check_age(event_log: EventLog, warehouse: Warehouse) -> None:
    """Raises LogIsOlder when the warehouse is ahead of the log: its next events would get positions that count as read.

    Where the log has caught up since, the event at the last position read tells: the warehouse must have it.
    """
    position, end = warehouse.position(event_log.name), event_log.end()
    reached = max(position, warehouse.pending(event_log.name) or 0)
    fix = "restore log and warehouse from one moment, or remove the warehouse: it is then built from this log"
    if reached > end:
        raise LogIsOlder(
            f"the warehouse {warehouse.shown} has read this event log up to position {reached}, but the log ends at {end}: "
            f"it is an older copy, and new events would never reach the warehouse; {fix}"
        )
    for at, event in event_log.read(position - 1, 1) if position else []:
        if at != position or any(letter.position == at for letter in event_log.dead_letters()):
            continue
        asked = {"experiment": event.experiment, "kind": event.kind, "unit": event.unit, "event_id": event.event_id}
        if warehouse.query(HAS_EVENT, asked)[0][0] == 0:
            raise LogIsOlder(
                f"the warehouse {warehouse.shown} has read this event log up to position {position}, but lacks the event "
                f"{event.event_id} that the log, which ends at {end}, has there: the log was restored from an older copy; {fix}"
            )


class SinkThread:
    """A thread that drains until stopped. It backs off on errors: `failures` counts them, `last_error` is None when all is well."""

    def __init__(
        self, sink: Sink, *, pause_seconds: float = 0.5, backoff_seconds: float = 0.5, max_backoff_seconds: float = 30.0, batch: int = BATCH
    ) -> None:
        self.sink = sink
        self.failures = 0
        self.moved = 0
        self.last_error: str | None = None
        self._pause_seconds, self._batch = pause_seconds, batch
        self._backoff_seconds, self._max_backoff_seconds = backoff_seconds, max_backoff_seconds
        self._stopping = False
        self._wanted = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="salon-sink", daemon=True)

    def start(self) -> None:
        """Begin to drain."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch at hand, then stop. A second call does nothing."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_until(self, position: int, timeout_seconds: float) -> bool:
        """Drain now; True once the warehouse has everything up to `position`, False after `timeout_seconds` or when stopped."""
        with self._changed:
            self._wanted = max(self._wanted, position)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.sink.position >= position or self._stopping, timeout_seconds)
            return self.sink.position >= position

    def _run(self) -> None:
        backoff = 0.0
        while not self._stopping:
            moved = 0
            try:
                moved = self.sink.drain(self._batch)
                backoff = 0.0
                self.last_error = None
            except Exception as error:
                # Whatever it was: feedback is safe in the log, and a sink that gave up would fill it.
                self.failures += 1
                if self.last_error != str(error):
                    log.error("the sink cannot go on for now: %s", error)
                self.last_error = str(error)
                backoff = min(max(self._backoff_seconds, 2 * backoff), self._max_backoff_seconds)
            with self._changed:
                self.moved += moved
                self._changed.notify_all()
                self._rest(moved, backoff)

    def _rest(self, moved: int, backoff: float) -> None:
        if backoff:
            self._changed.wait_for(lambda: self._stopping, backoff)
        elif moved < self._batch:
            # Small batches make small parts: gather a moment, unless somebody waits for what is there.
            self._changed.wait_for(lambda: self._stopping or (moved and self._wanted > self.sink.position), SHORT_PAUSE_SECONDS)
            self._changed.wait_for(lambda: self._stopping or self._wanted > self.sink.position, self._pause_seconds)
