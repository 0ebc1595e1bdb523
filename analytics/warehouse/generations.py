"""A second set of tables, filled beside the one in use and then put in its place in one step: for `salon replay backfill`.

One generation is built at a time. Sinks go on inserting into the tables in use meanwhile:

    generation = begin_generation(warehouse)
    insert_generation(warehouse, generation, token, table)        # every record that the log still has, erased units left out
    copy_unreplayed(warehouse, generation, log_name, replayed)    # what the log has no longer: older rows
    swap_generation(warehouse, generation)                        # atomic on one server; on a cluster, node by node
    copy_unreplayed(warehouse, generation, log_name, replayed)    # what came while the records were being read: newer rows
    drop_old_generation(warehouse, generation)

Each step may be cut anywhere and repeated. Between swap and the second copy, a report lacks the rows that came meanwhile.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import pyarrow as pa

from analytics.events import new_id
from analytics.warehouse.client import INSERT_SETTINGS, Warehouse
from analytics.warehouse.ddl import EXPOSURE_STATES, GENERATION_COMMENT, Layout
from analytics.warehouse.dirty import mark_days
from analytics.warehouse.marks import mark_all

NEXT = "events_next"


class GenerationGone(LookupError):
    """No such generation is being built, or it has been put in place already."""


def live_generation(warehouse: Warehouse) -> int:
    """The number of the generation in use; the first is 1."""
    with warehouse.connections.client() as client:
        return _generation(client, warehouse.layout, "events") or 1


def building_generation(warehouse: Warehouse) -> int | None:
    """The number of the generation being built; None when there is none."""
    with warehouse.connections.client() as client:
        return _building(client, warehouse.layout)


def begin_generation(warehouse: Warehouse) -> int:
    """Make the tables of the next generation, or find those that a cut run has made. Returns its number. Raises OSError."""
    layout = warehouse.layout
    with warehouse.connections.client() as client:
        live = _generation(client, layout, "events") or 1
        there = _generation(client, layout, NEXT)
        if there is not None and there > live:
            return there
        if there is not None:
            raise OSError(f"generation {there} is still there as {NEXT} in {warehouse.shown}; finish with drop_old_generation first")
        number = live + 1
        create_like(client, layout, "events", NEXT, number)
    return number


def insert_generation(warehouse: Warehouse, generation: int, token: str, table: pa.Table) -> None:
    """`Warehouse.insert_exact` into the generation being built. Raises GenerationGone, RowsRejected, OSError."""
    with warehouse.connections.client() as client:
        _check_building(client, warehouse, generation)
    warehouse.insert_exact(f"g{generation}:{token}", table, into=NEXT)


def copy_unreplayed(warehouse: Warehouse, generation: int, log_name: str, replayed: Mapping[int, tuple[int, int]]) -> int:
    """Copy the other generation's rows that were not replayed into this one, day by day; rows already there are left alone.

    `replayed`: per partition of `log_name` the first and last offset that were read again; rows of other logs, and of no
    Kafka log, count as not replayed. Before the swap it copies from the tables in use to the new ones, after it from the old
    ones to those in use. Returns how many rows. Raises GenerationGone, OSError. Takes memory for one day's event ids.
    """
    layout = warehouse.layout
    with warehouse.connections.client() as client:
        if _generation(client, layout, "events") == generation:
            source, target = NEXT, "events"
            if _generation(client, layout, NEXT) is None:
                raise GenerationGone(f"the tables before generation {generation} are gone from {warehouse.shown}: nothing to copy from")
        else:
            _check_building(client, warehouse, generation)
            source, target = "events", NEXT
        columns = _columns(client, layout)
        days = [day for (day,) in client.query(f"SELECT DISTINCT day FROM {source} ORDER BY day").result_rows]
        return sum(_copy_day(client, source, target, day, columns, log_name, replayed) for day in days)


def swap_generation(warehouse: Warehouse, generation: int) -> None:
    """Put the generation in place of the one in use, its exposures and its daily rollups with it. Raises GenerationGone, OSError.

    The rows in use until now stay as `events_next` until `drop_old_generation`. Afterwards every day is marked to be rolled up.
    """
    layout = warehouse.layout
    with warehouse.connections.client() as client:
        if _generation(client, layout, "events") != generation:
            _check_building(client, warehouse, generation)
            # The comment goes with the table, so that a second call knows that the first one was done.
            client.command(f"EXCHANGE TABLES {layout.local('events')} AND {layout.local(NEXT)}{layout.on_cluster}")
        _refill_exposures(client, layout, generation)
        days = client.query(f"SELECT DISTINCT day FROM events UNION DISTINCT SELECT DISTINCT day FROM {NEXT}").result_rows
        mark_days(client, [day for (day,) in days], f"generation:{generation}:{new_id()}")
        mark_all(client)


def drop_old_generation(warehouse: Warehouse, generation: int) -> None:
    """Drop what was in use before `generation`, for good. Raises GenerationGone while `generation` is not in use."""
    layout = warehouse.layout
    with warehouse.connections.client() as client:
        if _generation(client, layout, "events") != generation:
            raise GenerationGone(f"generation {generation} is not in use in {warehouse.shown}; swap first")
        drop(client, layout, NEXT)


def abandon_generation(warehouse: Warehouse, generation: int) -> None:
    """Drop a generation that is being built; one that is in use stays."""
    with warehouse.connections.client() as client:
        if _building(client, warehouse.layout) == generation:
            drop(client, warehouse.layout, NEXT)


def _generation(client: Any, layout: Layout, table: str) -> int | None:
    """Of a table: its comment; 1 without one; None for no such table."""
    sql = "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
    rows = client.query(sql, parameters={"name": layout.local(table)}).result_rows
    if not rows:
        return None
    return int(rows[0][0].removeprefix(GENERATION_COMMENT)) if rows[0][0].startswith(GENERATION_COMMENT) else 1


def _building(client: Any, layout: Layout) -> int | None:
    there = _generation(client, layout, NEXT)
    return there if there is not None and there > (_generation(client, layout, "events") or 1) else None


def _check_building(client: Any, warehouse: Warehouse, generation: int) -> None:
    building = _building(client, warehouse.layout)
    if building != generation:
        there = "none is" if building is None else f"generation {building} is"
        raise GenerationGone(f"generation {generation} is not being built in {warehouse.shown}; {there}")


def create_like(client: Any, layout: Layout, table: str, name: str, generation: int | None = None) -> None:
    """A table with the columns, engine, keys, settings and TTL of another, empty; of a generation, it says so."""
    comment = f" COMMENT '{GENERATION_COMMENT}{generation}'" if generation else ""
    local, new = layout.local(table), layout.local(name)
    if not layout.cluster:
        client.command(f"CREATE TABLE IF NOT EXISTS {new} AS {local}{comment}")
        return
    sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {name:String}"
    ((engine,),) = client.query(sql, parameters={"name": local}).result_rows
    # Another place in Keeper, which stays right when names are exchanged.
    engine = re.sub(r"/\w+_g\d+'", f"/{table if generation else name}_g{generation or 1}'", engine, count=1)
    client.command(f"CREATE TABLE IF NOT EXISTS {new}{layout.on_cluster} AS {local} ENGINE = {engine}{comment}")
    client.command(layout.distributed(name))


def drop(client: Any, layout: Layout, table: str) -> None:
    """Drop a table, now, wherever it lies. Of no such table: nothing."""
    if layout.cluster:
        client.command(f"DROP TABLE IF EXISTS {table}{layout.on_cluster} SYNC")
    client.command(f"DROP TABLE IF EXISTS {layout.local(table)}{layout.on_cluster} SYNC")


def _refill_exposures(client: Any, layout: Layout, generation: int) -> None:
    """Exposures of the rows now in use, without what only the old ones knew.

    The view writes into the table in use at all times, and states may be added twice: so first the exchange, then all states.
    """
    if _generation(client, layout, "exposures") != generation:
        if _generation(client, layout, "exposures_next") != generation:
            drop(client, layout, "exposures_next")
            create_like(client, layout, "exposures", "exposures_next", generation)
        client.command(f"EXCHANGE TABLES {layout.local('exposures')} AND {layout.local('exposures_next')}{layout.on_cluster}")
    states = EXPOSURE_STATES.format(events="events", final="FINAL", where="")
    client.command(f"INSERT INTO exposures {states}", settings={"insert_deduplicate": 0, "async_insert": 0})
    drop(client, layout, "exposures_next")


def _columns(client: Any, layout: Layout) -> str:
    sql = """SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {name:String}
        AND default_kind != 'MATERIALIZED' ORDER BY position"""
    return ", ".join(f"`{name}`" for (name,) in client.query(sql, parameters={"name": layout.local("events")}).result_rows)


def _copy_day(
    client: Any, source: str, target: str, day: date, columns: str, log_name: str, replayed: Mapping[int, tuple[int, int]]
) -> int:
    was_read = " OR ".join(
        f"(log_partition = {int(partition)} AND log_offset BETWEEN {int(first)} AND {int(last)})"
        for partition, (first, last) in sorted(replayed.items())
    )
    where = f"day = {{day:Date}} AND NOT (log_name = {{log:String}} AND ({was_read or '0'}))"
    where += f" AND event_id NOT IN (SELECT event_id FROM {target} WHERE day = {{day:Date}})"
    parameters = {"day": day, "log": log_name}
    ((count,),) = client.query(f"SELECT count() FROM {source} FINAL WHERE {where}", parameters=parameters).result_rows
    if count:
        settings = {**INSERT_SETTINGS, "insert_deduplicate": 0}
        sql = f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source} FINAL WHERE {where}"
        client.command(sql, parameters=parameters, settings=settings)
        if target == "events":
            mark_days(client, [day], f"copy:{new_id()}")
            mark_all(client)
    return int(count)
