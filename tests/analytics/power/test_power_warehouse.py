"""Plans from the warehouse against plain Python over the same events; and `salon power` on a real log."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analytics.events import Event, derived_id
from analytics.experiment import Metric
from analytics.facts import Moments, QuantileFacts
from analytics.inference.explained import explained
from analytics.warehouse.client import Warehouse
from analytics.warehouse.history import exposed_per_day, read_past

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 12
METRICS = {
    "like_rate": Metric(kind="proportion", event="like", window_hours=48),
    "spend": Metric(kind="mean", event="convert", window_hours=48, cap=6.0, covariate_days=4, covariates=("like_rate",)),
    "ctr": Metric(kind="ratio", event="click", denominator="view", window_hours=72, covariate_days=3),
    "capped": Metric(kind="mean", event="convert", cap="p90"),
    "size": Metric(kind="quantile", event="convert", quantile=0.5, window_hours=60),
    "shared_images": Metric(kind="proportion", event="share", per="image", window_hours=72),
    "big_likes": Metric(kind="proportion", event="like", where={"screen": ("big", "huge")}),
    "worth": Metric(kind="mean", event="convert", per="event"),
}


def made_events(count: int = 120) -> list[Event]:
    """A route's past: people who come back, habits that last, flagged, duplicate and other routes' events."""
    chance = random.Random(5)
    found: list[Event] = []

    def add(kind: str, at: datetime, unit: str, **fields: Any) -> Event:
        fields = {"route": "hero", "unit": unit} | fields
        found.append(Event(event_id=derived_id(at, str(len(found))), kind=kind, occurred_at=at, received_at=at, **fields))
        return found[-1]

    for number in range(count):
        unit, taste = f"u{number}", chance.random()
        for _ in range(chance.choice([1, 2, 4, 9])):
            at = START + timedelta(days=chance.uniform(0, DAYS))
            generation = derived_id(at, unit, "g")
            add(
                "generation",
                at,
                unit,
                generation_id=generation,
                status="failed" if chance.random() < 0.1 else "ok",
                queue_ms=1.0,
                service_ms=chance.gauss(300, 40),
            )
            for position in range(2):
                image = derived_id(at, unit, f"i{position}")
                add("image", at, unit, image_id=image, generation_id=generation, position=position)
                if chance.random() < 0.2:
                    add("share", at + timedelta(minutes=3), unit, image_id=image, generation_id=generation)
            for kind, rate in (("view", 2.0), ("click", taste), ("like", taste / 2), ("convert", 1 + taste)):
                for _ in range(int(rate + chance.random())):
                    later = at + timedelta(hours=chance.expovariate(1 / 5))
                    number = 10 * taste * chance.random() if kind == "convert" and chance.random() < 0.9 else None
                    flags, screen = 1 if chance.random() < 0.05 else 0, chance.choice(["big", "huge", "small"])
                    add(kind, later, unit, value=number, flags=flags, attributes={"screen": screen})
        if chance.random() < 0.2:
            add("generation", START + timedelta(days=1), f"x{number}", route="other")
    return [*found, *chance.sample(found, 40)]


EVENTS = made_events()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("power")


@pytest.fixture(scope="module")
def past_warehouse(home: Path) -> Iterator[Warehouse]:
    """The same events as in the log that the command reads."""
    opened = Warehouse.open(f"chdb://{home}/var/warehouse")
    opened.migrate()
    opened.insert("past", 1, len(EVENTS), EVENTS)
    yield opened
    opened.close()


class Recounted:
    """The definition of the past, read literally."""

    def __init__(self, days: int, before: float = 0.0) -> None:
        kept = {e.event_id: e for e in EVENTS if e.flags == 0 and e.route == "hero"}.values()
        requests = [e for e in kept if e.kind == "generation"]
        first, last = min(e.occurred_at for e in requests), max(e.occurred_at for e in requests)
        self.days = max(1, min(days, int((last - first) / timedelta(days=1) - before)))
        self.until = last + timedelta(microseconds=1)
        self.since = self.until - timedelta(days=self.days)
        self.came: dict[str, datetime] = {}
        for e in sorted(requests, key=lambda e: e.occurred_at):
            if e.occurred_at >= self.since:
                self.came.setdefault(e.unit, e.occurred_at)
        self.of_unit: dict[str, list[Event]] = defaultdict(list)
        for e in kept:
            if e.occurred_at < self.until:
                self.of_unit[e.unit].append(e)

    def measured(self, window_hours: float | None) -> list[str]:
        return [u for u, at in self.came.items() if window_hours is None or at <= self.until - timedelta(hours=window_hours)]

    def after(self, unit: str, metric: Metric) -> list[Event]:
        came = self.came[unit]
        end = came + timedelta(hours=metric.window_hours) if metric.window_hours else self.until
        return [e for e in self.of_unit[unit] if came <= e.occurred_at <= end]

    def before(self, unit: str, days: float) -> list[Event]:
        came = self.came[unit]
        return [e for e in self.of_unit[unit] if came - timedelta(days=days) <= e.occurred_at < came]


def value(metric: Metric, events: list[Event]) -> list[float]:
    wanted = {key: {one} if isinstance(one, str) else set(one) for key, one in metric.where.items()}
    ours = [e for e in events if e.kind == metric.event and all(e.attributes.get(key) in values for key, values in wanted.items())]
    if metric.per == "image":
        return [float(len({e.image_id for e in ours})), float(sum(e.kind == "image" for e in events))]
    if metric.per == "event":
        return [math.fsum(e.value for e in ours if e.value is not None), float(sum(e.value is not None for e in ours))]
    if metric.kind == "proportion":
        return [float(bool(ours))]
    if metric.kind == "mean":
        return [math.fsum(1.0 if e.value is None else e.value for e in ours)]
    return [float(len(ours)), float(sum(e.kind == metric.denominator for e in events))]


@pytest.mark.parametrize("name", [name for name in METRICS if name != "size"])
def test_the_past_is_recounted(past_warehouse: Warehouse, name: str) -> None:
    metric = METRICS[name]
    past = read_past(past_warehouse, "hero", name, metric, 28, {other: METRICS[other] for other in metric.covariates})
    again = Recounted(28, metric.covariate_days or 0.0)
    assert past is not None and isinstance(past.facts, Moments)
    assert past.new_units == [
        sum(int((at - again.since) / timedelta(days=1)) == day for at in again.came.values()) for day in range(again.days)
    ]
    units = again.measured(metric.window_hours)
    assert past.measured == len(units) > 30
    rows = np.array([value(metric, again.after(u, metric)) for u in units])
    if metric.cap is not None:
        rows[:, 0] = np.minimum(rows[:, 0], np.percentile(rows[:, 0], 90) if metric.cap == "p90" else metric.cap)
    columns = [rows]
    if metric.covariate_days is not None:
        for other in (metric, *(METRICS[o] for o in metric.covariates)):
            columns += [np.array([value(other, again.before(u, metric.covariate_days)) for u in units])]
        table = np.concatenate(columns, axis=1)
        assert past.joint is not None and past.joint.covariates == (name, *metric.covariates)
        np.testing.assert_allclose(past.joint.means, table.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(past.joint.products, np.cov(table.T, bias=True) * len(table), rtol=1e-9, atol=1e-9)
        assert 0 <= explained(past.joint) < 1
    assert past.facts.mean == pytest.approx(rows[:, 0].mean(), rel=1e-12)
    assert past.facts.m2 == pytest.approx(rows[:, 0].var() * len(rows), rel=1e-9)
    if rows.shape[1] == 2:
        assert past.facts.denominator_mean == pytest.approx(rows[:, 1].mean(), rel=1e-12)
        assert past.facts.comoment == pytest.approx(np.cov(rows.T, bias=True)[0, 1] * len(rows), rel=1e-9)


def test_quantiles_of_the_past(past_warehouse: Warehouse) -> None:
    again, metric = Recounted(28), METRICS["size"]
    past = read_past(past_warehouse, "hero", "size", metric, 28)
    values = {u: [e.value for e in again.after(u, metric) if e.kind == "convert" and e.value is not None] for u in again.measured(60)}
    everything = [v for of_unit in values.values() for v in of_unit]
    assert past is not None and isinstance(past.facts, QuantileFacts)
    assert past.facts.events == len(everything) and past.facts.units == sum(bool(v) for v in values.values())
    assert past.facts.value == np.quantile(everything, 0.5, method="inverted_cdf")
    built_in = read_past(past_warehouse, "hero", "latency_p95_ms", None, 28)
    assert built_in is not None and isinstance(built_in.facts, QuantileFacts) and 330 < built_in.facts.value < 420
    failures = read_past(past_warehouse, "hero", "failure_rate", None, 28)
    assert failures is not None and isinstance(failures.facts, Moments)
    assert 0.05 < failures.facts.mean / failures.facts.denominator_mean < 0.15


def test_too_little_past(past_warehouse: Warehouse) -> None:
    assert read_past(past_warehouse, "nowhere", "like_rate", METRICS["like_rate"], 28) is None
    with pytest.raises(ValueError, match="window_hours"):
        read_past(past_warehouse, "hero", "like_rate", Metric(kind="proportion", event="like", window_hours=1000), 28)
    assert exposed_per_day(past_warehouse, "none", START, START + timedelta(days=2)) == [0, 0]
