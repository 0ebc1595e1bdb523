"""Prometheus metrics of the gateway. Label sets are fixed: names come from the configuration, paths are templates."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"})


# The values of the labels, and the value of each metric by name.
Labelled = tuple[tuple[str, ...], Mapping[str, float]]


class Metrics:
    """Counters and histograms in a registry of their own, so that two gateways in one process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("salon_requests", "HTTP requests", ["method", "path", "status"], registry=self._registry)
        self._seconds = Histogram(
            "salon_request_seconds", "Time to the end of the answer", ["path"], buckets=SECONDS, registry=self._registry
        )
        self._overhead = Histogram(
            "salon_generation_overhead_seconds",
            "Time of a generation outside queue and model",
            buckets=OVERHEAD_SECONDS,
            registry=self._registry,
        )
        self._images = Counter("salon_images", "Pictures asked for, by what became of them", ["route", "status"], registry=self._registry)
        self._flags = Counter("salon_feedback_flags", "Feedback events stored with a flag, by flag", ["flag"], registry=self._registry)
        self._feedback = Counter("salon_feedback_events", "Feedback events, by what became of them", ["status"], registry=self._registry)

        self._arms = Counter(
            "salon_arm_generations",
            "Requests of units in an experiment, by arm and by what became of them",
            ["experiment", "arm", "status"],
            registry=self._registry,
        )

        self._policy = Counter(
            "salon_policy_changes",
            "Changes that experiments made by themselves through this gateway, by what they were",
            ["experiment", "what"],
            registry=self._registry,
        )

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request under the template of its path."""
        self._requests.labels(method if method in METHODS else "other", path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def overhead(self, seconds: float) -> None:
        """The gateway's own share of a generation."""
        self._overhead.observe(seconds)

    def images(self, route: str, status: str, count: int) -> None:
        """Count pictures: ok, failed (fallback or none), cancelled, overloaded."""
        self._images.labels(route, status).inc(count)

    def arm(self, experiment: str, arm: str, status: str) -> None:
        """Count a request under the arm that was drawn, whatever was served: ok, failed (fallback or none), cancelled, overloaded."""
        self._arms.labels(experiment, arm, status).inc()

    def policy(self, experiment: str, what: str) -> None:
        """Count a change that nobody asked for: weights, pairs, ramp, rollback, ship."""
        self._policy.labels(experiment, what).inc()

    def feedback(self, status: str, count: int) -> None:
        """Count feedback events: accepted, duplicate, rejected."""
        if count:
            self._feedback.labels(status).inc(count)

    def flagged(self, flags: Iterable[str]) -> None:
        """Count one event that was stored, under each of its flags."""
        for flag in flags:
            self._flags.labels(flag).inc()

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A value that is read when someone asks."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def count(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A number that only rises, kept elsewhere and read when someone asks; shown as `name`_total."""
        self._registry.register(_Counted(name, text, read))

    def gauges(self, texts: Mapping[str, str], labels: tuple[str, ...], read: Callable[[], Iterable[Labelled]]) -> None:
        """Values by labels, several at once by name → what it means, that are read together when someone asks."""
        self._registry.register(_Gauges(texts, labels, read))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _Counted(Collector):
    """A counter whose value is kept elsewhere."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._read())


class _Gauges(Collector):
    """Gauges with labels, kept elsewhere."""

    def __init__(self, texts: Mapping[str, str], labels: tuple[str, ...], read: Callable[[], Iterable[Labelled]]) -> None:
        self._texts, self._labels, self._read = texts, labels, read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {name: GaugeMetricFamily(name, text, labels=self._labels) for name, text in self._texts.items()}
        for labels, values in self._read():
            for name, value in values.items():
                families[name].add_metric(labels, value)
        yield from families.values()
