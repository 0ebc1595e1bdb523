"""The HTTP client against cut, refused, slow and killed connections: exact rows under tokens, and errors that name the host."""

import random
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from local_clickhouse import LocalClickHouse

from analytics.events import Event, new_id, utc_now
from analytics.warehouse import address
from analytics.warehouse.address import parse_address
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import to_arrow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalClickHouse]:
    local = LocalClickHouse(tmp_path_factory.mktemp("http") / "data", password="hunter2/&", seed=4).start()
    yield local
    local.kill()


@pytest.fixture
def remote(server: LocalClickHouse) -> Iterator[Warehouse]:
    server.clear_faults()
    opened = Warehouse.open(server.url)
    opened.migrate()
    yield opened
    server.clear_faults()
    opened.close()


@pytest.fixture
def unmerged(remote: Warehouse) -> Iterator[None]:
    """A merge would make one of two rows with one id, and nobody would see that there were two."""
    for word in ("STOP", "START"):
        for table in ("events", "exposures"):
            with remote.connections.client() as client:
                client.command(f"SYSTEM {word} MERGES {table}")
        if word == "STOP":
            yield


def block(experiment: str, rows: int, first: int = 0) -> pa.Table:
    now = utc_now()
    known: dict[str, Any] = {"kind": "exposure", "experiment": experiment, "arm": "a", "occurred_at": now, "received_at": now}
    events = [Event(event_id=new_id(), unit=f"{experiment}-{first + i}", propensity=0.5, **known) for i in range(rows)]
    return to_arrow(events, log_name="topic", partition=1, offsets=range(first, first + rows))


def insist(warehouse: Warehouse, token: str, table: pa.Table) -> int:
    """Repeat until it is in. Returns how often it failed."""
    failures = 0
    while True:
        try:
            warehouse.insert_exact(token, table)
            return failures
        except OSError as error:
            assert "127.0.0.1" in str(error) and "hunter2" not in str(error)
            failures += 1
            time.sleep(0.02)


@pytest.mark.usefixtures("unmerged")
@pytest.mark.parametrize("kind", ["cut_after", "cut_before"])
def test_inserts_cut_half_of_the_time_and_repeated_put_every_row_in_once(server: LocalClickHouse, remote: Warehouse, kind: str) -> None:
    blocks = [(f"{kind}:{n}", block(kind, 50, 50 * n)) for n in range(8)]
    server.fault(kind, match="INSERT INTO (events|dirty_days)", probability=0.5)
    failures = sum(insist(remote, token, table) for token, table in blocks)
    used = server.faults()[0]["used"]
    server.clear_faults()
    # The client itself sends a cut request again now and then: what counts is what the server did.
    assert used >= 4 and failures <= used
    assert failures >= 2
    where = "WHERE experiment = {e:String}"
    (counts,) = remote.query(f"SELECT count(), uniqExact(event_id), min(log_offset), max(log_offset) FROM events {where}", {"e": kind})
    assert counts == (400, 400, 0, 399)
    # The view's target counts no repeated block twice either.
    assert remote.query(f"SELECT count(), uniqExact(unit) FROM exposures {where}", {"e": kind}) == [(400, 400)]
    assert remote.query("SELECT count() FROM dirty_days FINAL WHERE reason LIKE {r:String}", {"r": f"{kind}:%"}) == [(8,)]


@pytest.mark.usefixtures("unmerged")
def test_without_tokens_the_same_cuts_put_rows_in_twice(server: LocalClickHouse, remote: Warehouse) -> None:
    """The negative control of the test above."""
    server.fault("cut_after", match="INSERT INTO events", probability=0.5)
    for n in range(8):
        table, tries = block("control", 50, 50 * n), 0
        while True:
            tries += 1
            try:
                remote.insert_exact(f"control:{n}:{tries}", table)
                break
            except OSError:
                pass
    assert server.faults()[0]["used"] >= 2
    server.clear_faults()
    ((rows, ids),) = remote.query("SELECT count(), uniqExact(event_id) FROM events WHERE experiment = 'control'")
    assert ids == 400 and rows > 400


