"""Watches a running sink: its duties to the warehouse sampled now and then, and a reconciliation every hour."""

import logging
import threading
import time
from datetime import timedelta

import msgspec
from kafka.errors import KafkaError

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.dedup_window import DedupWindow, dedup_window, inserts_since
from analytics.kafka.reconcile import Reconciliation, reconcile
from analytics.kafka.sink_state import SinkState
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rollups import dirty_days

log = logging.getLogger(__name__)
SAMPLE_SECONDS = 15.0
# The first reconciliation of a process looks back so far; each later one goes on where the last one ended.
FIRST_HOURS = 24.0
AGAIN_SECONDS = 300.0
# Longer than one query takes, or one look at brokers that are away.
STOP_SECONDS = 30.0


class Seen(msgspec.Struct):
    """The last that was seen. None: nothing yet, or out of reach now."""

    dirty_days: int | None = None
    window_used_ratio: float | None = None
    reconciliation: Reconciliation | None = None
    failures: int = 0
    last_error: str | None = None


class SinkWatch:
    """A thread from `start` to `stop`. Reconciles every `reconcile_seconds` (None: never), if this sink owns the topic's first
    partition: so one sink of a group does it. A partition with a difference is compared again from the same offset, so that
    what is missing stays on show until it is there."""

    def __init__(
        self, address: KafkaAddress, warehouse: Warehouse, state: SinkState, *, reconcile_seconds: float | None,
        sample_seconds: float = SAMPLE_SECONDS,
    ) -> None:  # fmt: skip
        self._address, self._warehouse, self._state = address, warehouse, state
        self._reconcile_seconds, self._sample_seconds = reconcile_seconds, sample_seconds
        self._window: DedupWindow | None = None
        self._log_name = ""
        self._compared: dict[int, int] = {}
        self._next = 0.0
        self.seen = Seen()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="salon-sink-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a reconciliation under way is given up. A second call does nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def sample(self) -> None:
        """Ask the warehouse what it costs little to know. Raises OSError, LookupError."""
        self.seen.dirty_days = self.seen.window_used_ratio = None
        self.seen.dirty_days = len(dirty_days(self._warehouse))
        self._window = self._window or dedup_window(self._warehouse)
        age_seconds = self._state.oldest_intent_seconds()
        since = utc_now() - timedelta(seconds=age_seconds)
        count = inserts_since(self._warehouse, self._window.table, since) if age_seconds else 0
        self.seen.window_used_ratio = self._window.used_ratio(count, age_seconds)

    def reconcile(self) -> Reconciliation:
        """Compare what came since the last time. Raises KafkaError, OSError, LookupError."""
        since = utc_now() - timedelta(hours=FIRST_HOURS)
        found = reconcile(self._address, self._warehouse, since=since, after=self._after, stopping=self._stopping.is_set)
        differing = {bucket.partition for bucket in found.buckets if not bucket.ok}
        self._log_name = found.log_name
        self._compared |= {partition: start if partition in differing else end for partition, (start, end) in found.offsets.items()}
        self.seen.reconciliation = found
        for bucket in found.buckets:
            if not bucket.ok:
                log.error("reconciliation: %s", bucket.text())
        return found

    def _after(self, log_name: str) -> dict[int, int]:
        """Offsets of a topic that is gone say nothing."""
        if log_name != self._log_name:
            self._compared = {}
        return self._compared

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.sample()
                if self._reconcile_seconds is not None and time.monotonic() >= self._next and 0 in self._state.partitions:
                    self._next = time.monotonic() + min(self._reconcile_seconds, AGAIN_SECONDS)
                    self.reconcile()
                    self._next = time.monotonic() + self._reconcile_seconds
                self.seen.last_error = None
            except (KafkaError, OSError, LookupError) as error:
                self._fail(error)
            except Exception as error:
                # Watching is never worth the sink.
                log.exception("watching failed")
                self._fail(error)
            self._stopping.wait(self._sample_seconds)

    def _fail(self, error: Exception) -> None:
        if self._stopping.is_set():
            return
        self.seen.failures += 1
        if self.seen.last_error != str(error):
            log.warning("watching: %s", error)
        self.seen.last_error = str(error)
