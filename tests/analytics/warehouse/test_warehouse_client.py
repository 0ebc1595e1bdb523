"""The warehouse on chDB and over HTTP: migrations, exact inserts, locks, erasure, errors."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from analytics.events import Event, derived_id, new_id, utc_now
from analytics.warehouse.address import parse_address
from analytics.warehouse.client import Warehouse, WarehouseLocked
from analytics.warehouse.rows import RowsRejected

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=["chdb", "http"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """The embedded warehouse, and one behind ClickHouse's HTTP protocol."""
    if request.param == "chdb":
        yield request.getfixturevalue("warehouse")
        return
    url = urlsplit(request.getfixturevalue("clickhouse"))
    opened = Warehouse.open(url._replace(path=f"/t{new_id().hex}").geturl())
    opened.migrate()
    yield opened
    opened.close()


def event(**fields: object) -> Event:
    now = utc_now()
    return Event(**{"event_id": new_id(), "kind": "like", "occurred_at": now, "received_at": now} | fields)  # type: ignore[arg-type]


def stored(warehouse: Warehouse, experiment: str) -> tuple[int, int]:
    """Rows on disk, and rows after deduplication."""
    where = "WHERE experiment = {e:String}"
    ((raw,),) = warehouse.query(f"SELECT count() FROM events {where}", {"e": experiment})
    ((final,),) = warehouse.query(f"SELECT count() FROM events FINAL {where}", {"e": experiment})
    return raw, final


def test_migrations_are_recorded_once(anywhere: Warehouse) -> None:
    assert anywhere.migrate() == []
    assert anywhere.query("SELECT version, name FROM schema_migrations FINAL ORDER BY version") == [
        (1, "events and log positions"),
        (2, "origins, exposures, daily rollups, erasures"),
        (3, "events in daily rollups, stored facts"),
    ]


