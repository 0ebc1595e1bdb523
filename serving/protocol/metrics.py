"""Prometheus metrics of a worker, read from the engine when someone asks."""

from collections.abc import Iterator

from litestar import Response, get
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.protocol.worker import Worker

MEDIA_TYPE = "text/plain; version=0.0.4"
_LANES = {
    "calls": "Calls of the network",
    "rows": "Rows of those calls",
    "call_seconds": "Seconds in calls of the network",
    "seconds": "Seconds of work, calls and all else",
    "evictions": "Adapters that gave way to others",
}
_VARIANTS = {"queue_seconds": "Seconds that finished images waited", "service_seconds": "Seconds from their first step to their pixels"}


class Metrics:
    """In a registry of their own. Labels: a lane's name, a variant's digest."""

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("salon_engine_requests", "HTTP requests, by path and status", ["path", "status"], registry=self._registry)
        self._registry.register(_OfTheEngine(worker))

    def request(self, path: str, status: int) -> None:
        """Count a request under the template of its path."""
        self._requests.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _OfTheEngine(Collector):
    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        """At this moment; devices are added up."""
        devices = self._worker.engine.statistics()
        for name, text in _LANES.items():
            lanes = CounterMetricFamily(f"salon_engine_{name}", text, labels=["model"])
            for lane in sorted({each for device in devices for each in device.lanes}):
                lanes.add_metric([lane], sum(getattr(device.lanes[lane], name) for device in devices if lane in device.lanes))
            yield lanes
        images = CounterMetricFamily("salon_engine_images", "Images, by what became of them", labels=["variant", "status"])
        families = {name: CounterMetricFamily(f"salon_engine_{name}", text, labels=["variant"]) for name, text in _VARIANTS.items()}
        for digest in sorted({each for device in devices for each in device.variants}):
            tallies = [device.variants[digest] for device in devices if digest in device.variants]
            for status in ("done", "failed", "cancelled"):
                images.add_metric([digest, status], sum(getattr(tally, status) for tally in tallies))
            for name, family in families.items():
                family.add_metric([digest], sum(getattr(tally, name) for tally in tallies))
        yield images
        yield from families.values()
        yield GaugeMetricFamily(
            "salon_engine_queue_predicted_seconds", "Work that waits, in predicted seconds", value=self._worker.engine.queue_seconds()
        )


@get("/metrics", sync_to_thread=True)
def exposition(metrics: Metrics) -> Response[bytes]:
    """Prometheus metrics."""
    return Response(metrics.text(), media_type=MEDIA_TYPE)
