"""Votes as the warehouse counts them, against plain Python over the same events."""

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product

import msgspec

from analytics.events import Event, derived_id, new_id
from analytics.experiment import Exclusion, Experiment, Metric
from analytics.report.build import rebuild, report_now
from analytics.report.page import to_html
from analytics.report.text import to_text
from analytics.warehouse.client import Warehouse
from analytics.warehouse.duels import read_duels
from analytics.warehouse.source import Source, current_source

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ARMS = {"zebra": 0.25, "a": 0.25, "m|x": 0.25, "quiet": 0.25}


def experiment(**changes: object) -> Experiment:
    given = {"route": "hero", "arms": ARMS, "control": "a", "primary": "preferred", "design": "duel"}
    return Experiment(**(given | changes))  # type: ignore[arg-type]


def vote(name: str, number: int, winner: str, loser: str, *, unit: str, **changes: object) -> Event:
    at = START + timedelta(minutes=number)
    generation = changes.pop("generation", None) or new_id()
    attributes = {"loser_arm": loser, "loser_generation_id": str(generation), **changes.pop("attributes", {})}  # type: ignore[dict-item]
    fields = {"value": 1.0, "position": number % 2, "arm": winner, "unit": unit, "generation_id": generation, "experiment": name} | changes
    return Event(
        event_id=derived_id(at, name, str(number)), kind="preference", occurred_at=at, received_at=at, attributes=attributes, **fields
    )


def put(warehouse: Warehouse, name: str, events: list[Event]) -> None:
    warehouse.insert(name, 1, len(events), events)


def test_counts_and_products_of_raters(warehouse: Warehouse) -> None:
    chance, name, known = random.Random(3), "random", ["a", "m|x", "zebra"]
    events, votes = [], []
    for number in range(400):
        winner, loser = chance.sample(known, 2)
        unit, rater = f"u{chance.randrange(25)}", chance.choice([None, f"r{chance.randrange(12)}"])
        tie, place = chance.random() < 0.2, chance.choice([0, 1, None])
        attributes = {} if rater is None else {"rater": rater}
        value = 0.5 if tie else chance.choice([1.0, None])
        events.append(vote(name, number, winner, loser, unit=unit, value=value, position=place, attributes=attributes))
        votes.append((rater or unit, winner, loser, tie, place))
    put(warehouse, name, [*events, *events[:50]])
    found = read_duels(warehouse, current_source(warehouse, name), experiment())
    assert found is not None

    pairs = [("a", "m|x"), ("a", "zebra"), ("m|x", "zebra")]
    held: dict[str, Counter[int]] = defaultdict(Counter)
    sides: dict[str, list[bool]] = defaultdict(list)
    for who, winner, loser, tie, place in votes:
        at = pairs.index((min(winner, loser), max(winner, loser)))
        held[who][3 * at + (2 if tie else 0 if winner < loser else 1)] += 1
        if not tie and place is not None:
            sides[who].append(place == 0)
    total = sum(held.values(), Counter())
    assert [(m.first, m.second) for m in found.meetings] == pairs and found.votes == 400
    for at, m in enumerate(found.meetings):
        assert (m.won, m.lost, m.tied) == tuple(total[3 * at + outcome] for outcome in range(3))
        assert m.raters == sum(any(own[3 * at + o] for o in range(3)) for own in held.values())
    assert found.raters == len(held) and found.raters_of["quiet"] == 0
    assert found.raters_of["a"] == sum(any(own[cell] for cell in range(6)) for own in held.values())
    wanted: Counter[tuple[int, int]] = Counter()
    for own in held.values():
        wanted.update({(x, y): own[x] * own[y] for x, y in product(own, own) if x <= y})
    assert {(x, y): count for x, y, count in found.products} == wanted
    own = [(sum(row), len(row)) for row in sides.values()]
    assert (found.sides.raters, found.sides.left, found.sides.decided) == (len(own), sum(x for x, _ in own), sum(n for _, n in own))
    squares = (found.sides.left_squares, found.sides.left_decided, found.sides.decided_squares)
    assert squares == (sum(x * x for x, _ in own), sum(x * n for x, n in own), sum(n * n for _, n in own))


