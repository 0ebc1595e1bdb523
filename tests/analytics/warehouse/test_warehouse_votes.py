"""Votes between arms of one grid as the warehouse counts them, against plain Python over the same events; and the report of them."""

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import combinations

import numpy as np
import pytest

from analytics.events import Event, derived_id, new_id
from analytics.experiment import Exclusion, Experiment, Guardrail, Metric
from analytics.report.build import build_report, rebuild
from analytics.report.page import to_html
from analytics.report.text import to_text
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import read_facts

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ARMS = {"base": 0.25, "bold": 0.25, "calm": 0.25, "gone": 0.25}
METRICS = {
    "liked": Metric(kind="proportion", event="like"),
    "likes_soon": Metric(kind="mean", event="like", window_hours=1.0),
    "clicks": Metric(kind="ratio", event="click", denominator="view", where={"how": "tap"}),
    "stars": Metric(kind="mean", event="rating", per="event"),
    "preferred": Metric(kind="proportion", event="preference"),
}


class Log:
    """Events of one experiment, and for plain Python the same as tuples."""

    def __init__(self, name: str) -> None:
        self.name, self.events, self.number = name, list[Event](), 0

    def add(self, kind: str, at: datetime, **fields: object) -> None:
        self.number += 1
        identity = derived_id(at, self.name, str(self.number))
        given = {"experiment": self.name, "route": "hero", "occurred_at": at, "received_at": at} | fields
        self.events.append(Event(event_id=identity, kind=kind, **given))  # type: ignore[arg-type]

    def grid(self, at: datetime, unit: str, arms: list[str], *, design: str = "interleave") -> list[tuple[str, object, object]]:
        """Exposure, generation and pictures; (arm, image, generation) of each picture."""
        generation = new_id()
        self.add("exposure", at, unit=unit, arm="")
        noted = {"arms": ",".join(arms)} | ({"pair": "|".join(sorted(set(arms)))} if design == "duel" else {})
        self.add("generation", at, unit=unit, arm="", generation_id=generation, grid=len(arms), status="ok", attributes=noted)
        shown = []
        for place, arm in enumerate(arms):
            image = new_id()
            self.add(
                "image", at, unit=unit, arm=arm, generation_id=generation, image_id=image, position=place, grid=len(arms), propensity=0.5
            )
            shown.append((arm, image, generation))
        return shown

    def put(self, warehouse: Warehouse) -> None:
        warehouse.insert(self.name, 1, len(self.events), self.events)


def experiment(**changes: object) -> Experiment:
    given = {"route": "hero", "arms": ARMS, "control": "bold", "primary": "liked", "design": "interleave"}
    secondary = tuple(name for name in METRICS if name != given["primary"])
    return Experiment(**(given | {"secondary": secondary} | changes))  # type: ignore[arg-type]


def told(votes, chosen):
    """`MetricVotes` of votes (person, arm, arm, outcome of the first), by hand."""
    pairs = {}
    for first, second in combinations(ARMS, 2):
        vs = "bold" if "bold" in (first, second) else first
        arm = second if vs == first else first
        by_person = defaultdict(list)
        for person, a, b, outcome in chosen:
            if {a, b} == {arm, vs}:
                by_person[person].append(outcome if a == arm else 1 - outcome)
        if not by_person:
            continue
        outcomes = Counter(outcome for own in by_person.values() for outcome in own)
        means = sorted(sum(own) / len(own) for own in by_person.values())
        leans = (sum(x > 0.5 for x in means), sum(x < 0.5 for x in means), sum(x == 0.5 for x in means))
        pairs[arm, vs] = (outcomes[1], outcomes[0], outcomes[0.5], *leans, means)
    found = {(p.arm, p.vs): (p.won, p.lost, p.tied, *p.leaning) for p in votes.pairs}
    assert found == {pair: wanted[:6] for pair, wanted in pairs.items()}
    for pair in votes.pairs:
        scores = pairs[pair.arm, pair.vs][6]
        assert [score for score, count in pair.scores for _ in range(count)] == pytest.approx(scores)
        assert (pair.score.n, pair.score.mean) == (len(scores), pytest.approx(np.mean(scores)))
        assert pair.score.m2 == pytest.approx(((np.array(scores) - np.mean(scores)) ** 2).sum(), abs=1e-9)
    assert votes.units == len({person for person, *_ in chosen})
    for arm in ARMS:
        own = defaultdict(list)
        for person, a, b, outcome in chosen:
            if arm in (a, b):
                own[person].append(outcome if a == arm else 1 - outcome)
        if own:
            assert votes.arms[arm].n == len(own)
            assert votes.arms[arm].mean == pytest.approx(np.mean([np.mean(x) for x in own.values()]))


