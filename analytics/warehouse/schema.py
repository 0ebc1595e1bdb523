"""Which schema version a warehouse has, and how it gets to this code's."""

import re
import time
from typing import Any

import msgspec
from clickhouse_connect.driver.exceptions import DatabaseError

from analytics.events import utc_now
from analytics.warehouse.connections import Connections, NotAllowed
from analytics.warehouse.ddl import SCHEMA_MIGRATIONS, Layout, migrations

# What two migrators at once may meet: DUPLICATE_COLUMN, TABLE_ALREADY_EXISTS, DEADLOCK_AVOIDED, CANNOT_ASSIGN_ALTER
PASSING = frozenset({15, 44, 57, 473, 517})
ATTEMPTS = 6


class SchemaIsNewer(OSError):
    """A newer Salon has changed this warehouse; this one does not know what it must keep."""


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """After how many days rows go: `events_days` the events, `units_days` exposures and daily rollups. None: never."""

    events_days: int | None = None
    units_days: int | None = None


TTL_DAYS = (
    ("events", "events_days", "day"),
    ("unit_daily", "units_days", "day"),
    ("exposures", "units_days", "toDate(fromUnixTimestamp64Micro(exposed_at, 'UTC'))"),
)


def schema_version(connections: Connections) -> int:
    """The last migration applied; 0 for none. Raises OSError."""
    try:
        with connections.client() as client:
            ((version,),) = client.query("SELECT max(version) FROM schema_migrations").result_rows
    except LookupError:
        return 0
    return int(version)


def latest_version(layout: Layout) -> int:
    """The version that this code works with."""
    return migrations(layout)[-1].version


def check_not_newer(connections: Connections, layout: Layout) -> int:
    """The warehouse's version. Raises SchemaIsNewer, OSError."""
    version, known = schema_version(connections), latest_version(layout)
    if version > known:
        raise SchemaIsNewer(
            f"the warehouse {connections.address.shown} has schema version {version}, but this Salon knows versions up to {known}: "
            "a newer Salon has migrated it; upgrade Salon here"
        )
    return version


def migrate(connections: Connections, layout: Layout, retention: Retention | None = None) -> list[str]:
    """Bring tables to this code's version, and TTLs to `retention` (None: as they are). Returns what was done, in words.

    Nothing is written where nothing is to do. May be cut anywhere and repeated, also by two at once. Raises SchemaIsNewer,
    NotAllowed (the user may not change tables), OSError.
    """
    version, known = check_not_newer(connections, layout), latest_version(layout)
    try:
        done = _apply(connections, layout) if version < known else []
        if retention is not None:
            done += _retain(connections, layout, retention)
    except NotAllowed as error:
        raise NotAllowed(
            f"the warehouse has schema version {version}, this Salon needs {known}"
            f"{' and other TTLs' if version == known else ''}; run `salon migrate` with a user that may create and alter tables ({error})"
        ) from error
    return done


def _apply(connections: Connections, layout: Layout) -> list[str]:
    connections.create_database()
    applied = []
    with connections.client() as client:
        for statement in layout.create(SCHEMA_MIGRATIONS):
            _run(client, statement)
        done = {row[0] for row in client.query("SELECT version FROM schema_migrations").result_rows}
        for migration in migrations(layout):
            if migration.version not in done:
                for statement in migration.statements:
                    _run(client, statement)
                row = [migration.version, migration.name, utc_now()]
                client.insert("schema_migrations", [row], column_names=["version", "name", "applied_at"], settings={"async_insert": 0})
                applied.append(f"{migration.version} {migration.name}")
    return applied


def retained_days(client: Any, layout: Layout, table: str) -> int | None:
    """After how many days the rows of a table go; None: never."""
    sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
    rows = client.query(sql, parameters={"name": layout.local(table)}).result_rows
    found = re.search(r" TTL .*?\+ toIntervalDay\((\d+)\)", rows[0][0]) if rows else None
    return int(found[1]) if found else None


def _retain(connections: Connections, layout: Layout, retention: Retention) -> list[str]:
    done = []
    with connections.client() as client:
        for table, name, day in TTL_DAYS:
            wanted, there = getattr(retention, name), retained_days(client, layout, table)
            if wanted == there:
                continue
            if wanted is None:
                _run(client, layout.alter(table, "REMOVE TTL"))
                done.append(f"{table} are kept for ever")
                continue
            # Whole parts only where a part is one day: else a row's age says nothing about its part's.
            whole = 1 if day == "day" else 0
            _run(client, layout.alter(table, f"MODIFY SETTING ttl_only_drop_parts = {whole}"))
            _run(client, layout.alter(table, f"MODIFY TTL {day} + toIntervalDay({wanted})"))
            done.append(f"{table} go after {wanted} days")
    return done


def _run(client: Any, statement: str) -> None:
    for attempt in range(ATTEMPTS):
        try:
            client.command(statement)
            return
        except DatabaseError as error:
            if error.code not in PASSING or attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.1 * 2**attempt)