def test_a_server_killed_at_random_moments_loses_and_doubles_nothing(server: LocalClickHouse, remote: Warehouse) -> None:
    blocks = [(f"killed:{n}", block("killed", 40, 40 * n)) for n in range(15)]
    stop = threading.Event()

    def kill() -> None:
        generator = random.Random(7)
        for _ in range(3):
            time.sleep(generator.uniform(0.05, 0.5))
            server.kill()
            server.start()
        stop.set()

    killer = threading.Thread(target=kill)
    killer.start()
    failures = 0
    for round_ in range(1000):
        for token, table in blocks:
            failures += insist(remote, token, table)
        if stop.is_set() and round_ > 0:
            break
    killer.join()
    assert failures > 0
    assert remote.query("SELECT count(), uniqExact(event_id) FROM events WHERE experiment = 'killed'") == [(600, 600)]
    assert remote.query("SELECT count() FROM exposures WHERE experiment = 'killed'") == [(600,)]


def test_a_slow_query_holds_up_no_other(server: LocalClickHouse, remote: Warehouse) -> None:
    server.fault("delay", match="SELECT 'slow'", seconds=3)
    slow = threading.Thread(target=remote.query, args=("SELECT 'slow'",))
    slow.start()
    time.sleep(0.2)
    began = time.monotonic()
    assert remote.query("SELECT 1") == [(1,)]
    assert time.monotonic() - began < 2 and slow.is_alive()
    slow.join()


def test_a_paused_server_is_given_up_after_the_time_out(server: LocalClickHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = parse_address(server.url, {}).arguments
    assert (patience["connect_timeout"], patience["send_receive_timeout"]) == (5, 300)
    monkeypatch.setattr(address, "ANSWER_SECONDS", 1)
    warehouse = Warehouse.open(server.url)
    server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(OSError, match=rf"127.0.0.1:{server.port}.*timed out"):
            warehouse.query("SELECT 1")
        assert time.monotonic() - began < 10
    finally:
        server.resume()
    assert warehouse.query("SELECT 1") == [(1,)]
    warehouse.close()


def test_errors_name_host_and_reason_and_no_secret(server: LocalClickHouse, remote: Warehouse) -> None:
    with pytest.raises(OSError, match="Authentication failed") as wrong:
        Warehouse.open(server.url.replace("hunter2", "hunter3"))
    assert f"127.0.0.1:{server.port}" in str(wrong.value) and "hunter" not in str(wrong.value)
    assert "hunter" not in repr(parse_address(server.url, {}))
    server.fault("status", status=503)
    with pytest.raises(OSError, match="503") as wrong:
        remote.query("SELECT {unit:String}", {"unit": "a-person"})
    assert "a-person" not in str(wrong.value)
    server.kill()
    with pytest.raises(OSError, match=rf"127.0.0.1:{server.port}/salon (fails|cannot be opened): .*Connection refused") as wrong:
        remote.query("SELECT {unit:String}", {"unit": "a-person"})
    assert "a-person" not in str(wrong.value) and "hunter" not in str(wrong.value)
    server.start()
    assert remote.query("SELECT {unit:String}", {"unit": "a-person"}) == [("a-person",)]


def test_every_compression_that_the_client_knows(server: LocalClickHouse) -> None:
    import clickhouse_connect

    arguments = parse_address(server.url, {}).arguments
    for method in ("lz4", "zstd", "gzip", False):
        client = clickhouse_connect.get_client(**arguments, compress=method)
        client.command("CREATE TABLE IF NOT EXISTS packed (a String) ENGINE = MergeTree ORDER BY a")
        client.insert("packed", [[f"{method}-{'x' * 5000}"]], column_names=["a"])
        assert client.query("SELECT length(a) FROM packed").result_rows == [(len(f"{method}-") + 5000,)]
        client.command("DROP TABLE packed SYNC")
        client.close()


def test_an_erasure_whose_answer_is_cut_is_repeated(server: LocalClickHouse, remote: Warehouse, tmp_path: Path) -> None:
    remote.insert_exact("erase", block("erase", 20))
    received = utc_now() - timedelta(seconds=1)
    server.fault("cut_after", match="DELETE WHERE", times=1)
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        remote.erase("erase-3")
    assert remote.erasures().covers("erase-3", received)
    receipt = remote.erase("erase-3")
    assert set(receipt.rows) == {"events", "exposures", "unit_daily"}
    for table in receipt.rows:
        assert remote.query(f"SELECT count() FROM {table} WHERE unit = 'erase-3'") == [(0,)]
