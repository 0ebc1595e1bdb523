"""Facts of a switchback's blocks against loops over the same events (no shared code), and the report made of them."""

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from analytics.designs import Switchback
from analytics.events import Event, derived_id, new_id
from analytics.experiment import Exclusion, Experiment, Guardrail, Metric
from analytics.facts import ExperimentFacts, QuantileFacts
from analytics.report.build import build_report, rebuild
from analytics.report.page import to_html
from analytics.report.text import to_text
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import facts_from_events, read_facts

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXPERIMENT = Experiment(
    route="hero",
    arms={"a": 0.5, "b": 0.5},
    control="a",
    primary="like_rate",
    secondary=("spend", "scores"),
    guardrails={"failure_rate": Guardrail(margin=0.5), "latency_p95_ms": Guardrail(margin=0.1)},
    design="switchback",
    switchback=Switchback(block_minutes=60, washout_minutes=5),
    exclude=Exclusion(units=("robot-*",)),
    minimum_units=20,
)
METRICS = {
    "like_rate": Metric(kind="proportion", event="like", window_hours=2),
    "spend": Metric(kind="mean", event="buy", cap=3.0),
    "capped": Metric(kind="mean", event="buy", cap="p90"),
    "ctr": Metric(kind="ratio", event="click", denominator="image"),
    "liked_images": Metric(kind="proportion", event="like", per="image"),
    "scores": Metric(kind="mean", event="score", per="event", where={"by": "person"}),
    "wait": Metric(kind="quantile", event="buy", quantile=0.5),
}
BLOCKS = 60
FEW = 13


def made() -> list[Event]:
    """Wash-outs, robots, flagged events, late feedback, failures, one block with two arms, a generation without a block."""
    chance, events = random.Random(5), list[Event]()

    def add(kind: str, at: datetime, **fields: Any) -> None:
        event = Event(event_id=derived_id(at, str(len(events))), kind=kind, occurred_at=at, received_at=at, experiment="sw", **fields)
        events.append(event)

    add("control", START, attributes={"action": "start", "changed": "{}"})
    for block in range(BLOCKS):
        arm = chance.choice("ab")
        for _ in range(FEW):
            seconds = chance.uniform(0, 3600) if block else chance.uniform(0, 1800)
            at = START + timedelta(hours=block, seconds=seconds)
            placed = {"block": str(block), "washout": "true" if seconds < 300 else "false"}
            if block == 7 and seconds > 1800:
                arm = "b" if arm == "a" else arm
            unit = chance.choice(["robot-1", *(f"person-{i}" for i in range(25))])
            generation, failed, own = new_id(), chance.random() < 0.1, {"unit": unit, "arm": arm, "propensity": 0.5}
            flags = 1 if chance.random() < 0.03 else 0
            add("exposure", at, **own)
            timing = {} if failed else {"queue_ms": 5.0, "service_ms": chance.gauss(300 if arm == "a" else 330, 20)}
            status = "failed" if failed else "ok"
            add("generation", at, **own, generation_id=generation, status=status, attributes=placed, flags=flags, **timing)
            ids = [] if failed else [new_id(), new_id()]
            for image in ids:
                add("image", at, **own, generation_id=generation, image_id=image, attributes=placed)
            for image in ids:
                for kind in ("like", "click", "buy", "score"):
                    if chance.random() < (0.35 if arm == "b" else 0.2):
                        by = {"by": chance.choice(["person", "model"])}
                        later = at + timedelta(minutes=chance.expovariate(1 / 60))
                        value = chance.choice([None, chance.gauss(2, 1)]) if kind in ("buy", "score") else None
                        add(kind, later, **own, generation_id=generation, image_id=image, value=value, attributes=placed | by)
    add("generation", START + timedelta(hours=3), unit="person-1", arm="a", generation_id=new_id(), status="ok")
    return events


@pytest.fixture(scope="module")
def read(warehouse: Warehouse) -> tuple[list[Event], ExperimentFacts]:
    events = made()
    warehouse.insert("log", 1, len(events), events)
    return events, read_facts(warehouse, "sw", EXPERIMENT, METRICS)


def counted(events: list[Event]) -> list[Event]:
    return [
        e
        for e in events
        if not e.flags and not e.unit.startswith("robot-") and e.attributes.get("block") and e.attributes["washout"] == "false"
    ]


