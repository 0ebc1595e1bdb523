"""Shown pictures joined with their feedback, against joins written in Python."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from analytics.events import Event, derived_id, new_id
from analytics.warehouse.client import Warehouse
from analytics.warehouse.examples import PositionRate, read_image_examples, read_position_rates

START = datetime(2026, 4, 1, tzinfo=UTC)


def put(warehouse: Warehouse, events: list[Event]) -> None:
    at = warehouse.position("examples")
    warehouse.insert("examples", at + 1, at + len(events), events)


def event(kind: str, at: datetime, **fields: object) -> Event:
    return Event(event_id=new_id(), kind=kind, occurred_at=at, received_at=at, **fields)  # type: ignore[arg-type]


def test_one_row_per_shown_picture_with_its_feedback(warehouse: Warehouse) -> None:
    who = {"route": "one", "experiment": "x", "arm": "a", "variant_digest": "d1", "unit": "u"}
    shown = {**who, "propensity": 0.25, "generation_id": new_id(), "grid": 2}
    first, second, failed = new_id(), new_id(), new_id()
    liked = event("like", START + timedelta(seconds=9), **shown, image_id=second)
    made = [
        event("generation", START, **shown, prompt="a red heart", seed=7),
        event("image", START, **shown, image_id=first, position=0, seed=70),
        event("image", START + timedelta(microseconds=1), **shown, image_id=second, position=1),
        event("image", START, **shown, image_id=failed, position=1, status="failed"),
        event("image", START, **{**shown, "route": "another"}, image_id=new_id(), position=0),
        event("image", START, **shown, image_id=new_id(), position=0, flags=1),
        liked,
        event("click", START, **shown, image_id=second),
        event("click", START, **shown, image_id=second, value=2.5),
        event("like", START, **shown, image_id=first, flags=1),
        event("like", START, **shown),
        event("like", START, **{**shown, "route": "another"}, image_id=first),
    ]
    put(warehouse, made)
    put(warehouse, [liked, made[1]])
    a, b = read_image_examples(warehouse, "one")
    assert (a.image_id, a.position, a.seed, a.prompt, a.liked, a.value) == (first, 0, 70, "a red heart", False, {})
    assert (b.image_id, b.position, b.seed, b.prompt, b.liked, b.value) == (second, 1, 7, "a red heart", True, {"like": 1.0, "click": 3.5})
    assert (b.generation_id, b.unit, b.experiment, b.arm, b.variant_digest) == (shown["generation_id"], "u", "x", "a", "d1")
    assert (b.propensity, b.grid, b.shown_at) == (0.25, 2, START + timedelta(microseconds=1))
    assert [e.liked for e in read_image_examples(warehouse, "one", "click")] == [False, True]
    assert [e.liked for e in read_image_examples(warehouse, "one", as_of=START + timedelta(seconds=8))] == [False, False]
    assert read_image_examples(warehouse, "one", as_of=START - timedelta(seconds=1)) == []
    assert len(read_image_examples(warehouse, "one", variant_digest="d1")) == 2
    assert read_image_examples(warehouse, "one", variant_digest="d2") == []
    assert read_image_examples(warehouse, "one", excluded_units=["u"]) == []
    assert read_image_examples(warehouse, "none") == []


def test_position_rates_and_examples_equal_a_join_in_python(warehouse: Warehouse) -> None:
    chance = random.Random(11)
    made: list[Event] = []
    liked: set[UUID] = set()
    images: dict[UUID, tuple[int, int, str]] = {}
    for number in range(300):
        at, grid, generation, unit = START + timedelta(minutes=number), chance.choice([1, 4]), new_id(), f"u{number % 40}"
        for position in range(grid):
            image = derived_id(at, str(position), "image")
            images[image] = (position, grid, unit)
            made.append(event("image", at, route="many", unit=unit, generation_id=generation, image_id=image, position=position, grid=grid))
            for _ in range(chance.randint(0, 2) if chance.random() < 0.5 / (1 + position) else 0):
                liked.add(image)
                made.append(event("like", at, route="many", unit=unit, generation_id=generation, image_id=image))
    chance.shuffle(made)
    liked &= {e.image_id for e in made if e.kind == "like" and e.image_id}
    put(warehouse, made)
    put(warehouse, [msgspec.structs.replace(e, received_at=START + timedelta(days=9)) for e in made[:200]])
    rows = read_image_examples(warehouse, "many")
    assert {e.image_id: (e.position, e.grid, e.unit) for e in rows} == images
    assert len(rows) == len(images)
    assert {e.image_id for e in rows if e.liked} == liked
    assert [e.shown_at for e in rows] == sorted(e.shown_at for e in rows)

    def rates(chosen: dict[UUID, tuple[int, int, str]]) -> list[PositionRate]:
        positions = sorted({p for p, _, _ in chosen.values()})
        by = {k: [i for i, (p, _, _) in chosen.items() if p == k] for k in positions}
        return [PositionRate(position=k, shown=len(v), liked=sum(i in liked for i in v)) for k, v in by.items()]

    assert read_position_rates(warehouse, "many") == rates(images)
    assert read_position_rates(warehouse, "many", grid=4) == rates({i: v for i, v in images.items() if v[1] == 4})
    kept = {i: v for i, v in images.items() if v[2] not in {"u1", "u2"}}
    assert read_position_rates(warehouse, "many", excluded_units={"u1", "u2"}) == rates(kept)
