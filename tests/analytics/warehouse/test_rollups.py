"""unit_daily against a count in Python of everything that was ever inserted, under duplicates, late events, erasure, cuts, threads."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analytics.events import Event, derived_id, new_id, utc_now
from analytics.warehouse import rollups
from analytics.warehouse.client import Retention, Warehouse
from analytics.warehouse.rollups import dirty_days, rebuild_dirty
from analytics.warehouse.rows import microseconds, to_arrow

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = "experiment, kind, arm, day, unit, n, flagged, valued, value, first_at, last_at"
Key = tuple[str, str, str, date, str]


def event(number: int, experiment: str, **fields: Any) -> Event:
    """Its day, id and place follow from `number`."""
    at = START + timedelta(hours=7 * number)
    known = {"event_id": derived_id(at, experiment, str(number)), "kind": ("like", "view")[number % 2], "unit": f"u{number % 3}"}
    return Event(
        **{"occurred_at": at, "received_at": at + timedelta(seconds=1), "experiment": experiment, "arm": "ab"[number % 2]} | known | fields
    )


def counted(events: Sequence[Event]) -> dict[Key, tuple[Any, ...]]:
    """By hand: of each id the first to be received, then sums by unit and day."""
    first: dict[Any, Event] = {}
    for each in events:
        if each.event_id not in first or each.received_at < first[each.event_id].received_at:
            first[each.event_id] = each
    rows: dict[Key, list[Event]] = defaultdict(list)
    for each in first.values():
        day = datetime.fromtimestamp((each.event_id.int >> 80) / 1000, UTC).date()
        rows[each.experiment, each.kind, each.arm, day, each.unit].append(each)
    result = {}
    for key, all_of_them in rows.items():
        good = [e for e in all_of_them if not e.flags]
        times = [min(microseconds(e.occurred_at), microseconds(e.received_at)) for e in good]
        value = sum(1.0 if e.value is None else e.value for e in good)
        valued = sum(e.value is not None for e in good)
        result[key] = (len(good), len(all_of_them) - len(good), valued, value, min(times, default=0), max(times, default=0))
    return result


def rolled_up(warehouse: Warehouse, experiment: str) -> dict[Key, tuple[Any, ...]]:
    rows = warehouse.query(f"SELECT {COLUMNS} FROM unit_daily WHERE experiment = {{e:String}}", {"e": experiment})
    found: dict[Key, tuple[Any, ...]] = {tuple(row[:5]): tuple(row[5:]) for row in rows}  # type: ignore[misc]
    assert len(found) == len(rows)
    return found


def insert(warehouse: Warehouse, events: Sequence[Event]) -> None:
    warehouse.insert_exact(str(new_id()), to_arrow(events))


def settle(warehouse: Warehouse) -> None:
    for _ in range(5):
        rebuild_dirty(warehouse, lease_seconds=0)
        if not dirty_days(warehouse):
            return
    raise AssertionError(f"still dirty: {dirty_days(warehouse)}")


NUMBERS = st.lists(st.integers(0, 8), min_size=1, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), NUMBERS),
        st.tuples(st.just("again, later"), NUMBERS),
        st.tuples(st.just("flagged"), NUMBERS),
        st.tuples(st.just("erase"), st.integers(0, 2)),
        st.tuples(st.just("rebuild"), st.integers(1, 3)),
    ),
    min_size=3,
    max_size=8,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_rollup_is_the_count_of_all_events_in_any_order(warehouse: Warehouse, steps: list[tuple[str, Any]]) -> None:
    experiment = str(new_id())
    everything: list[Event] = []
    for what, given_ in steps:
        if what == "erase":
            unit = f"u{given_} of {experiment}"
            warehouse.erase(unit)
            everything = [each for each in everything if each.unit != unit]
            assert not any(key[4] == unit for key in rolled_up(warehouse, experiment))
        elif what == "rebuild":
            rebuild_dirty(warehouse, given_, lease_seconds=0)
        else:
            fields: dict[str, Any] = {"value": 2.5} if what == "flagged" else {}
            events = [
                event(n, experiment, **fields, unit=f"u{n % 3} of {experiment}", flags=int(what == "flagged" and n > 4)) for n in given_
            ]
            if what == "again, later":
                late = [each.received_at + timedelta(hours=1) for each in events]
                events = [
                    event(n, experiment, unit=f"u{n % 3} of {experiment}", received_at=at, value=99.0)
                    for n, at in zip(given_, late, strict=True)
                ]
            # Of rows with one id and one time of receipt, the last inserted stays: let those be equal.
            known = {(each.event_id, each.received_at) for each in everything}
            events = [each for each in events if (each.event_id, each.received_at) not in known]
            events = list({each.event_id: each for each in events}.values())
            if events:
                insert(warehouse, events)
                insert(warehouse, events)
            everything += events
    settle(warehouse)
    assert rolled_up(warehouse, experiment) == counted(everything)


def test_only_the_days_of_new_events_are_rebuilt_and_a_late_event_marks_its_own_day(warehouse: Warehouse) -> None:
    settle(warehouse)
    first = event(0, "days")
    insert(warehouse, [first, event(8, "days")])
    assert dirty_days(warehouse) == [date(2026, 3, 1), date(2026, 3, 3)]
    assert rebuild_dirty(warehouse, 1) == [date(2026, 3, 1)]
    assert rebuild_dirty(warehouse) == [date(2026, 3, 3)]
    late = event(1, "days", received_at=utc_now())
    insert(warehouse, [late])
    assert dirty_days(warehouse) == [date(2026, 3, 1)]
    assert rebuild_dirty(warehouse) == [date(2026, 3, 1)] and rebuild_dirty(warehouse) == []
    assert rolled_up(warehouse, "days") == counted([first, event(8, "days"), late])


def test_an_insert_repeated_under_its_token_leaves_a_clean_day_clean(warehouse: Warehouse) -> None:
    table = to_arrow([event(0, "repeated")])
    warehouse.insert_exact("repeated:1-1", table)
    settle(warehouse)
    warehouse.insert_exact("repeated:1-1", table)
    assert dirty_days(warehouse) == []


def test_a_day_whose_events_are_all_gone_has_no_rollup(warehouse: Warehouse) -> None:
    insert(warehouse, [event(100, "gone", unit="only")])
    settle(warehouse)
    assert len(rolled_up(warehouse, "gone")) == 1
    with warehouse.connections.client() as client:
        client.command("ALTER TABLE events DELETE WHERE experiment = 'gone'", settings={"mutations_sync": 2})
        rollups.mark_days(client, [event(100, "gone").received_at.date()], "by hand")
    settle(warehouse)
    assert rolled_up(warehouse, "gone") == {}


@pytest.mark.parametrize("cut", ["create_like", "_fill", "drop", "clear_reasons"])
def test_a_rebuild_cut_anywhere_leaves_the_day_dirty_and_the_next_one_finishes(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    settle(warehouse)
    events = [event(n, f"cut {cut}") for n in range(3)]
    insert(warehouse, events)
    dirty = dirty_days(warehouse)
    for after in (False, True):
        true, count = getattr(rollups, cut), 0

        def broken(*given_: Any, true: Any = true, after: bool = after) -> Any:
            nonlocal count
            count += 1
            if after:
                true(*given_)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(rollups, cut, broken)
            with pytest.raises(KeyboardInterrupt):
                rebuild_dirty(warehouse, lease_seconds=0)
        assert count >= 1
        assert set(dirty_days(warehouse)) == set(dirty)
    settle(warehouse)
    assert rolled_up(warehouse, f"cut {cut}") == counted(events)
    left = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE 'unit_daily_%'"
    rollups.drop_abandoned(warehouse, -60)
    assert warehouse.query(left) == [(0,)]


def test_a_day_that_gets_events_while_it_is_rebuilt_stays_dirty(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(warehouse)
    early, meanwhile = event(0, "meanwhile"), event(1, "meanwhile")
    insert(warehouse, [early])
    fill = rollups._fill

    def slow(*given_: Any) -> None:
        fill(*given_)
        insert(warehouse, [meanwhile])

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "_fill", slow)
        assert rebuild_dirty(warehouse) == []
    assert dirty_days(warehouse) == [START.date()]
    assert rebuild_dirty(warehouse) == [START.date()]
    assert rolled_up(warehouse, "meanwhile") == counted([early, meanwhile])


def test_a_slow_rebuild_that_undoes_a_later_one_is_noticed(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(warehouse)
    early, later = event(0, "undone"), event(1, "undone")
    insert(warehouse, [early])
    fill = rollups._fill

    def paused(*given_: Any) -> None:
        fill(*given_)
        with monkeypatch.context() as inner:
            inner.setattr(rollups, "_fill", fill)
            # Without a lease this rebuild's own table counts as abandoned once it is a second old.
            inner.setattr(rollups, "drop_abandoned", lambda *given_: None)
            assert rebuild_dirty(warehouse, lease_seconds=900) == []  # the lease holds
            insert(warehouse, [later])
            assert rebuild_dirty(warehouse, lease_seconds=0) == [START.date()]  # it has run out
        assert rolled_up(warehouse, "undone") == counted([early, later])

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "_fill", paused)
        assert rebuild_dirty(warehouse) == []
    assert rolled_up(warehouse, "undone") == counted([early])
    settle(warehouse)
    assert rolled_up(warehouse, "undone") == counted([early, later])


def test_an_erasure_while_a_day_is_rebuilt_is_not_undone(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(warehouse)
    insert(warehouse, [event(0, "erased", unit="forget-me"), event(1, "erased")])
    fill = rollups._fill

    def slow(*given_: Any) -> None:
        fill(*given_)
        warehouse.erase("forget-me")

    with monkeypatch.context() as patch:
        patch.setattr(rollups, "_fill", slow)
        assert rebuild_dirty(warehouse) == []
    settle(warehouse)
    assert rolled_up(warehouse, "erased") == counted([event(1, "erased")])


def test_threads_that_insert_and_rebuild_at_once(warehouse: Warehouse) -> None:
    settle(warehouse)
    events = [event(n % 15, "threads", event_id=derived_id(START + timedelta(hours=7 * (n % 15)), f"t{n}")) for n in range(90)]
    failures: list[BaseException] = []
    done = threading.Event()

    def inserting(part: list[Event]) -> None:
        try:
            for each in part:
                insert(warehouse, [each])
        except BaseException as error:
            failures.append(error)

    def rebuilding() -> None:
        try:
            while not done.is_set():
                rebuild_dirty(warehouse)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=inserting, args=(events[i::2],)) for i in range(2)]
    builders = [threading.Thread(target=rebuilding) for _ in range(2)]
    for thread in writers + builders:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in builders:
        thread.join()
    assert failures == []
    # Marks alone decide what is rebuilt now: a lost one would show.
    settle(warehouse)
    assert rolled_up(warehouse, "threads") == counted(events)


def test_a_rollup_outlives_its_events(warehouse: Warehouse) -> None:
    settle(warehouse)
    old = event(0, "retained", event_id=derived_id(utc_now() - timedelta(days=40), "old"))
    insert(warehouse, [old])
    settle(warehouse)
    before = rolled_up(warehouse, "retained")
    assert len(before) == 1
    assert warehouse.migrate(Retention(events_days=30)) == ["events go after 30 days"]
    try:
        late = event(0, "retained", event_id=derived_id(utc_now() - timedelta(days=40), "late"))
        insert(warehouse, [late])
        settle(warehouse)
        assert rolled_up(warehouse, "retained") == before
    finally:
        assert warehouse.migrate(Retention()) == ["events are kept for ever"]