def expected(events: list[Event], end: datetime) -> dict[str, dict[int, tuple[float, float]]]:
    """(numerator, denominator) per metric and block, read literally from what METRICS says."""
    of: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for e in counted(events):
        of[int(e.attributes["block"]), e.unit].append(e)
    of = {key: es for key, es in of.items() if any(e.kind == "generation" for e in es)}
    found: dict[str, dict[int, tuple[float, float]]] = {name: defaultdict(lambda: (0.0, 0.0)) for name in METRICS}
    bought = {key: sum(1.0 if e.value is None else e.value for e in es if e.kind == "buy") for key, es in of.items()}
    ordered = sorted(bought.values())
    place = 0.9 * (len(ordered) - 1)
    cap = ordered[math.floor(place)] + (place - math.floor(place)) * (ordered[math.ceil(place)] - ordered[math.floor(place)])
    for (block, unit), es in of.items():
        over = origin(events) + timedelta(hours=block + 1 + 2)
        kinds = lambda kind: [e for e in es if e.kind == kind]  # noqa: B023, E731
        scored = [e.value for e in kinds("score") if e.attributes["by"] == "person" and e.value is not None]
        images, liked = {e.image_id for e in kinds("image")}, {e.image_id for e in kinds("like")}
        for name, pair in {
            "like_rate": (float(any(e.occurred_at <= over for e in kinds("like"))), 1.0),
            "spend": (min(3.0, bought[block, unit]), 1.0),
            "capped": (min(cap, bought[block, unit]), 1.0),
            "ctr": (len(kinds("click")), len(images)),
            "liked_images": (len(images & liked), len(images)),
            "scores": (sum(scored), len(scored)),
        }.items():
            y, d = found[name][block]
            found[name][block] = (y + pair[0], d + pair[1])
    return found


def origin(events: list[Event]) -> datetime:
    return min(
        e.occurred_at - timedelta(hours=int(e.attributes["block"]))
        for e in events
        if e.kind == "generation" and not e.flags and e.attributes.get("block")
    )


def test_blocks_are_what_loops_over_the_events_say(read: tuple[list[Event], ExperimentFacts]) -> None:
    events, facts = read
    blocks = facts.blocks
    assert blocks is not None and blocks.origin == origin(events) and blocks.mixed == 1 and blocks.unplaced == 1
    drawn: dict[int, set[str]] = defaultdict(set)
    for e in events:
        if e.kind == "generation" and not e.flags and e.attributes.get("block"):
            drawn[int(e.attributes["block"])].add(e.arm)
    assert blocks.numbers == [n for n in range(BLOCKS) if len(drawn[n]) == 1]
    assert blocks.arms == [next(iter(drawn[n])) for n in blocks.numbers] and set(blocks.propensities) == {0.5}
    until = facts.data_as_of
    assert until is not None
    for name, by_block in expected(events, until).items():
        if name == "wait":
            assert name not in blocks.totals
            continue
        hours = 1 + min(1.0, METRICS[name].window_hours or 0.0)
        over = [n for n in blocks.numbers if blocks.origin + timedelta(hours=n + hours) <= until]
        assert len(over) < len(blocks.numbers) + 1 and len(over) > 50
        totals = blocks.totals[name]
        assert totals.numerators == pytest.approx([by_block[n][0] for n in over], abs=1e-9), name
        assert totals.denominators == [by_block[n][1] for n in over], name


def test_people_in_both_arms_are_no_matter(read: tuple[list[Event], ExperimentFacts]) -> None:
    events, facts = read
    assert facts.multiple_exposure == 0 and set(facts.metrics) == {"failure_rate", "latency_p95_ms", "wait"}
    (period,) = facts.periods
    assert facts.blocks is not None and sum(period.units.values()) == len(facts.blocks.numbers)
    for arm in facts.arms:
        mine = [e for e in events if e.kind == "generation" and e.arm == arm.arm and not e.flags]
        assert arm.generations == len(mine) and arm.units == len({e.unit for e in mine})
        assert arm.failures == sum(e.status == "failed" for e in mine)


def test_quantiles_are_those_of_the_events_clustered_by_block(read: tuple[list[Event], ExperimentFacts]) -> None:
    events, facts = read
    assert facts.blocks is not None
    over = set(facts.blocks.numbers[: len(facts.blocks.totals["failure_rate"].numerators)])
    for name, kind, level in (("latency_p95_ms", "generation", 0.95), ("wait", "buy", 0.5)):
        for arm in "ab":
            of: dict[int, list[float]] = defaultdict(list)
            for e in counted(events):
                if e.kind == kind and e.arm == arm and e.status != "failed" and int(e.attributes["block"]) in over:
                    number = e.value if kind == "buy" else (e.queue_ms or 0.0) + (e.service_ms or 0.0)
                    of[int(e.attributes["block"])] += [] if number is None else [number]
            values = sorted(v for vs in of.values() for v in vs)
            found = facts.metrics[name][arm]
            assert isinstance(found, QuantileFacts) and found.events == len(values) and found.units == sum(map(bool, of.values()))
            assert found.value == pytest.approx(values[math.ceil(level * len(values)) - 1])
            assert found.below_mean * found.units == pytest.approx(sum(v <= found.value for v in values))


