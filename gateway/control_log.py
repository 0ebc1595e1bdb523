"""The control log's port: the state of experiments, changed by one gateway at a time. On disk here; on Kafka in control_kafka."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from analytics.event_log import EventLog
from gateway.changes import Decide, Draft
from gateway.config import Config
from gateway.erased import Erased
from gateway.ledger import Ledger
from gateway.snapshot import restore, save

log = logging.getLogger(__name__)


class ControlAway(OSError):
    """The control log does not take a change now. The text says why, and whether the change may still become true."""


class ControlLog(Protocol):
    """Where the state of experiments is kept. `shared`: other gateways read and change it too.

    `ledger` is the newest state known here; it is replaced as a whole. `carried`: why the state is not that of this log.
    """

    shared: bool
    ledger: Ledger
    carried: str

    @property
    def problem(self) -> str | None:
        """Why the state may be old, or cannot be changed; None when all is well."""

    @property
    def caught_up(self) -> bool:
        """Has the log been read to its end since the start?"""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin to follow. `changed` is called, in a thread, after the ledger was replaced."""

    def change(self, decide: Decide) -> Draft:
        """Run a decision on the newest state and make it durable. Blocks. `decide` may run more than once.

        Raises what `decide` raises, LogFull or OSError when the event log refuses, ControlAway.
        """

    def keep_up(self) -> None:
        """Write the snapshot, so that a restart has little to read. Blocks."""

    def close(self) -> None:
        """Stop following."""


def open_control(config: Config, event_log: EventLog, folder: Path, erased: Erased) -> ControlLog:
    """The control log of a configuration; its snapshot is in `folder`. Raises OSError."""
    file, address = folder / "experiments.json", config.analytics.events.kafka
    if address is None:
        return DiskControl(event_log, file)
    from gateway.control_kafka import KafkaControl

    return KafkaControl(address, event_log, file, erased.follow, erased.everyone)


class DiskControl:
    """The control records of one gateway, in its own event log; a snapshot file keeps the log's position."""

    shared = False
    problem: str | None = None
    caught_up = True

    def __init__(self, event_log: EventLog, file: Path) -> None:
        self._log, self._file = event_log, file
        self._changing = threading.Lock()
        self._changed: Callable[[], None] = lambda: None
        self.ledger, self.carried = restore(file, event_log)

    def start(self, changed: Callable[[], None]) -> None:
        """See ControlLog."""
        self._changed = changed

    def change(self, decide: Decide) -> Draft:
        """See ControlLog: all events of a draft, or none, are on disk when this returns."""
        with self._changing:
            draft = Draft(self.ledger)
            decide(draft)
            if draft.events:
                self._log.submit(draft.events, reserve=True).result()
                # Under the lock this process is the only writer of control records: all of them up to the log's end are applied.
                self.ledger = msgspec.structs.replace(draft.ledger, position=self._log.end())
                self._changed()
                self._save()
        return draft

    def keep_up(self) -> None:
        """See ControlLog."""
        with self._changing:
            self.ledger = msgspec.structs.replace(self.ledger, position=self._log.end())
            self._save()

    def close(self) -> None:
        """See ControlLog: there is nothing to stop."""

    def _save(self) -> None:
        try:
            save(self._file, self.ledger)
        except OSError as error:
            log.error("the snapshot %s cannot be written (%s); the event log still holds the change", self._file, error.strerror)
