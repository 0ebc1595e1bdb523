"""What the warehouse holds of a topic: counts and hashes of event ids by partition, block of offsets and hour."""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import msgspec

from analytics.kafka.committed_part import BLOCK
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import DAYS, FIRST_DAY, MILLISECONDS_PER_DAY

HOUR_US = 3_600_000_000
# Partition, number of the block of offsets, hours since 1970.
Key = tuple[int, int, int]

# The offsets stand in arrays by partition. `day` is the day in the id: it spares the query all other days of the table.
AT = "arrayElement({%s:Array(Int64)}, log_partition + 1)"
WHERE = f"""day IN {{days:Array(Date)}} AND log_name = {{log_name:String}} AND log_partition >= 0
    AND log_offset >= {AT % "starts"} AND log_offset < {AT % "ends"}"""
# The two halves of the id as numbers, most significant byte first, as Python's UUID.int has them.
TALLIES = f"""
SELECT log_partition, intDiv(log_offset, {BLOCK}) AS block, intDiv(toUnixTimestamp64Micro(received_at), {HOUR_US}) AS hour, count(),
    groupBitXor(reinterpretAsUInt64(reverse(substring(UUIDToNum(event_id), 1, 8)))),
    groupBitXor(reinterpretAsUInt64(reverse(substring(UUIDToNum(event_id), 9, 8))))
FROM events FINAL WHERE {WHERE} GROUP BY log_partition, block, hour
"""
ROWS = f"SELECT event_id, toUnixTimestamp64Micro(received_at) FROM events FINAL WHERE {WHERE}"
ANYWHERE = """
SELECT event_id, toUnixTimestamp64Micro(min(received_at)) FROM events
WHERE day IN {days:Array(Date)} AND event_id IN (%s) GROUP BY event_id
"""
# In the statement, for parameters travel in the URL: below max_query_size, 256 KiB.
IDS_AT_ONCE = 5_000
TTL = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name IN ('events', 'events_local')"


class Tally(msgspec.Struct):
    """A count of events and the xor of their ids."""

    events: int = 0
    xor: int = 0

    def add(self, event_id: int) -> None:
        """One event more."""
        self.events += 1
        self.xor ^= event_id


def days_of(event_ids: Iterable[int]) -> set[date]:
    """The values of the table's column `day` for these ids."""
    # One number per day that occurs, before anything dear is made of it.
    numbers = {(event_id >> 80) // MILLISECONDS_PER_DAY for event_id in event_ids if event_id >> 76 & 0xF == 7}
    days = {FIRST_DAY + timedelta(days=number % DAYS) for number in numbers if number < DAYS}
    return days | {FIRST_DAY}


class WarehouseSide:
    """Rows of the log `log_name`. `offsets` are per partition [first, after the last). Every call may raise OSError and LookupError."""

    def __init__(self, warehouse: Warehouse, log_name: str) -> None:
        self.warehouse, self.log_name = warehouse, log_name

    def tallies(self, offsets: Mapping[int, tuple[int, int]], days: Collection[date]) -> dict[Key, Tally]:
        """Of the rows that a report would count, by partition, block and hour."""
        rows = self.warehouse.query(TALLIES, self._parameters(offsets, days))
        return {(partition, block, hour): Tally(count, high << 64 | low) for partition, block, hour, count, high, low in rows}

    def rows(self, partition: int, start: int, end: int, days: Collection[date]) -> list[tuple[int, int]]:
        """Event id and `received_at` (us since 1970) of each row at these offsets; an id twice where it has two contents."""
        rows = self.warehouse.query(ROWS, self._parameters({partition: (start, end)}, days))
        return [(UUID(str(event_id)).int, received) for event_id, received in rows]

    def anywhere(self, event_ids: Collection[int]) -> dict[int, int]:
        """When those of these events that are in the table at all were first received (us since 1970)."""
        asked, found = list(event_ids), dict[int, int]()
        for start in range(0, len(asked), IDS_AT_ONCE):
            chosen = asked[start : start + IDS_AT_ONCE]
            sql = ANYWHERE % ", ".join(f"'{UUID(int=event_id)}'" for event_id in chosen)
            found |= {UUID(str(event_id)).int: at for event_id, at in self.warehouse.query(sql, {"days": sorted(days_of(chosen))})}
        return found

    def first_day(self, now: datetime) -> date:
        """Events of earlier days are deleted for their age."""
        found = [re.search(r" TTL .*?\+ toIntervalDay\((\d+)\)", text) for (text,) in self.warehouse.query(TTL)]
        kept = min((int(match[1]) for match in found if match), default=None)
        return FIRST_DAY if kept is None else now.astimezone(UTC).date() - timedelta(days=kept)

    def _parameters(self, offsets: Mapping[int, tuple[int, int]], days: Collection[date]) -> dict[str, object]:
        bounds = [offsets.get(partition, (0, 0)) for partition in range(max(offsets, default=0) + 1)]
        return {
            "log_name": self.log_name,
            "days": sorted(days),
            "starts": [start for start, _ in bounds],
            "ends": [end for _, end in bounds],
        }