def test_as_it_stood_then(warehouse: Warehouse, read: tuple[list[Event], ExperimentFacts]) -> None:
    _, facts = read
    assert facts_from_events(warehouse, "sw", EXPERIMENT, METRICS) == facts
    noon = START + timedelta(hours=30)
    earlier = read_facts(warehouse, "sw", EXPERIMENT, METRICS, noon)
    assert earlier.blocks is not None and facts.blocks is not None
    blocks, running = earlier.blocks, earlier.blocks.running
    assert blocks.numbers == [n for n in facts.blocks.numbers if n <= blocks.numbers[-1]] and blocks.numbers[-1] in (29, 30)
    assert running == (blocks.origin + timedelta(hours=blocks.numbers[-1] + 1) > earlier.data_as_of) and running == 1
    assert len(blocks.totals["spend"].numerators) == len(blocks.numbers) - 1
    assert len(blocks.totals["like_rate"].numerators) == len(blocks.numbers) - 2


def test_the_statement_for_analysts_says_the_same(warehouse: Warehouse, read: tuple[list[Event], ExperimentFacts]) -> None:
    events, facts = read
    assert facts.sql["wait"] == ""
    for name, sql in facts.sql.items():
        assert [row[0] for row in (warehouse.query(sql) if sql else [("a",), ("b",)])] == ["a", "b"], name
    rows = warehouse.query(facts.sql["liked_images"])
    seen: dict[str, list[int]] = {"a": [0, 0], "b": [0, 0]}
    images = {e.image_id: e.arm for e in events if e.kind == "image" and e.attributes["washout"] == "false"}
    generations = {(int(e.attributes["block"]), e.unit) for e in events if e.kind == "generation" and not e.flags and e.attributes}
    liked = {e.image_id for e in events if e.kind == "like" and not e.flags}
    for e in events:
        if e.kind == "image" and e.image_id in images and (int(e.attributes["block"]), e.unit) in generations:
            seen[e.arm][1] += 1
            seen[e.arm][0] += e.image_id in liked
    # Block 7 has both arms, and any() takes one of them for a unit with both.
    for arm, _, ratio in rows:
        assert ratio == pytest.approx(seen[arm][0] / seen[arm][1], abs=0.01)


def test_the_report_compares_blocks_and_says_so(read: tuple[list[Event], ExperimentFacts]) -> None:
    _, facts = read
    report = build_report("sw", EXPERIMENT, METRICS, facts, START + timedelta(days=4))
    assert rebuild(report) == report
    assert rebuild(msgspec.json.decode(msgspec.json.encode(report), type=type(report))) == report
    primary = report.metrics[0]
    (comparison,) = primary.comparisons
    assert comparison.method.startswith("switchback: ") and comparison.always_valid is not None
    assert facts.blocks is not None
    totals, arms = facts.blocks.totals["like_rate"], facts.blocks.arms
    for arm in primary.arms:
        mine = [i for i in range(len(totals.numerators)) if arms[i] == arm.arm]
        assert arm.n == len(mine)
        assert arm.mean == pytest.approx(sum(totals.numerators[i] for i in mine) / sum(totals.denominators[i] for i in mine))
    said = report.switchback
    assert said is not None and said.blocks == {arm.arm: arm.n for arm in primary.arms} and said.planned_blocks == 336
    assert {one.metric for one in said.effects} == {"like_rate", "spend", "scores", "failure_rate"}
    first = said.effects[0]
    assert first.difference == comparison.difference.value and first.randomisation is not None
    assert first.randomisation.p_value < 0.01 and first.p_value is not None and first.p_value < 0.01
    latency = next(m for m in report.metrics if m.metric == "latency_p95_ms")
    (slower,) = latency.comparisons
    assert "quantile of events clustered by block" in slower.method and slower.df is not None and slower.df < len(arms)
    low, high = slower.difference.ci
    assert low is not None and high is not None and 0 < low < 30 < high
    assert sum(report.checks.srm.units.values()) == len(arms)
    assert any("came without a block" in risk for risk in report.decision.risks)
    text, page = to_text(report), to_html(report)
    assert "Blocks of 60 minutes, the first 5 of each left out" in text and "randomisation p" in text
    assert "<h2>Switchback</h2>" in page and "docs/statistics/switchback.md" in text
    assert report.path == [] and report.checks.flagged.primary_with is None
