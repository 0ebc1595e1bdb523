"""Pictures by place, against sums written in Python from the same events."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from analytics.events import Event, new_id
from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import Crossed, PlaceFacts
from analytics.report.build import build_report, rebuild
from analytics.warehouse import places
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import read_facts
from analytics.warehouse.places import read_places
from analytics.warehouse.source import Source

START = datetime(2026, 4, 1, tzinfo=UTC)
ARMS = {"base": 0.5, "vivid": 0.5}
METRICS = {"click_rate": Metric(kind="proportion", event="click", where={"screen": ("home", "editor")})}
EXPERIMENT = Experiment(route="hero", arms=ARMS, control="base", primary="click_rate", design="interleave")


def event(kind: str, at: datetime, **fields: object) -> Event:
    return Event(**({"event_id": new_id(), "kind": kind, "occurred_at": at, "received_at": at} | fields))  # type: ignore[arg-type]


def put(warehouse: Warehouse, events: list[Event]) -> None:
    at = warehouse.position("places")
    warehouse.insert("places", at + 1, at + len(events), events)


def source(name: str, as_of: datetime | None = None) -> Source:
    return Source(name, as_of, False, None)


def mixed_grids(name: str, chance: random.Random) -> tuple[list[Event], list[tuple[str, int, int, str, str, datetime, bool]]]:
    """Events, and (layout, grid, cell, arm, unit, shown at, clicked) of each picture that counts."""
    made, pictures = [], []
    for number in range(240):
        at, unit = START + timedelta(minutes=number), f"u{chance.randrange(40)}"
        grid, layout = chance.choice([(1, ""), (4, ""), (4, ""), (4, "phone"), (2, "")])
        generation = new_id()
        who = {"route": "hero", "experiment": name, "unit": unit, "generation_id": generation, "grid": grid}
        order = random.Random(number).sample(range(grid), grid)
        made.append(event("generation", at, **who, attributes={"order": ",".join(map(str, order))}))
        for cell in range(grid):
            arm, image = chance.choice(list(ARMS)), new_id()
            own = {**who, "arm": arm, "image_id": image, "position": cell}
            made.append(event("image", at, **own, attributes={"layout": layout} if layout else {}))
            clicks = chance.choice([0, 0, 1, 2])
            made += [event("click", at + timedelta(hours=9), **own, attributes={"screen": "home"}) for _ in range(clicks)]
            made.append(event("click", at, **own, attributes={"screen": "other"}))
            if chance.random() < 0.1:
                made.append(event("click", at, **own, attributes={"screen": "home"}, flags=1))
            if grid > 1:
                pictures.append((layout, grid, cell, arm, unit, at, clicks > 0))
    return made, pictures


def crossed(rows: list[tuple[int, str, bool]], entries: int) -> Crossed:
    """From (row, unit, clicked)."""
    per_unit: dict[str, list[int]] = defaultdict(lambda: [0] * entries)
    for row, unit, clicked in rows:
        per_unit[unit][2 * row] += 1
        per_unit[unit][2 * row + 1] += clicked
    totals = [sum(one[i] for one in per_unit.values()) for i in range(entries)]
    products = [(i, j, sum(one[i] * one[j] for one in per_unit.values())) for i in range(entries) for j in range(i, entries)]
    return Crossed(totals=totals, products=[product for product in products if product[2]])


def test_counts_and_cross_products_per_unit_equal_those_of_python(warehouse: Warehouse) -> None:
    made, pictures = mixed_grids("mixed", random.Random(4))
    put(warehouse, made)
    put(warehouse, made[:100])
    found = read_places(warehouse, source("mixed"), EXPERIMENT, METRICS)
    assert isinstance(found, PlaceFacts)
    assert (found.event, found.one_in, found.left_out) == ("click", 1, 0)
    times = sorted(at for *_, at, _ in pictures)
    assert found.split_at == times[(len(times) - 1) // 2]
    assert sorted((grid.layout, grid.grid) for grid in found.grids) == [("", 2), ("", 4), ("phone", 4)]
    for grid in found.grids:
        here = [picture for picture in pictures if picture[:2] == (grid.layout, grid.grid)]
        assert (grid.pictures, grid.units) == (len(here), len({unit for *_, unit, _, _ in here}))
        arms = [(list(ARMS).index(arm) * grid.grid + cell, unit, got) for _, _, cell, arm, unit, _, got in here]
        assert grid.by_arm == crossed(arms, 4 * grid.grid)
        halves = [((at > found.split_at) * grid.grid + cell, unit, got) for _, _, cell, _, unit, at, got in here]
        assert grid.by_half == crossed(halves, 4 * grid.grid)
    assert {order.grid: sum(map(sum, order.counts)) for order in found.orders} == {
        size: sum(grid == size for _, grid, *_ in pictures) for size in (2, 4)
    }
    for order in found.orders:
        assert len({sum(row) for row in order.counts}) == 1, "each number stands somewhere in every grid"


def test_an_earlier_report_reads_what_had_come_by_then(warehouse: Warehouse) -> None:
    made, _ = mixed_grids("earlier", random.Random(8))
    put(warehouse, made)
    found = read_places(warehouse, source("earlier", START + timedelta(hours=1)), EXPERIMENT, METRICS)
    assert found is not None
    shown = [e for e in made if e.kind == "image" and e.grid and e.grid > 1 and e.received_at <= START + timedelta(hours=1)]
    assert sum(grid.pictures for grid in found.grids) == len(shown)
    assert all(got == 0 for grid in found.grids for got in grid.by_arm.totals[1::2]), "the clicks came nine hours later"


def test_what_does_not_count_is_left_out(warehouse: Warehouse) -> None:
    who = {"route": "hero", "experiment": "left", "unit": "u", "arm": "base", "generation_id": new_id()}
    good = event("image", START, **who, grid=2, position=1, image_id=new_id())
    bad = [
        event("image", START, **who, grid=2, position=2, image_id=new_id()),
        event("image", START, **who, grid=2, position=0, image_id=new_id(), status="failed"),
        event("image", START, **who, grid=2, position=0, image_id=new_id(), attributes={"washout": "true"}),
        event("image", START, **{**who, "arm": "gone"}, grid=2, position=0, image_id=new_id()),
        event("image", START, **who, grid=2, position=0, image_id=new_id(), flags=1),
        event("image", START, **who, grid=1000, position=0, image_id=new_id()),
        event("generation", START, **who, grid=2, attributes={"order": "1,1"}),
    ]
    put(warehouse, [good, *bad])
    found = read_places(warehouse, source("left"), EXPERIMENT, METRICS)
    assert found is not None
    assert [(grid.grid, grid.pictures, grid.by_arm.totals) for grid in found.grids] == [(2, 1, [0, 0, 1, 0, 0, 0, 0, 0])]
    assert found.orders == []


def test_many_pictures_are_read_of_a_share_of_the_units(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    made, pictures = mixed_grids("many", random.Random(15))
    put(warehouse, made)
    monkeypatch.setattr(places, "MOST_PICTURES", len(pictures) // 2)
    found = read_places(warehouse, source("many"), EXPERIMENT, METRICS)
    assert found is not None
    assert found.one_in == 3 if len(pictures) % 2 else found.one_in == 2
    assert 0 < sum(grid.pictures for grid in found.grids) < len(pictures)


def test_no_grids_or_no_event_of_pictures_give_nothing(warehouse: Warehouse) -> None:
    who = {"route": "hero", "experiment": "single", "unit": "u", "arm": "base", "generation_id": new_id()}
    put(warehouse, [event("image", START, **who, grid=1, position=0, image_id=new_id())])
    assert read_places(warehouse, source("single"), EXPERIMENT, METRICS) is None
    assert read_places(warehouse, source("nowhere"), EXPERIMENT, METRICS) is None
    votes = {"click_rate": Metric(kind="mean", event="preference")}
    assert read_places(warehouse, source("mixed"), EXPERIMENT, votes) is None
    assert read_places(warehouse, source("mixed"), EXPERIMENT, {}) is None


def test_a_report_from_the_warehouse_has_them_now_and_as_of_then(warehouse: Warehouse) -> None:
    made, _ = mixed_grids("reported", random.Random(23))
    units = {e.unit: e.arm for e in made if e.kind == "image"}
    exposures = [event("exposure", START, route="hero", experiment="reported", unit=u, arm=a, propensity=0.5) for u, a in units.items()]
    put(warehouse, [*exposures, *made])
    split = Experiment(route="hero", arms=ARMS, control="base", primary="click_rate")
    now = read_facts(warehouse, "reported", split, METRICS)
    assert now.places == read_places(warehouse, source("reported"), split, METRICS)
    end = START + timedelta(days=2)
    assert read_facts(warehouse, "reported", split, METRICS, end).places == now.places
    report = build_report("reported", split, METRICS, now, end)
    assert report.position is not None and len(report.position.grids) == 3 and report.checks.position is not None
    assert rebuild(report) == report
