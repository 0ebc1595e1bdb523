"""The warehouse: one connection per running call, exact inserts, queries, erasure."""

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from analytics.events import Event, utc_now
from analytics.warehouse.address import Address, parse_address
from analytics.warehouse.ddl import MIGRATIONS, SCHEMA_MIGRATIONS
from analytics.warehouse.rows import RowsRejected, to_arrow

IDLE_CLIENTS = 4
QUERY_SETTINGS = {"do_not_merge_across_partitions_select_final": 1}
# async_insert is on by default in new servers and forgets tokens; a batch of a backfill may span more than 100 days.
INSERT_SETTINGS = {"async_insert": 0, "deduplicate_blocks_in_dependent_materialized_views": 1, "max_partitions_per_insert_block": 0}
UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
# Errors of data, not of the moment: CANNOT_PARSE_TEXT, CANNOT_PARSE_NUMBER, TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE,
# INCORRECT_DATA, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN, VIOLATED_CONSTRAINT, DECIMAL_OVERFLOW
DATA_ERRORS = frozenset({6, 72, 53, 69, 70, 117, 321, 349, 469, 407})


class WarehouseLocked(OSError):
    """Another process has this embedded warehouse open; only one can."""


class Warehouse:
    """Open with `Warehouse.open(url)`. Every method may be called from any thread; none from an event loop (they block).

    Embedded (chDB), a process can hold one folder at a time, and must not fork while it does.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._closed = False
        # Asked first, because chDB writes its own refusal to the terminal.
        if address.embedded and _is_locked(folder := Path(address.arguments["path"])) and _holder(folder) != os.getpid():
            raise self._locked()
        client = self._connect(None)
        try:
            if address.embedded:
                client.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(address.database)}")
        finally:
            client.close()

    @classmethod
    def open(cls, url: str) -> "Warehouse":
        """Connect. Raises ValueError (a wrong URL), WarehouseLocked, OSError (out of reach) and ImportError (chDB is not installed)."""
        return cls(parse_address(url, os.environ))

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self._address.shown

    def migrate(self) -> list[str]:
        """Create or update the tables; again: nothing. Returns the names of the migrations applied now."""
        client = self._connect(None)
        try:
            client.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(self._address.database)}")
        finally:
            client.close()
        with self._client() as client:
            client.command(SCHEMA_MIGRATIONS)
            done = {row[0] for row in client.query("SELECT version FROM schema_migrations").result_rows}
            applied = []
            for migration in MIGRATIONS:
                if migration.version not in done:
                    for statement in migration.statements:
                        client.command(statement)
                    row = [migration.version, migration.name, utc_now()]
                    client.insert("schema_migrations", [row], column_names=["version", "name", "applied_at"])
                    applied.append(f"{migration.version} {migration.name}")
        return applied

    def insert(self, log_name: str, first: int, last: int, events: Sequence[Event]) -> None:
        """Put positions `first`..`last` of a log into the table, exactly once however often and wherever this is cut short.

        The range is noted before the insert and after it, and the insert carries the range as its deduplication token. A
        range already in does nothing. Raises RowsRejected when the data is at fault, ValueError for a range that only
        partly lies beyond what is in, OSError otherwise; after any of them the same call may be made again.
        """
        if not 0 < first <= last:
            raise ValueError(f"the range {first}..{last} is not one; give 0 < first <= last")
        table = to_arrow(events) if events else None
        with self._client() as client:
            before, _ = self._state(client, log_name)
            if last <= before:
                return
            if first <= before:
                raise ValueError(f"the range {first}..{last} of {log_name} begins before {before + 1}, the next position to put in")
            self._note(client, log_name, first - 1, last)
            if table is not None:
                token = {"insert_deduplication_token": f"{log_name}:{first}-{last}"}
                try:
                    client.insert_arrow("events", table, settings={**INSERT_SETTINGS, **token})
                except DatabaseError as error:
                    if error.code in DATA_ERRORS:
                        raise RowsRejected(_first_line(error)) from error
                    raise
            self._note(client, log_name, last, 0)

    def position(self, log_name: str) -> int:
        """The last position of a log that is in; 0 for none."""
        with self._client() as client:
            return self._state(client, log_name)[0]

    def pending(self, log_name: str) -> int | None:
        """The last position of a range begun and not known to be in: repeat exactly `position() + 1`..this, first of all."""
        with self._client() as client:
            return self._state(client, log_name)[1] or None

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a SELECT with `{name:Type}` parameters. Raises LookupError before `migrate`, OSError when out of reach."""
        with self._client() as client:
            rows: list[tuple[Any, ...]] = list(client.query(sql, parameters=dict(parameters or {}), settings=QUERY_SETTINGS).result_rows)
        return rows

    def erase(self, unit: str) -> int:
        """Delete a unit's rows from every table and check that they are gone. Returns how many. Raises OSError.

        Rewrites the parts that hold them; chDB takes about 0.1 s for each day in the table.
        """
        parameters = {"unit": unit}
        count = "SELECT count() FROM events WHERE unit = {unit:String}"
        with self._client() as client:
            ((found,),) = client.query(count, parameters=parameters).result_rows
            if found:
                client.command(
                    "ALTER TABLE events DELETE WHERE unit = {unit:String}", parameters=parameters, settings={"mutations_sync": 2}
                )
            ((left,),) = client.query(count, parameters=parameters).result_rows
        if left:
            raise OSError(f"{left} events of the unit are still in {self.shown}; erase again")
        return int(found)

    def close(self) -> None:
        """Close all connections; those in use are closed when their call ends. A second call does nothing."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    @staticmethod
    def _state(client: Any, log_name: str) -> tuple[int, int]:
        sql = "SELECT position, pending FROM log_positions WHERE log_name = {name:String} ORDER BY version DESC LIMIT 1"
        rows = client.query(sql, parameters={"name": log_name}).result_rows
        return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)

    @staticmethod
    def _note(client: Any, log_name: str, position: int, pending: int) -> None:
        row = [log_name, position, pending, 2 * position + (pending > 0)]
        columns = ["log_name", "position", "pending", "version"]
        client.insert("log_positions", [row], column_names=columns, settings={"async_insert": 0})

    @contextmanager
    def _client(self) -> Iterator[Any]:
        # A client serialises its calls: so one for each call in flight.
        with self._lock:
            if self._closed:
                raise ValueError(f"the warehouse {self.shown} is closed")
            client = self._idle.pop() if self._idle else None
        if client is None:
            client = self._connect(self._address.database)
        try:
            yield client
        except DatabaseError as error:
            if error.code in {UNKNOWN_TABLE, UNKNOWN_DATABASE}:
                raise LookupError(f"the warehouse {self.shown} has no tables yet; run `salon migrate` ({_first_line(error)})") from error
            raise OSError(f"the warehouse {self.shown} refuses: {_first_line(error)}") from error
        except ClickHouseError as error:
            raise OSError(f"the warehouse {self.shown} fails: {_first_line(error)}") from error
        finally:
            with self._lock:
                keep = not self._closed and len(self._idle) < IDLE_CLIENTS
                if keep:
                    self._idle.append(client)
            if not keep:
                client.close()

    def _connect(self, database: str | None) -> Any:
        address = self._address
        if address.embedded:
            Path(address.arguments["path"]).mkdir(parents=True, exist_ok=True)
        else:
            database = database or "default"
        try:
            return clickhouse_connect.get_client(database=database, **address.arguments)
        except ImportError as error:
            raise ImportError(f"the warehouse {address.shown} needs chDB: pip install 'salon[local]'", name="chdb") from error
        except ClickHouseError as error:
            line = _first_line(error)
            if address.embedded and _is_locked(Path(address.arguments["path"])):
                raise self._locked() from error
            if getattr(error, "code", None) == UNKNOWN_DATABASE:
                raise LookupError(f"the warehouse {address.shown} has no database {database!r}; run `salon migrate`") from error
            raise OSError(f"the warehouse {address.shown} cannot be opened: {line}") from error

    def _locked(self) -> WarehouseLocked:
        return WarehouseLocked(
            f"the warehouse {self.shown} is open in another process (salon serve or salon sink); stop it, or ask it over HTTP"
        )


def _is_locked(folder: Path) -> bool:
    """Whether somebody holds ClickHouse's lock on its `status` file."""
    try:
        handle = os.open(folder / "status", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(folder: Path) -> int | None:
    """The process that last wrote ClickHouse's `status` file; None when that cannot be read."""
    try:
        found = re.search(r"^PID: (\d+)$", (folder / "status").read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _first_line(error: Exception) -> str:
    # A request's URL in a message may carry credentials.
    return re.sub(r"://[^/@\s]*@", "://", str(error).split("\n")[0])[:500]
