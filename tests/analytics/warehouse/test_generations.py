"""A second generation of tables: filled beside the first, put in its place, views and erasure with it; every step cut and repeated."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics.events import Event, derived_id
from analytics.warehouse import generations
from analytics.warehouse.client import Warehouse
from analytics.warehouse.generations import (
    GenerationGone,
    abandon_generation,
    begin_generation,
    building_generation,
    copy_unreplayed,
    drop_old_generation,
    insert_generation,
    live_generation,
    swap_generation,
)
from analytics.warehouse.rollups import dirty_days, rebuild_dirty
from analytics.warehouse.rows import to_arrow

START = datetime(2026, 3, 1, tzinfo=UTC)
TOPIC = "events/topic-id"


@pytest.fixture
def server(clickhouse_url: str) -> Iterator[Warehouse]:
    opened = Warehouse.open(clickhouse_url)
    opened.migrate()
    yield opened
    opened.close()


def event(number: int, **fields: Any) -> Event:
    at = START + timedelta(hours=number)
    known: dict[str, Any] = {"event_id": derived_id(at, str(number)), "occurred_at": at, "received_at": at, "propensity": 0.5}
    return Event(**{**known, "kind": "exposure", "experiment": "e", "arm": "a", "unit": f"u{number}"} | fields)


def records(events: Sequence[Event], first: int, partition: int = 0) -> Any:
    return to_arrow(events, log_name=TOPIC, partition=partition, offsets=range(first, first + len(events)))


def arms(warehouse: Warehouse) -> dict[str, str]:
    """Per unit, as the view's states have it."""
    return dict(warehouse.query("SELECT unit, argMinMerge(first_arm) FROM exposures GROUP BY unit"))  # type: ignore[arg-type]


def rows(warehouse: Warehouse) -> dict[str, str]:
    return dict(warehouse.query("SELECT unit, arm FROM events FINAL"))  # type: ignore[arg-type]


def test_a_backfill_replaces_what_was_replayed_and_keeps_all_else(server: Warehouse) -> None:
    old = [event(n, arm="wrong") for n in range(40)]
    server.insert_exact("t:0-39", records(old, 0))
    server.insert("local", 1, 2, [event(100, unit="local-1"), event(101, unit="local-2")])
    rebuild_dirty(server)
    assert (live_generation(server), building_generation(server)) == (1, None)

    generation = begin_generation(server)
    assert generation == 2 == begin_generation(server) == building_generation(server)
    # Kafka still has offsets 20 to 39; decoded rightly now.
    right = [event(n, arm="right") for n in range(20, 40)]
    for _ in range(2):
        insert_generation(server, generation, "t:20-39", records(right, 20))
    assert copy_unreplayed(server, generation, TOPIC, {0: (20, 39)}) == 22
    assert copy_unreplayed(server, generation, TOPIC, {0: (20, 39)}) == 0
    # Meanwhile the sink goes on, into the tables in use.
    server.insert_exact("t:40-44", records([event(n, arm="new") for n in range(40, 45)], 40))
    assert set(rows(server).values()) == {"wrong", "a", "new"}

    for _ in range(2):
        swap_generation(server, generation)
    assert (live_generation(server), building_generation(server)) == (2, None)
    server.insert_exact("t:45-46", records([event(n, arm="newer") for n in range(45, 47)], 45))
    for expected in (5, 0):
        assert copy_unreplayed(server, generation, TOPIC, {0: (20, 39)}) == expected
    for _ in range(2):
        drop_old_generation(server, generation)
    wanted = {f"u{n}": "wrong" for n in range(20)} | {f"u{n}": "right" for n in range(20, 40)}
    wanted |= {f"u{n}": "new" for n in range(40, 45)} | {"u45": "newer", "u46": "newer", "local-1": "a", "local-2": "a"}
    assert rows(server) == wanted == arms(server)
    assert server.query("SELECT count() FROM events") == [(len(wanted),)]
    # The view feeds from the tables now in use, after the old ones are gone, too.
    server.insert_exact("t:47-47", records([event(47, arm="last")], 47))
    assert arms(server) == wanted | {"u47": "last"}
    rebuild_dirty(server)
    assert dirty_days(server) == []
    assert dict(server.query("SELECT unit, arm FROM unit_daily")) == wanted | {"u47": "last"}  # type: ignore[arg-type]
    with pytest.raises(GenerationGone, match="nothing to copy from"):
        copy_unreplayed(server, generation, TOPIC, {})
    # And a third, to be dropped unused.
    third = begin_generation(server)
    assert third == 3
    abandon_generation(server, third)
    abandon_generation(server, 2)
    assert (live_generation(server), building_generation(server)) == (2, None)
    assert rows(server) == wanted | {"u47": "last"}


def test_a_token_of_the_tables_in_use_does_not_stop_the_same_range_in_the_next(server: Warehouse) -> None:
    table = records([event(0), event(1)], 0)
    server.insert_exact("t:0-1", table)
    generation = begin_generation(server)
    insert_generation(server, generation, "t:0-1", table)
    swap_generation(server, generation)
    assert len(rows(server)) == 2
    # A sink that was cut before the swap repeats its range: the rows stand twice, and count once.
    server.insert_exact("t:0-1", table)
    assert len(rows(server)) == 2 == len(arms(server))
    assert server.query("SELECT count() FROM events FINAL") == [(2,)]


def test_a_swap_cut_anywhere_is_finished_by_the_next_call(server: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    server.insert_exact("t:0-0", records([event(0, arm="old"), event(1, arm="old", unit="only-old")], 0))
    generation = begin_generation(server)
    insert_generation(server, generation, "t:0-0", records([event(0, arm="new")], 0))

    def broken(*given: Any) -> None:
        raise KeyboardInterrupt

    for name in ("_refill_exposures", "create_like", "mark_days"):
        with monkeypatch.context() as patch:
            patch.setattr(generations, name, broken)
            with pytest.raises(KeyboardInterrupt):
                swap_generation(server, generation)
        assert live_generation(server) == generation
        if name == "_refill_exposures":
            assert rows(server) == {"u0": "new"}
            continue
    swap_generation(server, generation)
    assert rows(server) == {"u0": "new"} == arms(server)


def test_erasure_reaches_the_generation_being_built_and_the_one_before(server: Warehouse) -> None:
    server.insert_exact("t:0-9", records([event(n) for n in range(10)], 0))
    generation = begin_generation(server)
    insert_generation(server, generation, "t:0-9", records([event(n) for n in range(10)], 0))
    receipt = server.erase("u3")
    assert receipt.rows == {"events": 1, "events_next": 1, "exposures": 1, "unit_daily": 0} and receipt.event_rows == 2
    swap_generation(server, generation)
    assert "u3" not in rows(server) and "u3" not in arms(server)
    server.erase("u4")
    assert copy_unreplayed(server, generation, TOPIC, {}) == 0
    assert "u4" not in rows(server) and "u4" not in arms(server)


def test_wrong_generations_are_refused(server: Warehouse) -> None:
    with pytest.raises(GenerationGone, match="none is"):
        insert_generation(server, 2, "t", records([event(0)], 0))
    generation = begin_generation(server)
    with pytest.raises(GenerationGone, match="generation 2 is"):
        swap_generation(server, 7)
    with pytest.raises(GenerationGone, match="swap first"):
        drop_old_generation(server, generation)
    swap_generation(server, generation)
    with pytest.raises(OSError, match="finish with drop_old_generation"):
        begin_generation(server)
