"""Where the gateway's events go: into its log; with Kafka that is the spool, with the forwarder behind it."""

import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from analytics.backlog import SpoolState
from analytics.event_log import EventLog, open_log
from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.local_log import LocalLog
from analytics.settings import EventsSettings
from gateway.metrics import Metrics

if TYPE_CHECKING:
    from gateway.forwarder import Forwarder

log = logging.getLogger(__name__)
STOP_SECONDS = 5.0
# The share of a bound from which readiness speaks of it.
NEARLY = 0.8


class Spooling:
    """Opens the event log, and knows what waits in front of Kafka. Raises OSError, ValueError when the log cannot be opened."""

    def __init__(self, events: EventsSettings) -> None:
        self._events = events
        self._spool: LocalLog | None = None
        self._forwarder: Forwarder | None = None
        self._state = SpoolState(0, 0, None)
        self._broken: str | None = None
        self.event_log: EventLog
        if events.kafka is None:
            self.event_log = open_log(events.log)
            return
        max_age_seconds = events.spool_max_age_hours * 3600
        self._spool = LocalLog(events.spool, max_bytes=events.spool_max_bytes, max_age_seconds=max_age_seconds, reader="Kafka")
        self._forwarder = _forwarder(self._spool, events.kafka)
        self.event_log = self._spool

    def start(self) -> None:
        """Begin to forward. Kafka may be away."""
        if self._forwarder is not None:
            self._forwarder.start()

    def stop(self) -> None:
        """Forward what Kafka takes within some seconds; the rest stays in the spool. Blocks."""
        if self._forwarder is not None:
            self._forwarder.stop(STOP_SECONDS)

    def refresh(self) -> None:
        """Look at the spool, for `problems` and the metrics. Blocks."""
        if self._spool is None:
            return
        try:
            self._state, self._broken = self._spool.spool_state(), None
        except OSError as error:
            self._broken = str(error)

    def problems(self) -> dict[str, str]:
        """What people should know, by part; empty when all is well."""
        spool, forwarder = self._spool, self._forwarder
        if spool is None or forwarder is None:
            return {}
        found = {}
        if forwarder.last_error:
            found["kafka"] = f"{forwarder.last_error}; {self._state.events} events wait in the spool"
        if forwarder.warning:
            found["topic"] = forwarder.warning
        age, bound = self._oldest_seconds(), timedelta(hours=self._events.spool_max_age_hours)
        if self._broken:
            found["spool"] = self._broken
        elif spool.used_bytes > NEARLY * spool.max_bytes:
            found["spool"] = f"{spool.path} holds {spool.used_bytes} of {spool.max_bytes} bytes; when it is full, feedback is refused"
        elif age > NEARLY * bound.total_seconds():
            found["spool"] = (
                f"the oldest event in {spool.path} has waited {age:.0f} s; at {bound.total_seconds():.0f} s feedback is refused"
            )
        if self._state.dead_letters:
            found["dead letters"] = f"{self._state.dead_letters} events that Kafka does not take are set aside in {spool.path}"
        return found

    def show(self, metrics: Metrics) -> None:
        """Add the spool's metrics, where there is one."""
        forwarder = self._forwarder
        if forwarder is None:
            return
        metrics.gauge("salon_spool_events", "Events that wait in the spool for Kafka", lambda: self._state.events)
        metrics.gauge("salon_spool_bytes", "Bytes of the events that wait in the spool", lambda: self._state.bytes)
        metrics.gauge("salon_spool_oldest_seconds", "How long the oldest event has waited for Kafka", self._oldest_seconds)
        metrics.gauge("salon_spool_dead_letters", "Events that Kafka does not take, set aside", lambda: self._state.dead_letters)
        metrics.count("salon_forwarded_events", "Events that Kafka has acknowledged", lambda: forwarder.sent)
        metrics.count("salon_produce_errors", "Attempts to send to Kafka that failed", lambda: forwarder.errors)

    def _oldest_seconds(self) -> float:
        at = self._state.oldest_at
        return max(0.0, (utc_now() - at).total_seconds()) if at else 0.0


def _forwarder(spool: LocalLog, kafka: KafkaAddress) -> "Forwarder":
    # Only here: a gateway with a local log does not pay for a Kafka client.
    from gateway.forwarder import Forwarder

    return Forwarder(spool, kafka)
