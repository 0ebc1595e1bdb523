"""What the records of the control topic come to in one gateway: a ledger, erasures to follow, events that its spool must have."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import datetime
from uuid import UUID

import msgspec

from analytics.event_log import EventLog, LogFull
from analytics.events import Event
from gateway.control_records import ERASED, ErasedRecord, ExperimentRecord, Unreadable, put, read_record
from gateway.control_topic import ControlTopic
from gateway.ledger import Ledger

log = logging.getLogger(__name__)
SPOOL_SECONDS = 5.0


class ControlFold:
    """For one thread. `unsent`: control events that the spool has refused so far; `unreadable`: by key, why a record is not taken.

    `forget` takes the keyed hash of a unit that was erased, and when: it must be durable there when it returns.
    """

    def __init__(self, spool: EventLog, forget: Callable[[str, datetime], None]) -> None:
        self._spool, self._forget = spool, forget
        self.unsent: list[Event] = []
        self.unreadable: dict[bytes, str] = {}
        self._read: set[UUID] = set()
        self._submitted: set[UUID] = set()

    def to_end(self, topic: ControlTopic, ledger: Ledger, seconds: float) -> Ledger:
        """The ledger at the topic's end of now. Raises KafkaError, PositionLost, OSError."""
        for offset, key, value in topic.to_end(seconds):
            ledger = self.apply(ledger, offset, key, value)
        return msgspec.structs.replace(ledger, position=topic.position())

    def apply(self, ledger: Ledger, offset: int, key: bytes, value: bytes | None) -> Ledger:
        """The ledger after one record. Raises OSError when an erasure could not be kept; then the record is to be read again."""
        try:
            record = read_record(key, value) if value is not None else None
            self.unreadable.pop(key, None)
        except Unreadable as error:
            self.unreadable[key] = str(error)
            log.error("%s", error)
            record = None
        if isinstance(record, ErasedRecord):
            self._forget(key.decode().removeprefix(ERASED), record.at)
        if isinstance(record, ExperimentRecord):
            self._read.update(event.event_id for event in record.events)
            if record.writer == self._spool.name:
                # Ours, and perhaps of a life that ended before the spool had them.
                self.submit([event for event in record.events if event.event_id not in self._submitted])
        if record is not None:
            ledger = put(ledger, key, record)
        return msgspec.structs.replace(ledger, position=offset + 1)

    def has_read(self, events: Sequence[Event]) -> bool:
        """Is one of these events in a record that was read?"""
        return any(event.event_id in self._read for event in events)

    def submit(self, events: Sequence[Event]) -> None:
        """Give control events to the spool, with those that it refused before. What it refuses is kept, here and in the topic."""
        self.unsent += events
        if not self.unsent:
            return
        try:
            self._spool.submit(self.unsent, reserve=True).result(timeout=SPOOL_SECONDS)
        except (LogFull, OSError, FutureTimeoutError) as error:
            log.warning("%d control events wait for the spool: %s", len(self.unsent), error)
            return
        self._submitted.update(event.event_id for event in self.unsent)
        self.unsent = []
