"""How near the oldest range that is begun and not done is to being forgotten by the warehouse: past that, repeating it doubles rows
on disk (no report counts them twice, for those read each event once)."""

import re
from datetime import datetime

import msgspec

from analytics.warehouse.client import Warehouse

ENGINES = "SELECT name, engine_full FROM system.tables WHERE database = currentDatabase() AND name IN ('events', 'events_local')"
# Every insert takes a block number in each partition (day) that it touches, and a token there. What merged since counts as new:
# replaced parts are still listed for eight minutes, so that younger ranges are counted right and older ones too dear.
BLOCKS_SINCE = """
SELECT sum(last - before) FROM (
    SELECT partition_id, max(max_block_number) AS last,
        maxIf(max_block_number, modification_time < fromUnixTimestamp64Milli({at:Int64})) AS older,
        if(older > 0, older, min(min_block_number) - 1) AS before
    FROM system.parts WHERE database = currentDatabase() AND table = {table:String} GROUP BY partition_id)
"""


class DedupWindow(msgspec.Struct, frozen=True):
    """How many inserts into `table` the warehouse remembers (0: none), and for how long (None: for ever)."""

    table: str
    inserts: int
    seconds: int | None

    def used_ratio(self, inserts_since: int, age_seconds: float) -> float:
        """0: just begun; 1 and more: may be forgotten."""
        by_count = inserts_since / self.inserts if self.inserts else 1.0
        return max(by_count, age_seconds / self.seconds if self.seconds else 0.0)


def dedup_window(warehouse: Warehouse) -> DedupWindow:
    """As the table of events was created. Raises LookupError (no tables), OSError."""
    rows = sorted(warehouse.query(ENGINES), reverse=True)
    for name, engine in rows:
        if "MergeTree" in engine:
            kind = "replicated" if engine.startswith("Replicated") else "non_replicated"
            inserts, seconds = _setting(engine, f"{kind}_deduplication_window"), _setting(engine, "replicated_deduplication_window_seconds")
            # Replicated tables have windows by default: 10,000 inserts, and one hour.
            if kind == "replicated":
                return DedupWindow(name, 10_000 if inserts is None else inserts, 3_600 if seconds is None else seconds)
            return DedupWindow(name, inserts or 0, None)
    raise LookupError(f"the warehouse {warehouse.shown} has no tables yet; run `salon migrate`")


def inserts_since(warehouse: Warehouse, table: str, at: datetime) -> int:
    """At most how many inserts, of all sinks, the table took after `at`, counted once for each day that they touch."""
    ((count,),) = warehouse.query(BLOCKS_SINCE, {"table": table, "at": int(at.timestamp() * 1000)})
    return int(count or 0)


def _setting(engine: str, name: str) -> int | None:
    found = re.search(rf"\b{name} = (\d+)", engine)
    return int(found[1]) if found else None
