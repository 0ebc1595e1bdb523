"""Forgetting a unit: its rows leave every table, a check finds none, and a salted hash stays so that no late copy comes back."""

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import DatabaseError

from analytics.events import new_id, utc_now
from analytics.warehouse.connections import Connections
from analytics.warehouse.ddl import EXPOSURE_STATES, SHARDED, Layout
from analytics.warehouse.dirty import mark_days
from analytics.warehouse.marks import mark_all
from analytics.warehouse.rows import from_microseconds, microseconds

# Every table with a column `unit`, of every generation and half-built rollup; erasure reads which there are.
WITH_UNITS = re.compile(r"(events|exposures|unit_daily)(_[0-9a-z]+)?")
# UNKNOWN_TABLE, TABLE_IS_DROPPED, ABORTED
GONE = frozenset({60, 218, 236})
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """A receipt: rows deleted per table, checked to be gone. `at`: what was received up to then stays out."""

    at: datetime
    rows: dict[str, int]

    @property
    def event_rows(self) -> int:
        """Rows deleted from the tables of events, all generations."""
        return sum(count for table, count in self.rows.items() if table.startswith("events"))


class Erasures:
    """Who was erased up to when, by salted hash, as the warehouse said at `version`."""

    def __init__(self, version: tuple[int, int], salts: Iterable[str], latest: Iterable[tuple[str, datetime]]) -> None:
        self.version = version
        self._salts = tuple(salts)
        self._at: dict[str, datetime] = {}
        for unit_hash, at in latest:
            self._at[unit_hash] = max(at, self._at.get(unit_hash, at))
        self._last = max(self._at.values(), default=NEVER)

    def __len__(self) -> int:
        return len(self._at)

    def covers(self, unit: str, received_at: datetime) -> bool:
        """Was the unit erased at or after the time when this was received? True: leave it out."""
        if not unit or received_at > self._last:
            return False
        erased = [at for salt in self._salts if (at := self._at.get(unit_hash(salt, unit))) is not None]
        return bool(erased) and received_at <= max(erased)


def unit_hash(salt: str, unit: str) -> str:
    """SHA-256 of salt and unit, as hex."""
    return hashlib.sha256(f"{salt}:{unit}".encode("utf-8", "surrogatepass")).hexdigest()


def read_erasures(connections: Connections, known: Erasures | None = None) -> Erasures:
    """The erasures now; `known` itself when it is still right. Raises LookupError before `migrate`, OSError."""
    with connections.client() as client:
        ((count, total),) = client.query("SELECT count(), sum(cityHash64(unit_hash, at)) FROM erasures").result_rows
        version = (int(count), int(total))
        if known is not None and known.version == version:
            return known
        salts = [salt for (salt,) in client.query("SELECT DISTINCT salt FROM erasure_salts ORDER BY salt").result_rows]
        rows = client.query("SELECT unit_hash, max(toUnixTimestamp64Micro(at)) FROM erasures GROUP BY unit_hash").result_rows
    return Erasures(version, salts, ((found, from_microseconds(at)) for found, at in rows))


def erase(connections: Connections, layout: Layout, unit: str, at: datetime | None = None) -> Erased:
    """Delete a unit's rows from every table, and check that none is left; note the erasure first of all.

    `at` None: all that is there; else what was received up to `at` (exposures and rollups are made anew from what stays).
    What was received up to then is covered by `erasures()` from now on: a sink leaves it out. Raises OSError when rows are
    left (more may have arrived meanwhile), and may be repeated. Rewrites the parts that hold the rows: longer, the
    more days the table has.
    """
    if not unit:
        raise ValueError("the unit is empty; name one")
    with connections.client() as client:
        until = at or _until(client, unit)
        _note(client, unit, until)
        tables = _tables(client, layout)
        # `reason` before and after: a rollup that is being built now read the rows that go.
        days = _days(client, tables, unit)
        reason = f"erasure:{new_id()}"
        mark_days(client, days, reason)
        parameters = {"unit": unit, "until": microseconds(until)}
        found, left = {}, {}
        for table in tables:
            if (count := _delete(client, layout, table, _where(table, at), parameters)) is not None:
                found[table] = count
        if at is not None:
            _restore_exposures(client, tables, unit)
        mark_days(client, days, f"{reason}:after")
        mark_all(client)
        for table in found:
            # What was made anew from events that stay is there by right.
            if (at is None or table.startswith("events")) and (count := _count(client, table, _where(table, at), parameters)):
                left[table] = count
    if left:
        text = ", ".join(f"{count} in {table}" for table, count in left.items())
        raise OSError(f"rows of the unit are still in {connections.address.shown}: {text}; erase again")
    return Erased(at=until, rows=found)


