"""The table of one set of facts' units while they are computed; where none can be made, the SELECT that would have filled it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from analytics.events import new_id
from analytics.warehouse.client import INSERT_SETTINGS, QUERY_SETTINGS, Warehouse
from analytics.warehouse.connections import NotAllowed
from analytics.warehouse.unit_states import Layout

# A build leaves its table only when it is killed; longer than any build.
ABANDONED_SECONDS = 3600.0
# Units that do not fit memory are grouped on disk.
BUILD_SETTINGS = {**INSERT_SETTINGS, **QUERY_SETTINGS, "insert_deduplicate": 0, "max_bytes_before_external_group_by": 4_000_000_000}


class Units:
    """What to select units FROM, of so many arms; `ordered`: a table in the order of arms. No row has the unit's name."""

    def __init__(self, warehouse: Warehouse, table: str, arms: int, parameters: Mapping[str, Any] | None = None) -> None:
        self._warehouse, self.table, self.arms, self._parameters = warehouse, table, arms, dict(parameters or {})
        self.ordered = not self._parameters

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a SELECT from `table`."""
        return self._warehouse.query(sql, {**self._parameters, **(parameters or {})})


@contextmanager
def units_of(warehouse: Warehouse, layout: Layout) -> Iterator[Units]:
    """The units as a table, gone afterwards. On a cluster, and for a user who may create none, each question computes them anew."""
    name = f"unit_states_{new_id().hex}"
    if warehouse.layout.cluster or not _create(warehouse, layout, name):
        yield Units(warehouse, f"({layout.select})", layout.arms, layout.parameters.values)
        return
    try:
        with warehouse.connections.client() as client:
            columns = ", ".join(column.name for column in layout.columns)
            client.command(f"INSERT INTO {name} ({columns}) {layout.select}", parameters=layout.parameters.values, settings=BUILD_SETTINGS)
        yield Units(warehouse, name, layout.arms)
    finally:
        with warehouse.connections.client() as client:
            client.command(f"DROP TABLE IF EXISTS {name} SYNC")


def _create(warehouse: Warehouse, layout: Layout, name: str) -> bool:
    columns = ", ".join(f"{column.name} {column.type} CODEC(LZ4)" for column in layout.columns)
    sql = """SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '^unit_states_[0-9a-f]{32}$')
        AND metadata_modification_time < now() - {seconds:Float64}"""
    try:
        with warehouse.connections.client() as client:
            for (left,) in client.query(sql, parameters={"seconds": ABANDONED_SECONDS}).result_rows:
                client.command(f"DROP TABLE IF EXISTS {left} SYNC")
            client.command(f"CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY arm")
    except NotAllowed:
        return False
    return True