def test_what_is_no_vote(warehouse: Warehouse) -> None:
    name, twice, before = "no-votes", new_id(), START + timedelta(hours=2)
    events = [
        vote(name, 1, "a", "zebra", unit="u1", generation=twice),
        # The same person on the same two pictures: the last counts.
        vote(name, 2, "zebra", "a", unit="u1", generation=twice),
        vote(name, 3, "a", "a", unit="u2"),
        vote(name, 4, "a", "unknown", unit="u2"),
        vote(name, 5, "a", "zebra", unit="u2", attributes={"loser_generation_id": str(new_id())}),
        vote(name, 6, "a", "zebra", unit="u2", flags=1),
        vote(name, 7, "a", "zebra", unit="u2", attributes={"rater": "bot-7"}),
        vote(name, 300, "a", "zebra", unit="late"),
    ]
    put(warehouse, name, events)
    found = read_duels(warehouse, Source(name, before, False, None), experiment(exclude=Exclusion(units=("bot-*",))))
    assert found is not None
    assert [(m.first, m.second, m.won, m.lost, m.tied, m.raters) for m in found.meetings] == [("a", "zebra", 0, 1, 0, 1)]
    later = read_duels(warehouse, current_source(warehouse, name, flagged=True), experiment())
    assert later is not None and (later.meetings[0].won, later.meetings[0].lost) == (3, 1)


def test_nobody_voted(warehouse: Warehouse) -> None:
    assert read_duels(warehouse, current_source(warehouse, "nothing"), experiment()) is None


def test_a_vote_for_the_left_picture(warehouse: Warehouse) -> None:
    put(warehouse, "left", [vote("left", 2, "a", "zebra", unit="u", position=0), vote("left", 3, "zebra", "a", unit="u", position=1)])
    found = read_duels(warehouse, current_source(warehouse, "left"), experiment())
    assert found is not None and (found.sides.left, found.sides.decided) == (1, 2)


def test_a_report_of_contradictory_duels(warehouse: Warehouse) -> None:
    """a beats m|x beats zebra beats a, 30 raters each, 4 of whom voted the other way; who trained an arm has no vote."""
    name = "circle"
    steps = [("a", "m|x"), ("m|x", "zebra"), ("zebra", "a")]
    events = []
    for number in range(91):
        winner, loser = steps[number % 3] if number >= 12 else steps[number % 3][::-1]
        unit, at = f"c{number}", START + timedelta(minutes=number)
        events.append(
            Event(event_id=derived_id(at, name, unit), kind="exposure", occurred_at=at, received_at=at, experiment=name, unit=unit)
        )
        events.append(vote(name, number, winner, loser, unit=unit, variant_digest=f"d{winner}"))
        generation = events[-1].generation_id
        shown = {
            "kind": "image",
            "occurred_at": at,
            "received_at": at,
            "experiment": name,
            "unit": unit,
            "generation_id": generation,
            "grid": 2,
        }
        events += [
            Event(event_id=new_id(), image_id=new_id(), position=place, arm=arm, variant_digest=f"d{arm}", **shown)
            for place, arm in enumerate((winner, loser))
        ]
    trained = Event(event_id=new_id(), kind="trained", occurred_at=START, received_at=START, unit="c90", variant_digest="da")
    put(warehouse, name, [*events, trained])
    given = experiment(minimum_units=10)
    report = report_now(warehouse, name, given, {"preferred": Metric(kind="proportion", event="preference")})
    assert report.board is not None
    assert [(e.first, e.second, e.won, e.lost) for e in report.board.encounters] == [
        ("a", "m|x", 26, 4), ("a", "zebra", 4, 26), ("m|x", "zebra", 26, 4),
    ]  # fmt: skip
    assert [circle.arms for circle in report.board.circles] == [["a", "m|x", "zebra"]]
    assert any("contradict each other" in risk for risk in report.decision.risks)
    assert {s.arm: s.why for s in report.board.standings}["quiet"] == "no votes"
    assert "docs/statistics/duels.md" in report.formulas.values()
    assert msgspec.json.encode(rebuild(report)) == msgspec.json.encode(report)
    assert "Board: 90 votes of 90 raters; Bradley-Terry" in to_text(report) and "<h2>Board</h2>" in to_html(report)
