"""The warehouse: exact inserts, queries, erasure, from any thread."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.exceptions import DatabaseError

from analytics.events import Event
from analytics.warehouse import schema
from analytics.warehouse.address import Address, parse_address
from analytics.warehouse.connections import Connections, OutOfReach, WarehouseLocked, first_line
from analytics.warehouse.ddl import Layout
from analytics.warehouse.dirty import mark_days
from analytics.warehouse.erasure import Erased, Erasures, erase, read_erasures
from analytics.warehouse.marks import mark_rows
from analytics.warehouse.rows import RowsRejected, days_of, to_arrow
from analytics.warehouse.schema import Retention, SchemaIsNewer

__all__ = ["Erased", "Erasures", "OutOfReach", "Retention", "RowsRejected", "SchemaIsNewer", "Warehouse", "WarehouseLocked"]

# Every report asks in words of its own: compiling them to machine code costs more than it saves.
INTERPRETED = {"compile_expressions": 0, "compile_aggregate_expressions": 0}
QUERY_SETTINGS = {"do_not_merge_across_partitions_select_final": 1, **INTERPRETED}
# async_insert is on by default in new servers and forgets tokens; a batch of a backfill may span more than 100 days.
INSERT_SETTINGS = {"async_insert": 0, "deduplicate_blocks_in_dependent_materialized_views": 1, "max_partitions_per_insert_block": 0}
# Every shard has its rows before the insert is answered; a table of events has one row per event on one shard only.
CLUSTER_INSERT_SETTINGS = {**INSERT_SETTINGS, "insert_distributed_sync": 1}
# Errors of data, not of the moment: CANNOT_PARSE_TEXT, CANNOT_PARSE_NUMBER, TYPE_MISMATCH, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE,
# INCORRECT_DATA, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN, VIOLATED_CONSTRAINT, DECIMAL_OVERFLOW
DATA_ERRORS = frozenset({6, 72, 53, 69, 70, 117, 321, 349, 469, 407})


class Warehouse:
    """Open with `Warehouse.open(url)`. Every method may be called from any thread; none from an event loop (they block).

    Embedded (chDB), a process can hold one folder at a time, and must not fork while it does.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self.connections = Connections(address)
        self.layout = Layout(address.database, address.cluster)
        self._client = self.connections.client
        self._erasures: Erasures | None = None
        try:
            schema.check_not_newer(self.connections, self.layout)
        except BaseException:
            self.connections.close()
            raise

    @classmethod
    def open(cls, url: str) -> "Warehouse":
        """Connect. Raises ValueError (a wrong URL), WarehouseLocked, SchemaIsNewer, OSError (out of reach), ImportError (no chDB)."""
        return cls(parse_address(url, os.environ))

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return self._address.shown

    @property
    def embedded(self) -> bool:
        """Whether this process is the server (chDB)."""
        return self._address.embedded

    def schema_version(self) -> int:
        """The version of the tables; 0 before `migrate`. Raises OSError."""
        return schema.schema_version(self.connections)

    def migrate(self, retention: Retention | None = None) -> list[str]:
        """Create or update the tables; again: nothing. Returns what was done, in words. See `schema.migrate`."""
        return schema.migrate(self.connections, self.layout, retention)

    def insert_exact(self, token: str, table: pa.Table, *, into: str = "events") -> None:
        """One insert of `rows.to_arrow`'s table under a deduplication token; the same call again changes nothing.

        The same token must always come with the same rows: name the exact range, and the topic's id, in it. Events of days
        that are rolled up already mark them to be rebuilt. Raises RowsRejected when the data is at fault, OSError and
        LookupError otherwise; after any of them the call may be made again.
        """
        settings = CLUSTER_INSERT_SETTINGS if self._address.cluster else INSERT_SETTINGS
        if table.num_rows == 0:
            return
        with self._client() as client:
            try:
                client.insert_arrow(into, table, settings={**settings, "insert_deduplication_token": token})
            except DatabaseError as error:
                if error.code in DATA_ERRORS:
                    raise RowsRejected(first_line(error)) from error
                raise
            # After the rows: whoever sees the mark sees them. Cut in between, the insert is repeated, and so is the mark.
            if into == "events":
                mark_days(client, days_of(table), token)
                mark_rows(client, table)

    def insert(self, log_name: str, first: int, last: int, events: Sequence[Event]) -> None:
        """Put positions `first`..`last` of a local log into the table, exactly once however often and wherever this is cut short.

        The range is noted before the insert and after it, and the insert carries the range as its deduplication token. A
        range already in does nothing. Raises RowsRejected when the data is at fault, ValueError for a range that only
        partly lies beyond what is in, OSError otherwise; after any of them the same call may be made again.
        """
        if not 0 < first <= last:
            raise ValueError(f"the range {first}..{last} is not one; give 0 < first <= last")
        table = to_arrow(events, log_name=log_name) if events else None
        with self._client() as client:
            before, _ = self._state(client, log_name)
            if last <= before:
                return
            if first <= before:
                raise ValueError(f"the range {first}..{last} of {log_name} begins before {before + 1}, the next position to put in")
            self._note(client, log_name, first - 1, last)
        if table is not None:
            self.insert_exact(f"{log_name}:{first}-{last}", table)
        with self._client() as client:
            self._note(client, log_name, last, 0)

    def position(self, log_name: str) -> int:
        """The last position of a local log that is in; 0 for none."""
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

    def erase(self, unit: str, at: datetime | None = None) -> Erased:
        """Delete a unit from every table; see `erasure.erase`. Raises OSError when anything is left: ask again."""
        return erase(self.connections, self.layout, unit, at)

    def erasures(self) -> Erasures:
        """Who was erased, as of this call: one small query, and a second one when there are new erasures. Raises OSError, LookupError."""
        self._erasures = read_erasures(self.connections, self._erasures)
        return self._erasures

    def close(self) -> None:
        """Close all connections; those in use are closed when their call ends. A second call does nothing."""
        self.connections.close()

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