def _where(table: str, at: datetime | None) -> str:
    cut = " AND toUnixTimestamp64Micro(received_at) <= {until:Int64}"
    return "unit = {unit:String}" + (cut if at is not None and table.startswith("events") else "")


def _count(client: Any, table: str, where: str, parameters: dict[str, Any]) -> int:
    ((count,),) = client.query(f"SELECT count() FROM {table} WHERE {where}", parameters=parameters).result_rows
    return int(count)


def _delete(client: Any, layout: Layout, table: str, where: str, parameters: dict[str, Any]) -> int | None:
    """How many rows went; None for a half-built rollup that is gone by now."""
    try:
        if count := _count(client, table, where, parameters):
            client.command(layout.alter(table, f"DELETE WHERE {where}"), parameters=parameters, settings={"mutations_sync": 2})
        return count
    except DatabaseError as error:
        if error.code in GONE and table not in SHARDED:
            return None
        raise


def _until(client: Any, unit: str) -> datetime:
    """Now, or the time of the unit's last event where a gateway's clock is ahead of ours."""
    sql = "SELECT max(toUnixTimestamp64Micro(received_at)) FROM events WHERE unit = {unit:String}"
    ((last,),) = client.query(sql, parameters={"unit": unit}).result_rows
    return max(utc_now(), from_microseconds(last or 0))


def _note(client: Any, unit: str, at: datetime) -> None:
    ((salt,),) = client.query("SELECT min(salt) FROM erasure_salts").result_rows
    row = [unit_hash(salt, unit), at]
    client.insert("erasures", [row], column_names=["unit_hash", "at"], settings={"async_insert": 0, "insert_deduplicate": 0})


def _tables(client: Any, layout: Layout) -> list[str]:
    sql = "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine NOT LIKE '%View' ORDER BY name"
    names = [name for (name,) in client.query(sql).result_rows]
    if layout.cluster:
        names = [name for name in names if not name.endswith("_local")]
    # Events before what is made from them: a view fills exposures only from rows that come.
    return sorted((name for name in names if WITH_UNITS.fullmatch(name)), key=lambda name: (not name.startswith("events"), name))


def _days(client: Any, tables: list[str], unit: str) -> list[Any]:
    dated = [table for table in tables if not table.startswith("exposures")]
    union = " UNION DISTINCT ".join(f"SELECT DISTINCT day FROM {table} WHERE unit = {{unit:String}}" for table in dated)
    return [day for (day,) in client.query(union, parameters={"unit": unit}).result_rows]


def _restore_exposures(client: Any, tables: list[str], unit: str) -> None:
    """What stays of a unit whose later events were kept. An insert without a token that looks like an old one must not be dropped."""
    for table in tables:
        if table.startswith("exposures"):
            events = "events" + table.removeprefix("exposures")
            states = EXPOSURE_STATES.format(events=events, final="FINAL", where="AND e.unit = {unit:String}")
            client.command(
                f"INSERT INTO {table} {states}", parameters={"unit": unit}, settings={"insert_deduplicate": 0, "async_insert": 0}
            )
