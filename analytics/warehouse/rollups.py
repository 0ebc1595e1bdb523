"""Daily rollups per unit, rebuilt whole for days that got events: what `unit_daily` says is what `events FINAL` says.

A rebuild reads the reasons why a day is dirty, then the events, puts the day in place in one step, and clears those reasons and
no other: whatever comes meanwhile leaves the day dirty. Cut anywhere, the day is as before or done, and still dirty. Two
rebuilds of one day would undo each other, so each takes a lease first, itself a reason, and leaves the day when it sees another's.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

from analytics.events import new_id, utc_now
from analytics.warehouse.client import INSERT_SETTINGS, QUERY_SETTINGS, Warehouse
from analytics.warehouse.ddl import Layout
from analytics.warehouse.dirty import clear_reasons, mark_days
from analytics.warehouse.generations import create_like, drop
from analytics.warehouse.marks import mark_all
from analytics.warehouse.schema import retained_days

# Longer than a rebuild of one day takes: a lease older than this belongs to a process that died.
LEASE_SECONDS = 900.0
LEASE, PLACED = "lease:", "placed:"
TIME = "least(toUnixTimestamp64Micro(e.occurred_at), toUnixTimestamp64Micro(e.received_at))"
LATE_HOURS = 72
_COLUMNS = (
    "experiment, kind, arm, day, unit, event_id, flags, value, occurred_at, received_at, variant_digest, "
    "status, queue_ms, service_ms, propensity, attributes"
)
# Each event once; flagged ones are counted apart and add to nothing else. Columns are named by their table, since a sum under the
# name of its own column would be taken for it.
_ROLLUP = f"""SELECT e.experiment AS experiment, e.kind AS kind, e.arm AS arm, e.day AS day, e.unit AS unit,
    countIf(e.flags = 0) AS n, countIf(e.flags != 0) AS flagged, countIf(e.flags = 0 AND e.value IS NOT NULL) AS valued,
    sumKahanIf(ifNull(e.value, 1), e.flags = 0) AS value, minIf({TIME}, e.flags = 0) AS first_at, maxIf({TIME}, e.flags = 0) AS last_at,
    groupArrayIf({TIME}, e.flags = 0) AS times, groupArrayIf(ifNull(e.value, nan), e.flags = 0) AS values,
    groupArrayIf({{extra}}, {{has_extra}} AND e.flags = 0) AS extras, countIf({{failed}} AND e.flags = 0) AS failed,
    groupArrayIf({TIME}, e.flags != 0) AS flagged_times, groupArrayIf(ifNull(e.value, nan), e.flags != 0) AS flagged_values,
    groupArrayIf({{extra}}, {{has_extra}} AND e.flags != 0) AS flagged_extras, countIf({{failed}} AND e.flags != 0) AS flagged_failed,
    groupArrayIf(e.flags, e.flags != 0) AS flag_sets,
    countIf(toUnixTimestamp64Micro(e.received_at) - toUnixTimestamp64Micro(e.occurred_at) > {LATE_HOURS * 3_600_000_000}) AS late,
    max(toUnixTimestamp64Micro(e.received_at)) AS last_received,
    argMaxIf(toString(e.variant_digest), ({TIME}, e.event_id), e.variant_digest != '') AS digest,
    maxIf({TIME}, e.variant_digest != '') AS digest_at, {{context}} AS context
FROM (SELECT {{columns}} FROM events FINAL
    WHERE {{where}} AND (unit != '' OR experiment != '') LIMIT 1 BY experiment, event_id) AS e