def test_votes_of_events_on_pictures(warehouse: Warehouse) -> None:
    chance, log = random.Random(4), Log("events")
    wanted = {name: [] for name in ("liked", "likes_soon", "clicks", "stars")}
    for number in range(220):
        at, unit = START + timedelta(minutes=number), f"u{chance.randrange(40)}"
        arms = [chance.choice(["base", "bold", "calm"]) for _ in range(chance.choice([2, 3, 4]))]
        pictures = log.grid(at, unit, arms)
        did = {name: defaultdict(list) for name in wanted}
        for arm, image, generation in pictures:
            facts = {"unit": unit, "arm": arm, "image_id": image, "generation_id": generation}
            for _ in range(chance.choice([0, 0, 1, 2])):
                later = at + timedelta(minutes=chance.choice([5, 90]), seconds=chance.randrange(50))
                log.add("like", later, value=chance.choice([None, 1.0]), **facts)
                did["liked"][arm].append((image, 1.0))
                if later - at <= timedelta(hours=1):
                    did["likes_soon"][arm].append((image, 1.0))
            if chance.random() < 0.4:
                how = chance.choice(["tap", "key"])
                log.add("click", at + timedelta(seconds=9), attributes={"how": how}, **facts)
                if how == "tap":
                    did["clicks"][arm].append((image, 1.0))
            if chance.random() < 0.5:
                stars = chance.choice([1.0, 3.0, 5.0])
                log.add("rating", at + timedelta(seconds=20), value=stars, **facts)
                did["stars"][arm].append((image, stars))
        for name, own in did.items():
            for a, b in combinations(sorted(set(arms)), 2):
                sizes = {arm: len(own[arm]) if name == "stars" else arms.count(arm) for arm in (a, b)}
                if not own[a] + own[b] or not all(sizes.values()):
                    continue
                got = {
                    arm: len({image for image, *_ in own[arm]}) if name == "liked" else sum(value for _, value in own[arm])
                    for arm in (a, b)
                }
                left, right = got[a] * sizes[b], got[b] * sizes[a]
                wanted[name].append((unit, a, b, 1 if left > right else 0 if left < right else 0.5))
    log.put(warehouse)
    given = experiment(secondary=("likes_soon", "clicks", "stars"))
    found = read_facts(warehouse, "events", given, METRICS)
    for name, chosen in wanted.items():
        assert len(chosen) > 100
        told(found.preference.votes[name], chosen)
    places = Counter(event.arm for event in log.events if event.kind == "image" and event.position == 0)
    assert [(period.weights, period.units) for period in found.periods] == [(ARMS, {arm: places[arm] for arm in ARMS})]
    generations = {a.arm: a.generations for a in found.arms}
    assert generations["bold"] == sum("bold" in e.attributes["arms"].split(",") for e in log.events if e.kind == "generation")
    assert (found.multiple_exposure, found.generations_without_exposure, found.metrics) == (0, 0, {})


def test_votes_of_preferences(warehouse: Warehouse) -> None:
    """Several raters on one grid, ties, a second thought, two votes on one grid that contradict each other."""
    chance, log, chosen = random.Random(9), Log("preferences"), []
    for number in range(150):
        at, unit = START + timedelta(minutes=number), f"u{number % 30}"
        pictures = log.grid(at, unit, chance.choice([["base", "bold", "bold", "base"], ["calm", "bold", "base"]]))
        for rater in chance.sample([None, "r1", "r2", "bot-3"], 2):
            sides: dict[tuple[str, str], list[float]] = defaultdict(list)
            for again, (one, other) in enumerate(chance.sample(list(combinations(pictures, 2)), 2)):
                value = 0.0
                for thought in range(chance.choice([1, 2])):
                    (arm, image, generation), (loser, loser_image, _) = chance.sample([one, other], 2)
                    tie, when = chance.random() < 0.2, at + timedelta(seconds=10 + 10 * again + thought)
                    noted = {"loser": str(loser_image), "loser_arm": loser, "loser_generation_id": str(generation)}
                    noted |= {"rater": rater} if rater else {}
                    facts = {"unit": unit, "arm": arm, "image_id": image, "generation_id": generation, "attributes": noted}
                    log.add("preference", when, value=0.5 if tie else 1.0, **facts)
                    value = 0 if tie else 1 if arm < loser else -1
                if one[0] != other[0]:
                    sides[min(one[0], other[0]), max(one[0], other[0])].append(value)
            if rater != "bot-3":
                chosen += [(rater or unit, a, b, (1 + np.sign(sum(own))) / 2) for (a, b), own in sides.items()]
    log.put(warehouse)
    given = experiment(primary="preferred", secondary=(), exclude=Exclusion(units=("bot-*",)))
    told(read_facts(warehouse, "preferences", given, METRICS).preference.votes["preferred"], chosen)


