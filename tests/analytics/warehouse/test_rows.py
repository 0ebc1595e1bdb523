"""Arrow blocks: origins, refusals that name the column, and days as ClickHouse computes them."""

import random
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from analytics.events import Event, new_id, utc_now
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import RowsRejected, days_of, to_arrow


def event(**fields: Any) -> Event:
    now = utc_now()
    return Event(**{"event_id": new_id(), "kind": "like", "occurred_at": now, "received_at": now} | fields)


def test_origins_come_back(warehouse: Warehouse) -> None:
    events = [event(experiment="origins") for _ in range(3)]
    # Two of them came in one message.
    warehouse.insert_exact("origins:7:41-42", to_arrow(events, log_name="topic/id", partition=7, offsets=[41, 41, 42]))
    warehouse.insert("a-log", 1, 1, [event(experiment="origins")])
    sql = "SELECT log_name, log_partition, log_offset FROM events WHERE experiment = 'origins' ORDER BY 1, 2, 3"
    assert warehouse.query(sql) == [("a-log", -1, -1), ("topic/id", 7, 41), ("topic/id", 7, 41), ("topic/id", 7, 42)]


def test_no_rows_are_no_insert(warehouse: Warehouse) -> None:
    assert to_arrow([]).num_rows == 0 and days_of(to_arrow([])) == set()
    warehouse.insert_exact("nothing", to_arrow([]))
    assert warehouse.query("SELECT count() FROM dirty_days WHERE reason = 'nothing'") == [(0,)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("seed", 2**63),
        ("position", 2**31),
        ("flags", -1),
        ("prompt", "\ud800"),
        ("occurred_at", datetime(2026, 1, 1)),
        ("attributes", {"a": 1}),
    ],
)
def test_what_does_not_fit_is_named(column: str, value: Any) -> None:
    with pytest.raises(RowsRejected, match=f"column {column}: "):
        to_arrow([event(), event(**{column: value})])
    with pytest.raises(ValueError, match="1 offsets for 2 events"):
        to_arrow([event(), event()], offsets=[3])


def test_days_are_those_of_the_table(warehouse: Warehouse) -> None:
    generator = random.Random(5)
    ids = []
    for number in range(300):
        value = bytearray(generator.randbytes(16))
        if number % 3:
            value[6] = 0x70 | value[6] & 15
        if number % 3 == 2:
            value[0] = generator.choice([0, 0, 1, 2, 5, 9])
        ids.append(UUID(bytes=bytes(value)))
    table = to_arrow([event(event_id=each) for each in ids])
    asked = "SELECT DISTINCT toDate(UUIDv7ToDateTime(arrayJoin({ids:Array(UUID)}), 'UTC'))"
    assert days_of(table) == {day for (day,) in warehouse.query(asked, {"ids": ids})}
    assert days_of(table.slice(10, 1)) == {day for (day,) in warehouse.query(asked, {"ids": ids[10:11]})}