GROUP BY e.experiment, e.kind, e.arm, e.day, e.unit"""


def rollup(where: str) -> str:
    """SELECT the rows of `unit_daily` from the events that fit `where`. Exposures apart: only they read the map of attributes."""
    other = _ROLLUP.format(
        extra="if(e.status != 'failed', ifNull(e.queue_ms + e.service_ms, nan), nan)",
        has_extra="e.kind = 'generation'",
        failed="e.kind = 'generation' AND e.status = 'failed'",
        context="CAST(map(), 'Map(String, String)')",
        columns=_COLUMNS.partition(", propensity")[0],
        where=f"kind != 'exposure' AND {where}",
    )
    exposures = _ROLLUP.format(
        extra="ifNull(e.propensity, nan)",
        has_extra="1",
        failed="0",
        context=f"argMin(e.attributes, (e.flags != 0, {TIME}, e.event_id))",
        columns=_COLUMNS,
        where=f"kind = 'exposure' AND {where}",
    )
    return f"{other}\nUNION ALL\n{exposures}"


ROLLUP = rollup("day = {day:Date}")


def dirty_days(warehouse: Warehouse) -> list[date]:
    """Days to rebuild, oldest first. Raises LookupError before `migrate`, OSError."""
    return [day for (day,) in warehouse.query("SELECT DISTINCT day FROM dirty_days FINAL WHERE cleared = 0 ORDER BY day")]


def rebuild_dirty(warehouse: Warehouse, limit: int = 100, *, lease_seconds: float = LEASE_SECONDS) -> list[date]:
    """Rebuild at most `limit` dirty days, oldest first. Returns those that are done; one that got events meanwhile stays dirty.

    Days that another process rebuilds now are left to it. Days whose events have gone by retention keep the rollup that they
    have. May be cut anywhere and called by several at once. Blocks. Raises LookupError before `migrate`, OSError.
    """
    drop_abandoned(warehouse, lease_seconds)
    return [day for day in dirty_days(warehouse)[:limit] if _rebuild(warehouse, day, lease_seconds)]


def drop_abandoned(warehouse: Warehouse, lease_seconds: float = LEASE_SECONDS) -> None:
    """Drop what rebuilds that were cut off longer ago than a lease have left behind."""
    sql = """SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '^unit_daily_[0-9a-f]{32}$')
        AND metadata_modification_time < now() - {seconds:Float64}"""
    with warehouse.connections.client() as client:
        for (name,) in client.query(sql, parameters={"seconds": lease_seconds}).result_rows:
            drop(client, warehouse.layout, name)


def _rebuild(warehouse: Warehouse, day: date, lease_seconds: float) -> bool:
    layout, lease = warehouse.layout, f"{LEASE}{new_id()}"
    with warehouse.connections.client() as client:
        mark_days(client, [day], lease)
        reasons = _reasons(client, day)
        expired = utc_now() - timedelta(seconds=lease_seconds)
        if any(reason.startswith(LEASE) and reason != lease and not cleared and at > expired for reason, at, cleared in reasons):
            clear_reasons(client, day, [lease])
            return False
        kept = retained_days(client, layout, "events")
        placed = f"{PLACED}{new_id()}"
        # A day more than arithmetic asks for: the server may live in another time zone.
        if kept is None or day > utc_now().date() - timedelta(days=kept - 1):
            staging = f"unit_daily_{new_id().hex}"
            try:
                _fill(client, layout, staging, day)
            except BaseException:
                clear_reasons(client, day, [lease])
                drop(client, layout, staging)
                raise
            clear_reasons(client, day, [placed])
            change = layout.alter("unit_daily", f"REPLACE PARTITION {day:%Y%m%d} FROM {layout.local(staging)}")
            client.command(change, settings=_from_nothing(client))
            drop(client, layout, staging)
        # Whoever put the day in place beside us, after a lease ran out, may have read more than we did.
        known = {placed, *(reason for reason, _, _ in reasons)}
        later = [reason for reason, _, _ in _reasons(client, day) if reason not in known and not reason.startswith(LEASE)]
        if later:
            mark_days(client, [day], f"again:{new_id()}")
            mark_all(client)
        clear_reasons(client, day, [reason for reason, _, cleared in reasons if not cleared])
    return not later


def _fill(client: Any, layout: Layout, staging: str, day: date) -> None:
    create_like(client, layout, "unit_daily", staging)
    settings = {**INSERT_SETTINGS, **QUERY_SETTINGS, "parallel_distributed_insert_select": 2}
    client.command(f"INSERT INTO {staging} {ROLLUP}", parameters={"day": day}, settings=settings)


def _from_nothing(client: Any) -> dict[str, int]:
    """Of a day without events the staging table has no part; newer servers must be told that nothing then takes its place."""
    name = "allow_replace_partition_from_empty_source"
    ((known,),) = client.query(f"SELECT count() FROM system.settings WHERE name = '{name}'").result_rows
    return {name: 1} if known else {}


def _reasons(client: Any, day: date) -> Sequence[tuple[str, Any, int]]:
    sql = "SELECT reason, max(at), max(cleared) FROM dirty_days WHERE day = {day:Date} GROUP BY reason"
    found: Sequence[tuple[str, Any, int]] = client.query(sql, parameters={"day": day}, tz_mode="aware").result_rows
    return found