def test_report_of_a_duel(warehouse: Warehouse) -> None:
    """Bold is liked better than base by 3 of 4; calm is like bold. The report says so, and is rebuilt bit for bit."""
    chance, log = random.Random(1), Log("duel")
    taste = {"base": 1.0, "bold": 3.0, "calm": 3.0}
    for number in range(450):
        at, unit = START + timedelta(minutes=number), f"u{number % 225}"
        pair = chance.sample(list(taste), 2)
        (a, first, generation), (b, second, _) = log.grid(at, unit, pair, design="duel")
        won = chance.random() < taste[a] / (taste[a] + taste[b])
        noted = {"loser": str(second if won else first), "loser_arm": b if won else a, "loser_generation_id": str(generation)}
        facts = {"unit": unit, "arm": a if won else b, "image_id": first if won else second, "generation_id": generation}
        log.add("preference", at + timedelta(seconds=5), value=1.0, position=0 if won else 1, attributes=noted, **facts)
        log.add("like", at + timedelta(seconds=6), flags=1 if number % 50 == 0 else 0, **{**facts, "arm": a, "image_id": first})
    log.put(warehouse)
    given = experiment(
        arms={"base": 0.34, "bold": 0.33, "calm": 0.33}, control="base", primary="preferred", secondary=(), design="duel",
        guardrails={"failure_rate": Guardrail(margin=0.1)}, planned_units=300,
    )  # fmt: skip
    facts = read_facts(warehouse, "duel", given, METRICS)
    report = build_report("duel", given, METRICS, facts, START + timedelta(days=8))
    assert rebuild(report) == report
    primary, guardrail = report.metrics
    sides = {c.arm: (c.difference.value, c.always_valid.difference_ci, c.p_value) for c in primary.comparisons}
    for net, (low, high), p in sides.values():
        assert 0 < low < 0.5 < high and 0.3 < net < 0.7 and p < 0.001
    assert report.decision.action == "ship" and "of the votes between the two" in report.decision.reason
    assert any("failure_rate is not judged" in risk for risk in report.decision.risks)
    assert [c.ok for c in guardrail.comparisons] == [None, None] and "several arms" in guardrail.comparisons[0].method
    assert report.checks.srm.ok and sum(report.checks.srm.units.values()) == 450
    assert report.preference.units == {"preferred": 225} and len(report.preference.pairs) == 3
    others = next(pair for pair in report.preference.pairs if "base" not in (pair.arm, pair.vs))
    assert others.p_value > 0.01 and others.e_value < 10
    assert {arm.arm: arm.weight for arm in report.arms} == pytest.approx({"base": 1 / 3, "bold": 1 / 3, "calm": 1 / 3})
    assert "<h2>Preference</h2>" in to_html(report)
    assert "Preference" in to_text(report) and "docs/statistics/preference.md" in report.formulas.values()


def test_left_more_often_than_a_coin_says(warehouse: Warehouse) -> None:
    log = Log("left")
    for number in range(300):
        log.grid(START + timedelta(minutes=number), f"u{number}", ["bold", "base"], design="duel")
    log.put(warehouse)
    given = experiment(arms={"base": 0.5, "bold": 0.5}, primary="preferred", secondary=(), design="duel")
    facts = read_facts(warehouse, "left", given, METRICS)
    report = build_report("left", given, METRICS, facts, START + timedelta(days=8))
    assert report.decision.action == "invalid" and facts.preference.votes["preferred"].pairs == []