def test_every_field_comes_back_as_it_went_in(anywhere: Warehouse) -> None:
    at = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    texts = {"route": "hero", "experiment": "fields", "arm": "a", "variant_digest": "sha256:00", "unit": "ü'\\\n", "status": "ok"}
    ids = {"event_id": derived_id(at, "x"), "generation_id": new_id(), "image_id": new_id()}
    whole = {"position": 3, "grid": 4, "flags": 5, "seed": -(2**63), "steps": 20}
    real = {"propensity": 0.1, "value": 1e-300, "guidance": 2.5, "queue_ms": 0.25, "service_ms": 1e9}
    more = {"attributes": {"k'": "v\\", "": "é"}, "prompt": "a 'red' heart\n", "occurred_at": at, "sent_at": at}
    full = event(**texts, **ids, **whole, **real, **more, received_at=at + timedelta(microseconds=1))
    bare = event(experiment="fields", event_id=derived_id(at, "y"))
    anywhere.insert("fields", 1, 2, [full, bare])
    names = list(Event.__struct_fields__)
    columns = ", ".join(f"toUnixTimestamp64Micro({n})" if n.endswith("_at") else n for n in names)
    rows = anywhere.query(f"SELECT {columns} FROM events FINAL WHERE experiment = 'fields' ORDER BY arm DESC")
    for row, wanted in zip(rows, (full, bare), strict=True):
        for name, value in zip(names, row, strict=True):
            expected = getattr(wanted, name)
            if isinstance(expected, datetime):
                expected = (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
            assert value == expected, name
    assert anywhere.query("SELECT DISTINCT toString(day) FROM events WHERE experiment = 'fields'") == [("2026-02-28",)]


def test_a_range_goes_in_once_and_positions_follow(anywhere: Warehouse) -> None:
    events = [event(experiment="once", unit=str(i)) for i in range(10)]
    assert anywhere.position("once") == 0
    anywhere.insert("once", 1, 6, events[:6])
    anywhere.insert("once", 1, 6, events[:6])
    anywhere.insert("once", 7, 12, events[6:])
    anywhere.insert("once", 2, 5, events[1:5])
    assert (anywhere.position("once"), anywhere.pending("once")) == (12, None)
    assert stored(anywhere, "once") == (10, 10)
    with pytest.raises(ValueError, match="begins before 13"):
        anywhere.insert("once", 10, 20, events)
    with pytest.raises(ValueError, match="0 < first <= last"):
        anywhere.insert("once", 3, 2, [])
    anywhere.insert("once", 13, 40, [])
    assert anywhere.position("once") == 40
    assert anywhere.position("another") == 0


def test_the_token_alone_stops_a_repeated_range_and_final_alone_stops_a_repeated_event(anywhere: Warehouse) -> None:
    events = [event(experiment="layers", unit=str(i)) for i in range(20)]
    anywhere.insert("layers", 1, 20, events)
    # As after a crash between the insert and the note, with the note of the intent lost too.
    with anywhere._client() as client:
        client.command("ALTER TABLE log_positions DELETE WHERE log_name = 'layers'", settings={"mutations_sync": 2})
    assert anywhere.position("layers") == 0
    anywhere.insert("layers", 1, 20, events)
    assert stored(anywhere, "layers") == (20, 20)
    # The same events under other ranges: beyond what a token can know.
    anywhere.insert("other-name", 1, 15, events[:15])
    raw, final = stored(anywhere, "layers")
    assert (raw, final) == (35, 20)


def test_of_two_rows_with_one_id_the_first_to_arrive_stays(anywhere: Warehouse) -> None:
    first = event(experiment="first", unit="u", value=1.0)
    later = event(experiment="first", unit="u", value=2.0, event_id=first.event_id, received_at=first.received_at + timedelta(hours=1))
    anywhere.insert("first", 1, 1, [later])
    anywhere.insert("first", 2, 2, [first])
    assert anywhere.query("SELECT value FROM events FINAL WHERE experiment = 'first'") == [(1.0,)]
    with anywhere._client() as client:
        client.command("OPTIMIZE TABLE events FINAL")
    assert anywhere.query("SELECT value FROM events WHERE experiment = 'first'") == [(1.0,)]


def test_a_range_that_failed_is_pending_and_can_be_repeated(anywhere: Warehouse) -> None:
    good, poison = event(experiment="poison"), event(experiment="poison", seed=2**64)
    with pytest.raises(RowsRejected, match="column seed"):
        anywhere.insert("poison", 1, 2, [good, poison])
    assert anywhere.position("poison") == 0
    with anywhere._client() as client:
        client.command("ALTER TABLE events ADD CONSTRAINT no_bad CHECK kind != 'bad'")
    try:
        with pytest.raises(RowsRejected, match="no_bad"):
            anywhere.insert("poison", 1, 2, [good, event(experiment="poison", kind="bad")])
        assert (anywhere.position("poison"), anywhere.pending("poison")) == (0, 2)
    finally:
        with anywhere._client() as client:
            client.command("ALTER TABLE events DROP CONSTRAINT no_bad")
    anywhere.insert("poison", 1, 1, [good])
    assert stored(anywhere, "poison") == (1, 1)


def test_erase_leaves_no_row_of_the_unit(anywhere: Warehouse) -> None:
    events = [event(experiment="erase", unit="gone'\\" if i % 2 else "here") for i in range(20)]
    anywhere.insert("erase", 1, 20, events)
    assert anywhere.erase("gone'\\").event_rows == 10
    assert anywhere.erase("gone'\\").event_rows == 0
    assert anywhere.query("SELECT unit, count() FROM events WHERE experiment = 'erase' GROUP BY unit") == [("here", 10)]


def test_calls_from_several_threads_at_once(anywhere: Warehouse) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(5):
                anywhere.insert(f"thread-{number}", i + 1, i + 1, [event(experiment="threads", unit=f"{number}-{i}")])
                anywhere.query("SELECT count() FROM events FINAL")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert stored(anywhere, "threads") == (20, 20)


def test_a_folder_open_elsewhere_is_named_locked(warehouse: Warehouse) -> None:
    program = (
        "import sys\nfrom analytics.warehouse.client import Warehouse, WarehouseLocked\n"
        "try:\n    Warehouse.open(sys.argv[1])\nexcept WarehouseLocked as error:\n    print('locked:', error)"
    )
    answer = subprocess.run([sys.executable, "-c", program, warehouse.shown], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert "locked: the warehouse chdb://" in answer.stdout and "another process" in answer.stdout, answer
    assert answer.stderr == ""  # chDB's own words are not for people
    again = Warehouse.open(warehouse.shown)  # the process that holds it may open it again
    assert again.query("SELECT 1") == [(1,)]
    again.close()


def test_a_second_folder_in_one_process_is_no_lock_but_a_plain_error(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="different path") as wrong:
        Warehouse.open(f"chdb://{tmp_path}")
    assert not isinstance(wrong.value, WarehouseLocked)


def test_a_wrong_query_is_an_oserror_with_clickhouses_words(anywhere: Warehouse) -> None:
    with pytest.raises(OSError, match="nope"):
        anywhere.query("SELECT nope FROM events")
    with pytest.raises(LookupError, match="salon migrate"):
        anywhere.query("SELECT 1 FROM missing_table")


def test_the_base_install_opens_nothing_embedded_and_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['chdb'] = None\nfrom analytics.warehouse.client import Warehouse\nWarehouse.open(sys.argv[1])"
    answer = subprocess.run([sys.executable, "-c", program, f"chdb://{tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.stderr.rstrip().endswith("pip install 'salon[local]'"), answer.stderr


def test_addresses() -> None:
    remote = parse_address("clickhouse://me:p%40ss@db.example:9000/tables?secure=true", {})
    assert {name: remote.arguments[name] for name in ("interface", "host", "port", "username", "password")} == {
        "interface": "https",
        "host": "db.example",
        "port": 9000,
        "username": "me",
        "password": "p@ss",
    }
    assert (remote.database, remote.embedded, remote.shown) == ("tables", False, "clickhouse://db.example:9000/tables")
    plain = parse_address("clickhouse://db", {"SALON_CLICKHOUSE_PASSWORD": "secret"})
    assert plain.arguments["password"] == "secret" and plain.arguments["port"] == 8123 and plain.database == "salon"
    for url, text in (
        ("mysql://me:hunter2@host", "mysql"),
        ("clickhouse://me:hunter2@host?compress=1", "unknown option 'compress'"),
        ("clickhouse://me:hunter2@host:99999", "port"),
        ("clickhouse://host?secure=maybe", "maybe"),
        ("clickhouse:///db", "no host"),
        ("chdb://", "name a folder"),
    ):
        with pytest.raises(ValueError, match=text) as wrong:
            parse_address(url, {})
        assert "hunter2" not in str(wrong.value)


def test_a_server_out_of_reach_is_an_oserror_without_the_password() -> None:
    with pytest.raises(OSError, match=r"cannot be opened.*refused") as wrong:
        Warehouse.open("clickhouse://me:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(wrong.value)


def test_uuids_keep_their_bytes(anywhere: Warehouse) -> None:
    known = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    anywhere.insert("uuid", 1, 1, [event(experiment="uuid", event_id=known)])
    assert anywhere.query("SELECT toString(event_id), toString(day) FROM events WHERE experiment = 'uuid'") == [(str(known), "2023-06-30")]


def test_a_batch_over_110_days_goes_in(anywhere: Warehouse) -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    days = [start + timedelta(days=i) for i in range(110)]
    anywhere.insert("days", 1, 110, [event(experiment="days", event_id=derived_id(d, "d"), occurred_at=d, received_at=d) for d in days])
    assert stored(anywhere, "days") == (110, 110)
