"""Facts by push-down SQL against the same numbers from plain Python over the raw events (no shared code)."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from analytics.events import Event, derived_id, new_id
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts, Moments, QuantileFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import experiment_names, read_definition, read_facts

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXPERIMENT = Experiment(route="hero", arms={"a": 0.5, "b": 0.3, "c": 0.2}, control="a", primary="like_rate")
METRICS = {
    "like_rate": Metric(kind="proportion", event="like", window_hours=72),
    "clicks": Metric(kind="mean", event="click"),
    "spend": Metric(kind="mean", event="convert", window_hours=24, cap=3.0),
    "ctr": Metric(kind="ratio", event="click", denominator="view", window_hours=48),
    "likes_per_image": Metric(kind="ratio", event="like", denominator="image"),
    "median_spend": Metric(kind="quantile", event="convert", quantile=0.5, window_hours=100),
    "wins": Metric(kind="mean", event="preference"),
    "it's": Metric(kind="proportion", event="o'dd\\"),
}


def put(warehouse: Warehouse, log: str, events: Sequence[Event]) -> None:
    at = warehouse.position(log)
    warehouse.insert(log, at + 1, at + len(events), events)


def control(name: str, at: datetime, action: str, changed: dict[str, Any]) -> Event:
    attributes = {"action": action, "who": "test", "why": "", "changed": msgspec.json.encode(changed).decode()}
    return Event(
        event_id=derived_id(at, name, action), kind="control", occurred_at=at, received_at=at, experiment=name, attributes=attributes
    )


def random_events(name: str, chance: random.Random, units: int = 150) -> list[Event]:
    """Duplicates, units in two arms, late, early, flagged and clock-ahead events, unknown arms, units never exposed."""
    made: list[Event] = []

    def add(kind: str, at: datetime, received: datetime | None = None, **fields: Any) -> None:
        flags = chance.choice([1, 2, 5]) if chance.random() < 0.04 else 0
        fields = {"experiment": name, "flags": flags} | fields
        made.append(Event(event_id=derived_id(at, str(len(made)), name), kind=kind, occurred_at=at, received_at=received or at, **fields))

    for number in range(units):
        unit, arm = f"{name}-u{number}", chance.choices(["a", "b", "c", "gone"], [5, 3, 2, 0.3])[0]
        weight = {"a": 0.5, "b": 0.3, "c": 0.2, "gone": 0.1}[arm]
        first = START + timedelta(minutes=chance.uniform(-60, 6000))
        if chance.random() > 0.05:
            for _ in range(chance.randint(1, 3)):
                add("exposure", first + timedelta(minutes=chance.expovariate(1 / 300)), unit=unit, arm=arm, propensity=weight)
        if chance.random() < 0.06:
            add("exposure", first + timedelta(hours=1), unit=unit, arm="b" if arm == "a" else "a", propensity=weight)
        for _ in range(chance.randint(0, 4)):
            at = first + timedelta(hours=chance.uniform(-1, 100))
            failed = chance.random() < 0.1
            timing = {} if failed and chance.random() < 0.5 else {"queue_ms": chance.expovariate(0.1), "service_ms": chance.gauss(300, 40)}
            add(
                "generation",
                at,
                unit=unit,
                arm=arm,
                generation_id=new_id(),
                status="failed" if failed else "ok",
                variant_digest="d" + arm,
                **timing,
            )
            for position in range(0 if failed else 2):
                add("image", at, unit=unit, arm=arm, image_id=new_id(), position=position, variant_digest="d" + arm)
        for kind in ("like", "click", "view", "view", "convert", "preference", "o'dd\\"):
            for _ in range(chance.choice([0, 0, 1, 2, 5])):
                at = first + timedelta(hours=chance.uniform(-3, 120))
                delay = chance.choice([0.0, 0.1, 90.0, -0.5])
                value = chance.choice([None, chance.gauss(2, 1)]) if kind in {"convert", "preference"} else None
                own = chance.choice("abc") if kind == "preference" else arm
                add(kind, at, at + timedelta(hours=delay), unit=unit, arm=own, value=value)
    made += [
        msgspec.structs.replace(e, received_at=e.received_at + timedelta(days=40 * chance.random()))
        for e in chance.sample(made, len(made) // 8)
    ]
    chance.shuffle(made)
    return made


def quantile(values: Sequence[float], level: float) -> float:
    return float(np.quantile(values, min(max(level, 0), 1), method="inverted_cdf"))


class Recomputed:
    """The definitions of the metrics, read literally, in loops over events."""

    def __init__(self, events: Sequence[Event], name: str, as_of: datetime | None) -> None:
        first_by_id: dict[Any, Event] = {}
        for e in sorted(events, key=lambda e: e.received_at):
            if e.experiment == name and (as_of is None or e.received_at <= as_of):
                first_by_id.setdefault(e.event_id, e)
        self.everything = list(first_by_id.values())
        self.events = [e for e in self.everything if e.flags == 0]
        exposures: dict[str, list[Event]] = defaultdict(list)
        for e in self.events:
            if e.kind == "exposure":
                exposures[e.unit].append(e)
        self.ever = set(exposures)
        self.several = {unit for unit, es in exposures.items() if len({e.arm for e in es}) > 1}
        self.drawn = {unit: min(es, key=self.time) for unit, es in exposures.items()}
        self.first = {unit: e for unit, e in self.drawn.items() if unit not in self.several and e.arm in EXPERIMENT.arms}
        self.of_unit: dict[str, list[Event]] = defaultdict(list)
        for e in self.events:
            self.of_unit[e.unit].append(e)

    @staticmethod
    def time(e: Event) -> datetime:
        return min(e.occurred_at, e.received_at)

    def units(self, arm: str) -> list[str]:
        return [unit for unit, e in self.first.items() if e.arm == arm]

    def counted(self, unit: str, kind: str, hours: float | None) -> list[Event]:
        since = self.time(self.first[unit])
        found = []
        for e in self.of_unit[unit]:
            if e.kind != kind or (kind == "preference" and e.arm != self.first[unit].arm):
                continue
            if kind not in {"generation", "image"} and self.time(e) < since:
                continue
            if hours is None or self.time(e) <= since + timedelta(hours=hours):
                found.append(e)
        return found

    def total(self, unit: str, metric: Metric) -> tuple[float, float]:
        found = self.counted(unit, metric.event, metric.window_hours)
        if metric.kind == "proportion":
            return float(bool(found)), 1.0
        if metric.kind == "ratio":
            return float(len(found)), float(len(self.counted(unit, metric.denominator or "", metric.window_hours)))
        value = math.fsum(1 if e.value is None else e.value for e in found)
        return min(value, metric.cap or math.inf), 1.0


def same_moments(got: Moments, pairs: Sequence[tuple[float, float]]) -> None:
    x, y = (np.array(v) for v in zip(*pairs, strict=True))
    wanted = [
        len(pairs),
        x.mean(),
        ((x - x.mean()) ** 2).sum(),
        y.mean(),
        ((y - y.mean()) ** 2).sum(),
        ((x - x.mean()) * (y - y.mean())).sum(),
    ]
    assert [got.n, got.mean, got.m2, got.denominator_mean, got.denominator_m2, got.comoment] == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def same_quantile(got: QuantileFacts, by_unit: Sequence[Sequence[float]], level: float) -> None:
    values = [v for vs in by_unit for v in vs]
    half = 1.959963984540054 * math.sqrt(level * (1 - level) / len(values))
    cut = quantile(values, level)
    assert (got.events, got.units, got.level) == (len(values), len(by_unit), level)
    assert [got.value, got.low, got.high] == pytest.approx([cut, quantile(values, level - half), quantile(values, level + half)], rel=1e-12)
    pairs = [(float(sum(v <= cut for v in vs)), float(len(vs))) for vs in by_unit]
    rest = Moments(
        n=got.units,
        mean=got.below_mean,
        m2=got.below_m2,
        denominator_mean=got.count_mean,
        denominator_m2=got.count_m2,
        comoment=got.comoment,
    )
    same_moments(rest, pairs)


def check(facts: ExperimentFacts, r: Recomputed, periods: Sequence[tuple[datetime, dict[str, float]]]) -> None:
    assert facts.events_read == len(r.everything)
    assert facts.flagged_events == sum(e.flags != 0 for e in r.everything)
    assert facts.bot_units == len({e.unit for e in r.everything if e.flags & 1})
    assert facts.late_events == sum(e.received_at - e.occurred_at > timedelta(hours=72) for e in r.everything)
    assert facts.multiple_exposure == len(r.several)
    assert facts.generations_without_exposure == sum(e.kind == "generation" and e.unit not in r.ever for e in r.events)
    assert facts.data_as_of == max(e.received_at for e in r.everything)
    assert [a.arm for a in facts.arms] == list(EXPERIMENT.arms)
    for got in facts.arms:
        units = r.units(got.arm)
        own = [e for u in units for e in r.of_unit[u]]
        generations = [e for e in own if e.kind == "generation"]
        assert (got.units, got.generations) == (len(units), len(generations))
        assert got.images == sum(e.kind == "image" for e in own)
        assert got.failures == sum(e.status == "failed" for e in generations)
        assert got.mean_inverse_propensity == pytest.approx(float(np.mean([1 / (r.first[u].propensity or 0) for u in units])))
        assert got.variant_digest == "d" + got.arm
        latencies = {
            u: [e.queue_ms + e.service_ms for e in r.of_unit[u] if e.kind == "generation" and e.status == "ok" and e.queue_ms]
            for u in units
        }
        latencies = {u: v for u, v in latencies.items() if v}
        every = [v for vs in latencies.values() for v in vs]
        assert [got.latency_p50_ms, got.latency_p95_ms] == pytest.approx([quantile(every, 0.5), quantile(every, 0.95)])
        same_quantile(facts.metrics["latency_p95_ms"][got.arm], list(latencies.values()), 0.95)  # type: ignore[arg-type]
        same_moments(facts.latency[got.arm], [(sum(v) / len(v), 1.0) for v in latencies.values()])
        failures = [
            (float(sum(e.status == "failed" for e in es)), float(len(es)))
            for es in ([e for e in r.of_unit[u] if e.kind == "generation"] for u in units)
        ]
        same_moments(facts.metrics["failure_rate"][got.arm], failures)  # type: ignore[arg-type]
        for name, metric in METRICS.items():
            table = facts.metrics[name].get(got.arm)
            if metric.quantile is not None:
                by_unit = [[e.value for e in r.counted(u, metric.event, metric.window_hours) if e.value is not None] for u in units]
                if not any(by_unit):
                    assert table is None
                    continue
                assert isinstance(table, QuantileFacts)
                same_quantile(table, [v for v in by_unit if v], metric.quantile)
            else:
                assert isinstance(table, Moments)
                same_moments(table, [r.total(u, metric) for u in units])
    assert [(p.started_at, p.weights) for p in facts.periods] == list(periods)
    starts = [at for at, _ in periods]
    for arm in EXPERIMENT.arms:
        counts = [0] * len(periods)
        for e in r.drawn.values():
            if e.arm == arm:
                counts[max(0, sum(at <= r.time(e) for at in starts) - 1)] += 1
        assert [p.units[arm] for p in facts.periods] == counts


@pytest.mark.parametrize("seed", [1, 2])
def test_every_number_equals_the_one_recomputed_from_raw_events(warehouse: Warehouse, seed: int) -> None:
    name = f"random-{seed}"
    changed_at = START + timedelta(days=2)
    new_weights = {"a": 0.2, "b": 0.4, "c": 0.4}
    events = random_events(name, random.Random(seed))
    events += [
        control(name, START - timedelta(days=1), "create", {"definition": msgspec.to_builtins(EXPERIMENT)}),
        control(name, START, "start", {}),
        control(name, START + timedelta(days=1), "pause", {}),
        control(name, changed_at, "weights", {"weights": new_weights}),
        control(name, START + timedelta(days=3), "resume", {"weights": new_weights}),
    ]
    put(warehouse, "log-of-facts", events[::2])
    put(warehouse, "log-of-facts", random_events("other", random.Random(9), 20))
    put(warehouse, "log-of-facts", events[1::2])
    put(warehouse, "again", events[: len(events) // 3])
    both = [(START, EXPERIMENT.arms), (changed_at, new_weights)]
    check(read_facts(warehouse, name, EXPERIMENT, METRICS, None), Recomputed(events, name, None), both)
    early = START + timedelta(days=1, hours=20)
    check(read_facts(warehouse, name, EXPERIMENT, METRICS, early), Recomputed(events, name, early), both[:1])


def test_a_mean_of_1e9_with_sd_1_keeps_its_variance(warehouse: Warehouse) -> None:
    generator = np.random.default_rng(3)
    values = 1e9 + generator.standard_normal(2000)
    events = []
    for i, value in enumerate(values):
        at = START + timedelta(seconds=i)
        fields: dict[str, Any] = {"occurred_at": at, "received_at": at, "experiment": "far", "arm": "a", "unit": f"u{i}"}
        events.append(Event(event_id=derived_id(at, "far", "x"), kind="exposure", **fields))
        events.append(Event(event_id=derived_id(at, "far", "c"), kind="convert", value=float(value), **fields))
    put(warehouse, "far", events)
    facts = read_facts(warehouse, "far", EXPERIMENT, {"m": Metric(kind="mean", event="convert")}, None).metrics["m"]
    got = facts["a"]
    assert isinstance(got, Moments)
    assert got.mean - 1e9 == pytest.approx(float((values - 1e9).mean()), abs=1e-6)
    assert got.m2 == pytest.approx(float(((values - values.mean()) ** 2).sum()), rel=1e-6)
    assert facts["b"] == Moments(n=0, mean=0.0, m2=0.0)


def test_an_experiment_without_any_event(warehouse: Warehouse) -> None:
    facts = read_facts(warehouse, "never", EXPERIMENT, METRICS, None)
    assert (facts.started_at, facts.data_as_of, facts.events_read, facts.periods) == (None, None, 0, [])
    assert [(a.units, a.latency_p50_ms, a.variant_digest, a.mean_inverse_propensity) for a in facts.arms] == [(0, None, "", None)] * 3
    assert facts.metrics["latency_p95_ms"] == {} and facts.latency == {}
    assert facts.metrics["ctr"]["a"] == Moments(n=0, mean=0.0, m2=0.0, denominator_mean=0.0)
    assert msgspec.json.decode(msgspec.json.encode(facts))["metrics"]["ctr"]["a"]["n"] == 0


def test_without_control_events_it_starts_at_the_first_exposure_with_the_experiments_weights(warehouse: Warehouse) -> None:
    at = START + timedelta(minutes=5)
    exposure = Event(
        event_id=new_id(), kind="exposure", occurred_at=at, received_at=at, experiment="bare", unit="u", arm="b", propensity=0.0
    )
    put(warehouse, "bare", [exposure, control("bare", at + timedelta(hours=1), "weights", {"weights": {"a": 1.0}})])
    facts = read_facts(warehouse, "bare", EXPERIMENT, {}, None)
    assert facts.started_at == at
    assert [(p.weights, p.units) for p in facts.periods] == [
        (EXPERIMENT.arms, {"a": 0, "b": 1, "c": 0}),
        ({"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 0, "b": 0, "c": 0}),
    ]
    assert facts.arms[1].mean_inverse_propensity is None


def test_an_id_sent_again_as_another_unit_and_kind_counts_once(warehouse: Warehouse) -> None:
    first = Event(event_id=new_id(), kind="like", occurred_at=START, received_at=START, experiment="reused", unit="u", arm="a")
    put(warehouse, "reused", [first])
    put(warehouse, "reused", [msgspec.structs.replace(first, unit="v", kind="share", received_at=START + timedelta(hours=1))])
    assert read_facts(warehouse, "reused", EXPERIMENT, {}, None).events_read == 1


def test_definitions_come_back_from_control_events(warehouse: Warehouse) -> None:
    later = msgspec.structs.replace(EXPERIMENT, alpha=0.01)
    put(
        warehouse,
        "defined",
        [
            control("defined", START, "create", {"definition": msgspec.to_builtins(EXPERIMENT)}),
            control("defined", START + timedelta(hours=1), "create", {"definition": msgspec.to_builtins(later)}),
            control("defined", START + timedelta(hours=2), "create", {"definition": {"route": 3}}),
            control("defined", START + timedelta(hours=3), "stop", {"definition": msgspec.to_builtins(EXPERIMENT)}),
        ],
    )
    assert read_definition(warehouse, "defined") == later
    latest = msgspec.structs.replace(later, planned_units=70)
    put(warehouse, "defined", [control("defined", START + timedelta(hours=4), "redefine", {"definition": msgspec.to_builtins(latest)})])
    assert read_definition(warehouse, "defined") == latest
    assert read_definition(warehouse, "never") is None
    names = experiment_names(warehouse)
    assert "defined" in names and "never" not in names and names == sorted(names)
