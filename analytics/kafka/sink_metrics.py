"""What a sink says of itself to Prometheus: counters, lag by partition, the deduplication window, the last reconciliation."""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from analytics.kafka.sink_state import now_ms
from analytics.kafka.sink_thread import KafkaSinkThread
from analytics.kafka.watch import SinkWatch


class SinkMetrics(Collector):
    """Reads the sink's state whenever somebody asks; nothing is kept twice."""

    def __init__(self, thread: KafkaSinkThread, watch: SinkWatch) -> None:
        self._thread, self._watch = thread, watch

    def collect(self) -> Iterator[Metric]:
        """All metrics now. A value that is not known is left out."""
        state, now = self._thread.sink.state, now_ms()
        partitions = dict(state.partitions)
        lags = [(partition, each.lag_records, each.lag_seconds(now)) for partition, each in sorted(partitions.items())]
        yield _by_partition("salon_sink_lag_events", "Offsets that are not in the warehouse", ((p, count) for p, count, _ in lags))
        yield _by_partition(
            "salon_sink_lag_seconds", "Age of the oldest record that is not in the warehouse", ((p, age) for p, _, age in lags)
        )
        for name, text, value in (
            ("salon_sink_rows", "Rows put into the warehouse", state.rows),
            ("salon_sink_failures", "Times that the sink could not go on and backed off", self._thread.failures),
            ("salon_sink_replayed_ranges", "Ranges found begun and not done, and repeated", state.replays),
            ("salon_sink_dead_letters", "Messages and events set aside", state.dead_letters),
            ("salon_sink_erased_rows", "Events left out because their unit was erased", state.erased_rows),
            ("salon_sink_lost_to_retention", "Offsets that Kafka removed before they were read", state.lost_to_retention),
            ("salon_sink_assignments", "Times that partitions came to this sink", state.assignments),
            ("salon_watch_failures", "Times that watching itself failed", self._watch.seen.failures),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("salon_sink_up", "1: the last step went well; 0: backing off", value=float(self._thread.last_error is None))
        yield from self._sampled()

    def _sampled(self) -> Iterator[Metric]:
        seen = self._watch.seen
        if seen.window_used_ratio is not None:
            yield GaugeMetricFamily(
                "salon_dedup_window_used_ratio",
                "How near the oldest unfinished range is to leaving the deduplication window",
                value=seen.window_used_ratio,
            )
        if seen.dirty_days is not None:
            yield GaugeMetricFamily("salon_rollup_dirty_days", "Days whose rollups wait to be rebuilt", value=seen.dirty_days)
        if (found := seen.reconciliation) is not None:
            yield GaugeMetricFamily("salon_reconcile_missing_events", "Events in Kafka and not in the warehouse", value=found.missing)
            yield GaugeMetricFamily("salon_reconcile_extra_events", "Events in the warehouse and not in Kafka", value=found.extra)
            yield GaugeMetricFamily("salon_reconcile_compared_events", "Events compared by the last reconciliation", value=found.events)
            yield GaugeMetricFamily(
                "salon_reconcile_last_success_timestamp_seconds",
                "When a reconciliation last ran to its end, whatever it found",
                value=found.finished_at.timestamp(),
            )


def serve_metrics(collector: Collector, host: str, port: int) -> Any:
    """Answer GET http://host:port/metrics from a thread of its own. Returns the server; `shutdown()` ends it. Raises OSError."""
    registry = CollectorRegistry()
    registry.register(collector)
    server, _ = start_http_server(port, addr=host, registry=registry)
    return server


def _by_partition(name: str, text: str, values: Iterable[tuple[int, float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["partition"])
    for partition, value in values:
        family.add_metric([str(partition)], value)
    return family
