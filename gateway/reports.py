"""Reports from the warehouse, and the sink that fills it: opened behind the server, so that images never wait for either.

With a local log the gateway's own sink fills the warehouse. With Kafka `salon sink` does, and the gateway only reads; but an
embedded warehouse belongs to one process, so there the gateway runs a member of the sinks' group itself.
"""

import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from analytics.event_log import EventLog
from analytics.experiment import Experiment, Metric
from gateway.problems import Unavailable, retry_after

if TYPE_CHECKING:
    from analytics.facts_of_designs import DuelFacts
    from analytics.inference.adaptive import AllocationPeriod
    from analytics.kafka.address import KafkaAddress
    from analytics.kafka.sink_thread import KafkaSinkThread
    from analytics.report.schema import Report
    from analytics.sink import SinkThread
    from analytics.warehouse.client import Warehouse

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
DRAIN_SECONDS, CLOSE_SECONDS = 30.0, 10.0
PROMPTS = """
SELECT prompt FROM events WHERE kind = 'generation' AND experiment = {experiment:String} AND prompt != ''
GROUP BY prompt ORDER BY uniqExact(event_id) DESC, prompt LIMIT {limit:UInt32}
"""


class Reports:
    """The warehouse of one gateway. All calls but `start` block: they run in threads."""

    def __init__(self, event_log: EventLog, url: str, kafka: "KafkaAddress | None" = None) -> None:
        self._log, self._url, self._kafka = event_log, url, kafka
        self._warehouse: Warehouse | None = None
        self._sink: SinkThread | None = None
        self._kafka_sink: KafkaSinkThread | None = None
        self._stop, self._tried, self._opened = threading.Event(), threading.Event(), threading.Lock()
        self._opener = threading.Thread(target=self._open, name="salon-warehouse", daemon=True)
        self._opening: str | None = "the warehouse is being opened"

    @property
    def problem(self) -> str | None:
        """Why there are no fresh reports now; None when all is well."""
        sink = self._sink or self._kafka_sink
        return self._opening or (sink.last_error if sink else None)

    def start(self) -> None:
        """Open the warehouse in the background, and keep trying."""
        self._opener.start()

    def close(self) -> None:
        """Let the sink finish its batch, then close."""
        with self._opened:
            self._stop.set()
        if self._opener.is_alive():
            self._opener.join(CLOSE_SECONDS)
        for sink in (self._sink, self._kafka_sink):
            if sink is not None:
                sink.stop()
        if self._warehouse is not None:
            self._warehouse.close()

    def report(
        self, name: str, experiment: Experiment, metrics: Mapping[str, Metric], as_of: datetime | None, flagged: bool = False
    ) -> "Report":
        """The report; `flagged` events counted too or not. Raises Unavailable.

        With a local log on all that was acknowledged before the call; with Kafka on what is in the warehouse: `data_as_of`.
        """
        from analytics.report.build import report_now

        try:
            return report_now(self._drained(), name, experiment, metrics, as_of, flagged=flagged)
        except (OSError, LookupError) as error:
            raise Unavailable(f"the report cannot be read: {error}", headers=retry_after(RETRY_SECONDS)) from None

    def mature(
        self, name: str, experiment: Experiment, metrics: Mapping[str, Metric], exposed_before: datetime
    ) -> "list[AllocationPeriod]":
        """What a bandit's next weights rest on: the primary metric of units first exposed before a time. Raises Unavailable."""
        from analytics.warehouse.allocation import read_mature

        try:
            return read_mature(self._drained(), name, experiment, metrics, exposed_before)
        except (OSError, LookupError) as error:
            raise Unavailable(f"outcomes cannot be read: {error}", headers=retry_after(RETRY_SECONDS)) from None

    def duels(self, name: str, experiment: Experiment, metrics: Mapping[str, Metric]) -> "DuelFacts | None":
        """The votes of a duel; None where there are none. Raises Unavailable."""
        from analytics.warehouse.facts import read_facts

        try:
            preference = read_facts(self._drained(), name, experiment, metrics, None).preference
        except (OSError, LookupError) as error:
            raise Unavailable(f"votes cannot be read: {error}", headers=retry_after(RETRY_SECONDS)) from None
        return preference.duels if preference is not None else None

    def prompts(self, experiment: str, limit: int) -> list[str]:
        """The prompts asked most often in an experiment. Raises Unavailable."""
        try:
            return [prompt for (prompt,) in self._drained().query(PROMPTS, {"experiment": experiment, "limit": limit})]
        except OSError as error:
            raise Unavailable(f"the warehouse cannot be read: {error}", headers=retry_after(RETRY_SECONDS)) from None

    def erase(self, unit: str) -> tuple[int, dict[str, int]]:
        """Delete a unit from log and warehouse. Returns the rows of the log, and those of the warehouse by table. Raises Unavailable."""
        warehouse = self._drained()
        try:
            if self._sink is not None:
                rows, erased = self._sink.sink.erase(unit)
            else:
                # What is between the two comes later, and the sink leaves it out: the warehouse knows the erasure.
                rows, erased = self._log.erase(unit), warehouse.erase(unit)
        except (OSError, LookupError) as error:
            raise Unavailable(f"log and warehouse cannot erase: {error}; ask again", headers=retry_after(RETRY_SECONDS)) from None
        return rows, erased.rows

    def lag(self) -> float:
        """Positions of the local log that the warehouse does not have yet; -1 while it is not open, and with Kafka."""
        return float(max(0, self._log.end() - self._sink.sink.position)) if self._sink else -1.0

    def _drained(self) -> "Warehouse":
        self._tried.wait(DRAIN_SECONDS)
        if self._warehouse is None:
            raise Unavailable(f"there are no reports now: {self.problem}", headers=retry_after(RETRY_SECONDS))
        end = self._log.end()
        if self._sink is not None and not self._sink.wait_until(end, timeout_seconds=DRAIN_SECONDS):
            raise Unavailable(f"the warehouse has not taken all events in {DRAIN_SECONDS:.0f} s", headers=retry_after(RETRY_SECONDS))
        return self._warehouse

    def _open(self) -> None:
        while not self._stop.is_set():
            try:
                self._connect()
            except (OSError, ValueError, LookupError, ImportError) as error:
                if str(error) != self._opening:
                    log.error("no reports for now: %s", error)
                self._opening = str(error)
                self._tried.set()
                self._stop.wait(RETRY_SECONDS)
            else:
                self._opening = None
                self._tried.set()
                return

    def _connect(self) -> None:
        from analytics.warehouse.client import Warehouse

        warehouse = Warehouse.open(self._url)
        try:
            sink = self._sink_into(warehouse)
            kafka_sink = self._kafka_sink_into(warehouse)
        except BaseException:
            warehouse.close()
            raise
        with self._opened:
            if self._stop.is_set():
                warehouse.close()
                return
            for thread in (sink, kafka_sink):
                if thread is not None:
                    thread.start()
            self._warehouse, self._sink, self._kafka_sink = warehouse, sink, kafka_sink

    def _sink_into(self, warehouse: "Warehouse") -> "SinkThread | None":
        if self._kafka is not None:
            return None
        from analytics.sink import Sink, SinkThread

        warehouse.migrate()
        return SinkThread(Sink(self._log, warehouse))

    def _kafka_sink_into(self, warehouse: "Warehouse") -> "KafkaSinkThread | None":
        if self._kafka is None:
            return None
        if not warehouse.embedded:
            _check_version(warehouse)
            return None
        from analytics.kafka.sink import KafkaSink
        from analytics.kafka.sink_thread import KafkaSinkThread

        warehouse.migrate()
        return KafkaSinkThread(KafkaSink(self._kafka, warehouse))


def _check_version(warehouse: "Warehouse") -> None:
    """The tables are `salon migrate`'s, not ours: many gateways read them. Raises OSError for older ones."""
    from analytics.warehouse.schema import latest_version

    version, ours = warehouse.schema_version(), latest_version(warehouse.layout)
    if version < ours:
        has = f"has the tables of version {version}, and this gateway reads version {ours}" if version else "has no tables yet"
        raise OSError(f"the warehouse {warehouse.shown} {has}; run `salon migrate`")
