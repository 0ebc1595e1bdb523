"""Schema versions: from every released one to this code's, cut anywhere, twice at once, newer ones refused; clusters' DDL parses."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from local_clickhouse import LocalClickHouse

from analytics.events import Event, derived_id, utc_now
from analytics.experiment import Experiment, Metric
from analytics.report.build import report_now
from analytics.warehouse import schema
from analytics.warehouse.client import Retention, SchemaIsNewer, Warehouse
from analytics.warehouse.connections import NotAllowed
from analytics.warehouse.ddl import Layout, migrations
from analytics.warehouse.generations import begin_generation, drop_old_generation, swap_generation
from analytics.warehouse.rollups import ROLLUP, dirty_days, rebuild_dirty
from analytics.warehouse.schema import latest_version

RELEASED_1 = (Path(__file__).parent / "released" / "1.sql").read_text()
LATEST = latest_version(Layout("salon"))
ALL = [f"{migration.version} {migration.name}" for migration in migrations(Layout("salon"))]
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def empty(clickhouse_url: str) -> Iterator[Warehouse]:
    """A warehouse over HTTP whose database is there and empty."""
    server = Warehouse.open(urlsplit(clickhouse_url)._replace(path="/default").geturl())
    server.connections.create_database()
    with server.connections.client() as client:
        client.command(f"CREATE DATABASE {urlsplit(clickhouse_url).path[1:]}")
    server.close()
    warehouse = Warehouse.open(clickhouse_url)
    yield warehouse
    warehouse.close()


def run(warehouse: Warehouse, script: str) -> None:
    with warehouse.connections.client() as client:
        for statement in script.split(";\n"):
            if statement.strip():
                client.command(statement)


def released_1(warehouse: Warehouse, events: list[Event]) -> None:
    """Tables and rows as Salon 1 made them: its SQL, kept, and its columns."""
    run(warehouse, RELEASED_1)
    columns = [name for name in Event.__struct_fields__ if name != "sent_at"]
    rows = [[getattr(event, name) for name in columns] for event in events]
    with warehouse.connections.client() as client:
        client.insert("events", rows, column_names=columns, settings={"insert_deduplication_token": "log:1-9", "async_insert": 0})
        client.insert("log_positions", [["log", 9, 0, 18]], column_names=["log_name", "position", "pending", "version"])
        client.insert("schema_migrations", [[1, "events and log positions", utc_now()]], column_names=["version", "name", "applied_at"])


def events_of(experiment: str, units: int = 30) -> list[Event]:
    found = []
    for number in range(units):
        at = START + timedelta(hours=number)
        arm, unit = ("base", "vivid")[number % 2], f"u{number}"
        for kind in ("exposure", "generation", "like")[: 2 + (number % 3 > 0)]:
            known: dict[str, Any] = {"event_id": derived_id(at, experiment, kind, unit), "occurred_at": at, "received_at": at}
            found.append(Event(kind=kind, experiment=experiment, arm=arm, unit=unit, propensity=0.5, route="hero", **known))
            at += timedelta(minutes=1)
    return found


def facts(warehouse: Warehouse) -> bytes:
    experiment = Experiment(route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate")
    metrics = {"like_rate": Metric(kind="proportion", event="like")}
    return msgspec.json.encode(report_now(warehouse, "old", experiment, metrics, START + timedelta(days=30)))


def test_data_of_version_1_reads_the_same_after_the_migration(empty: Warehouse) -> None:
    events = events_of("old")
    released_1(empty, events)
    assert empty.schema_version() == 1
    assert empty.migrate() == ALL[1:]
    assert (empty.schema_version(), empty.migrate()) == (LATEST, [])
    after = msgspec.json.decode(facts(empty))
    assert {arm["arm"]: arm["units"] for arm in after["arms"]} == {"base": 15, "vivid": 15}
    (metric,) = [metric for metric in after["metrics"] if metric["metric"] == "like_rate"]
    # Liked: 20 of 30 units, those whose number 3 does not divide; 10 in either arm.
    assert [arm["mean"] for arm in metric["arms"]] == [pytest.approx(10 / 15), pytest.approx(10 / 15)]
    # What the new tables say of the old rows.
    assert empty.query("SELECT count() FROM exposures FINAL") == [(30,)]
    assert empty.position("log") == 9
    days = {(START + timedelta(hours=n)).date() for n in range(30)}
    assert set(dirty_days(empty)) == days and set(rebuild_dirty(empty)) == days
    assert empty.query("SELECT kind, sum(n) FROM unit_daily GROUP BY kind ORDER BY kind") == [
        ("exposure", 30),
        ("generation", 30),
        ("like", 20),
    ]
    # The same events again: known, wherever the next version puts them.
    empty.insert("again", 1, 100, events)
    assert msgspec.json.decode(facts(empty))["metrics"] == after["metrics"]
    defaults = "SELECT DISTINCT sent_at, log_partition, log_offset FROM events"
    assert empty.query(defaults) == [(None, -1, -1)]


def test_released_tables_have_not_changed(empty: Warehouse) -> None:
    def tables() -> dict[str, str]:
        rows = empty.query("SELECT name, create_table_query FROM system.tables WHERE database = currentDatabase()")
        return {name: re.sub(r"t[0-9a-f]{32}\.|SETTINGS .*", "", text) for name, text in rows}

    run(empty, RELEASED_1)
    then = tables()
    run(empty, "DROP TABLE events SYNC;\nDROP TABLE log_positions SYNC")
    run(empty, ";\n".join(migrations(Layout("any"))[0].statements))
    assert tables() == then


def test_a_migration_cut_after_any_statement_goes_on(clickhouse_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true, left = schema._run, 0

    def cut(client: Any, statement: str) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        true(client, statement)

    server = Warehouse.open(clickhouse_url)
    cuts, applied = 0, None
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_run", cut)
        while applied is None:
            left = cuts
            try:
                applied = server.migrate()
            except KeyboardInterrupt:
                cuts += 1
    assert cuts >= 12 and applied == ALL[-1:]  # those before were noted on the way
    assert server.schema_version() == LATEST and server.migrate() == []
    assert server.query("SELECT count() FROM erasure_salts FINAL") == [(1,)]
    server.close()


def test_two_migrators_at_once(clickhouse_url: str) -> None:
    servers = [Warehouse.open(clickhouse_url) for _ in range(2)]
    failures: list[BaseException] = []

    def migrate(server: Warehouse) -> None:
        try:
            server.migrate()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert servers[0].schema_version() == LATEST
    assert len(servers[0].query("SELECT DISTINCT version FROM schema_migrations")) == LATEST
    for server in servers:
        server.close()


def test_a_newer_schema_is_refused_with_both_versions_and_the_fix(clickhouse_url: str) -> None:
    server = Warehouse.open(clickhouse_url)
    server.migrate()
    with server.connections.client() as client:
        client.insert("schema_migrations", [[LATEST + 5, "of the future", utc_now()]], column_names=["version", "name", "applied_at"])
    with pytest.raises(SchemaIsNewer, match=rf"version {LATEST + 5}.*up to {LATEST}.*upgrade Salon"):
        server.migrate()
    with pytest.raises(SchemaIsNewer, match="upgrade Salon"):
        Warehouse.open(clickhouse_url)
    server.close()


def test_without_rights_the_error_names_the_command_and_an_up_to_date_warehouse_needs_none(tmp_path: Path) -> None:
    local = LocalClickHouse(tmp_path / "data").start()
    try:
        server = Warehouse.open(local.url)
        local.fault("error", code=497, match=r"^\s*(CREATE|ALTER)")
        with pytest.raises(NotAllowed, match=rf"schema version 0, this Salon needs {LATEST}; run `salon migrate` with a user that may"):
            server.migrate()
        local.clear_faults()
        assert server.migrate() == ALL
        local.fault("error", code=497, match=r"^\s*(CREATE|ALTER|INSERT)")
        assert server.migrate() == []
        with pytest.raises(NotAllowed, match="other TTLs"):
            server.migrate(Retention(events_days=90))
        server.close()
    finally:
        local.kill()


def test_retention_is_set_changed_and_taken_back(clickhouse_url: str) -> None:
    server = Warehouse.open(clickhouse_url)
    assert server.migrate(Retention()) == ALL  # nothing is deleted unasked
    assert server.query("SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '% TTL day%'") == [(0,)]
    wanted = Retention(events_days=90, units_days=400)
    assert server.migrate(wanted) == ["events go after 90 days", "unit_daily go after 400 days", "exposures go after 400 days"]
    assert server.migrate(wanted) == [] and server.migrate() == []
    now = utc_now()
    ages = [1, 89, 91, 399, 401]
    events = []
    for age in ages:
        at = now - timedelta(days=age)
        known: dict[str, Any] = {"event_id": derived_id(at, str(age)), "occurred_at": at, "received_at": at}
        events.append(Event(kind="exposure", experiment="ttl", arm="a", unit=f"u{age}", propensity=1.0, **known))
    server.insert("ttl", 1, 5, events)
    run(server, "OPTIMIZE TABLE events FINAL;\nOPTIMIZE TABLE exposures FINAL")
    assert server.query("SELECT unit FROM events ORDER BY unit") == [("u1",), ("u89",)]
    assert server.query("SELECT unit FROM exposures ORDER BY unit") == [("u1",), ("u399",), ("u89",), ("u91",)]
    generation = begin_generation(server)
    swap_generation(server, generation)
    drop_old_generation(server, generation)
    assert server.migrate(wanted) == []  # a new generation keeps it
    changed = server.migrate(Retention(events_days=30))
    assert changed == ["events go after 30 days", "unit_daily are kept for ever", "exposures are kept for ever"]
    server.close()


@pytest.mark.parametrize("name", ["prod", "odd 'name`\\"])
def test_the_form_for_a_cluster_parses_and_names_it_everywhere(warehouse: Warehouse, name: str) -> None:
    layout = Layout("salon", name)
    statements = [statement for migration in migrations(layout) for statement in migration.statements]
    statements += [
        layout.alter("events", "DELETE WHERE unit = 'x'"),
        layout.alter("unit_daily", "REPLACE PARTITION 20260301 FROM unit_daily_x_local"),
    ]
    for statement in statements:
        ((parsed,),) = warehouse.query("SELECT formatQuery({q:String})", {"q": statement})
        if statement.startswith(("CREATE", "ALTER")):
            assert "ON CLUSTER" in parsed, parsed
        if "MergeTree" in parsed and parsed.startswith("CREATE TABLE"):
            assert re.search(
                r"ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/(\{shard\}|all)/salon/\w+_g1', '\{replica\}'", parsed
            ), parsed
    text = "\n".join(statements)
    for table in ("events", "exposures", "unit_daily"):
        assert f"CREATE TABLE IF NOT EXISTS {table}_local" in text
        assert f"CREATE TABLE IF NOT EXISTS {table} ON CLUSTER" in text
    assert text.count("cityHash64(unit))") == 3
    assert "replicated_deduplication_window_seconds = 604800" in text and "non_replicated" not in text
    assert "TO exposures_local AS" in text and "FROM events_local AS e" in text
    assert "ALTER TABLE events_local ON CLUSTER" in text and "ALTER TABLE unit_daily_local ON CLUSTER" in text
    assert warehouse.query("SELECT formatQuery({q:String})", {"q": ROLLUP})
