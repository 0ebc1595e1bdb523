"""Erasure: every table, checked, with what came after it kept, and known again by its hash alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from analytics.events import Event, derived_id, utc_now
from analytics.warehouse import erasure
from analytics.warehouse.client import Warehouse
from analytics.warehouse.erasure import Erasures, unit_hash
from analytics.warehouse.rollups import rebuild_dirty
from analytics.warehouse.rows import to_arrow

START = datetime(2026, 3, 1, tzinfo=UTC)


def event(number: int, unit: str, arm: str = "a") -> Event:
    at = START + timedelta(hours=number)
    known: dict[str, Any] = {"event_id": derived_id(at, unit, str(number)), "occurred_at": at, "received_at": at, "propensity": 0.5}
    return Event(kind="exposure", experiment="erasure", unit=unit, arm=arm, **known)


def exposures(warehouse: Warehouse, unit: str) -> list[tuple[Any, ...]]:
    sql = "SELECT argMinMerge(first_arm), min(exposed_at), groupUniqArrayMerge(arms) FROM exposures WHERE unit = {u:String} GROUP BY unit"
    return warehouse.query(sql, {"u": unit})


def test_a_receipt_counts_per_table_and_every_table_is_checked(warehouse: Warehouse) -> None:
    unit = "gone'\\"
    warehouse.insert_exact("receipt", to_arrow([event(n, unit) for n in range(30)] + [event(0, "stays")]))
    rebuild_dirty(warehouse)
    receipt = warehouse.erase(unit)
    # 30 hours are two days: two rows of the rollup.
    assert receipt.rows == {"events": 30, "exposures": 1, "unit_daily": 2}
    assert receipt.event_rows == 30 and abs(receipt.at - utc_now()) < timedelta(minutes=1)
    with_unit = "SELECT table FROM system.columns WHERE database = currentDatabase() AND name = 'unit' AND table NOT LIKE '%_view'"
    assert {name for (name,) in warehouse.query(with_unit)} == set(receipt.rows)
    for table in receipt.rows:
        assert warehouse.query(f"SELECT DISTINCT unit FROM {table}") == [("stays",)]
    assert warehouse.erase(unit).rows == {"events": 0, "exposures": 0, "unit_daily": 0}
    # A repeated insert of what was in before does not bring the unit back: neither to events nor to the view's target.
    warehouse.insert_exact("receipt", to_arrow([event(n, unit) for n in range(30)] + [event(0, "stays")]))
    assert exposures(warehouse, unit) == [] and warehouse.query("SELECT DISTINCT unit FROM events") == [("stays",)]


def test_what_came_after_the_erasure_stays_with_its_exposure(warehouse: Warehouse) -> None:
    warehouse.insert_exact("after", to_arrow([event(0, "back", "a"), event(5, "back", "b"), event(9, "back", "c")]))
    at = START + timedelta(hours=5)
    assert warehouse.erase("back", at).event_rows == 2
    assert warehouse.query("SELECT arm FROM events FINAL WHERE unit = 'back'") == [("c",)]
    assert exposures(warehouse, "back") == [("c", int((START + timedelta(hours=9)).timestamp() * 1_000_000), ["c"])]
    assert warehouse.erase("back", at).event_rows == 0
    assert [row[0] for row in exposures(warehouse, "back")] == ["c"]
    found = warehouse.erasures()
    assert found.covers("back", at) and not found.covers("back", at + timedelta(microseconds=1)) and not found.covers("other", at)
    # An older erasure does not take back a newer one.
    warehouse.erase("back", START)
    assert warehouse.erasures().covers("back", at)


def test_an_event_from_a_clock_ahead_of_ours_is_covered_once_it_was_there(warehouse: Warehouse) -> None:
    ahead = utc_now() + timedelta(minutes=3)
    early = Event(
        event_id=derived_id(ahead, "ahead"), kind="like", occurred_at=ahead, received_at=ahead, experiment="erasure", unit="ahead"
    )
    warehouse.insert_exact("ahead", to_arrow([early]))
    receipt = warehouse.erase("ahead")
    assert receipt.event_rows == 1 and receipt.at == ahead
    assert warehouse.erasures().covers("ahead", ahead)


def test_erasures_are_read_again_only_when_there_are_new_ones(warehouse: Warehouse) -> None:
    warehouse.erase("first")
    known = warehouse.erasures()
    assert warehouse.erasures() is known
    warehouse.erase("second")
    assert warehouse.erasures() is not known
    assert len(warehouse.erasures()) == len(known) + 1


def test_the_table_of_erasures_names_nobody(warehouse: Warehouse) -> None:
    warehouse.erase("a-person@example.org")
    ((salt,),) = warehouse.query("SELECT DISTINCT salt FROM erasure_salts")
    hashes = [found for (found,) in warehouse.query("SELECT unit_hash FROM erasures")]
    assert len(salt) == 64 and unit_hash(salt, "a-person@example.org") in hashes
    assert not any("person" in found for found in hashes)


def test_two_salts_from_two_first_migrations_are_both_asked() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    found = Erasures((2, 0), ["s", "t"], [(unit_hash("s", "u"), at), (unit_hash("t", "u"), at + timedelta(days=1))])
    assert found.covers("u", at + timedelta(days=1)) and not found.covers("u", at + timedelta(days=2)) and not found.covers("", at)
    assert not Erasures((0, 0), ["s"], []).covers("u", at)


def test_rows_that_arrive_meanwhile_are_an_error_that_says_where(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.insert_exact("left:1", to_arrow([event(0, "left")]))
    mark = erasure.mark_days

    def meanwhile(*given: Any) -> None:
        mark(*given)
        if given[2].endswith(":after"):
            warehouse.insert_exact("left:2", to_arrow([event(1, "left")]))

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "mark_days", meanwhile)
        with pytest.raises(OSError, match="1 in events, 1 in exposures; erase again") as wrong:
            warehouse.erase("left")
    assert "unit left" not in str(wrong.value)
    assert warehouse.erase("left").event_rows == 1
    with pytest.raises(ValueError, match="empty"):
        warehouse.erase("")
