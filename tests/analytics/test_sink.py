"""The sink: log to chDB exactly once through crashes, poison rows, erasure, outages; and its two commands."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from analytics.events import Event, new_id, utc_now
from analytics.local_log import LocalLog
from analytics.sink import LogIsOlder, Sink, SinkThread
from analytics.warehouse.client import Warehouse
from analytics.warehouse.erasure import Erased

ROOT = Path(__file__).parents[2]


def sum_of(erased: tuple[int, Erased]) -> int:
    """Rows of the log and of the events."""
    rows, receipt = erased
    return rows + receipt.event_rows


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    opened = Warehouse.open(f"chdb://{tmp_path_factory.mktemp('warehouse')}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LocalLog]:
    opened = LocalLog(tmp_path / "log")
    yield opened
    opened.close()


def events(experiment: str, count: int, **fields: object) -> list[Event]:
    now = utc_now()
    common = {"kind": "like", "occurred_at": now, "received_at": now, "experiment": experiment} | fields
    return [Event(event_id=new_id(), **common) for _ in range(count)]  # type: ignore[arg-type]


def ids(warehouse: Warehouse, experiment: str) -> list[str]:
    """With duplicates, if there were any on disk."""
    return [i for (i,) in warehouse.query("SELECT toString(event_id) FROM events WHERE experiment = {e:String}", {"e": experiment})]


def test_batches_move_in_order_and_only_once(log: LocalLog, warehouse: Warehouse) -> None:
    made = events("moved", 25)
    log.submit(made).result(10)
    sink = Sink(log, warehouse)
    assert [sink.drain(10) for _ in range(4)] == [10, 10, 5, 0]
    log.submit(events("moved", 25)).result(10)
    assert [sink.drain(10) for _ in range(4)] == [10, 10, 5, 0]
    assert warehouse.position(log.name) == sink.position == log.end()
    assert Sink(log, warehouse).drain() == 0
    assert len(ids(warehouse, "moved")) == 50
    assert {str(e.event_id) for e in made} < set(ids(warehouse, "moved"))


def test_poison_rows_are_set_aside_with_their_error_and_the_rest_goes_on(log: LocalLog, warehouse: Warehouse) -> None:
    good = events("poisoned", 40)
    poison = events("poisoned", 2, seed=2**63)
    log.submit([*good[:11], poison[0], *good[11:30], poison[1], *good[30:]]).result(10)
    sink = Sink(log, warehouse)
    while sink.drain():
        pass
    assert sorted(ids(warehouse, "poisoned")) == sorted(str(e.event_id) for e in good)
    assert [letter.event for letter in log.dead_letters()] == poison
    assert all("seed" in letter.error for letter in log.dead_letters())
    assert sink.set_aside == 2 and sink.position == log.end() == 42


def test_rows_that_clickhouse_itself_rejects_are_bisected_out_too(log: LocalLog, warehouse: Warehouse) -> None:
    good, bad = events("constrained", 9), events("constrained", 1, kind="bad")
    with warehouse._client() as client:
        client.command("ALTER TABLE events ADD CONSTRAINT no_bad CHECK kind != 'bad'")
    try:
        log.submit([*good[:4], *bad, *good[4:]]).result(10)
        sink = Sink(log, warehouse)
        while sink.drain():
            pass
    finally:
        with warehouse._client() as client:
            client.command("ALTER TABLE events DROP CONSTRAINT no_bad")
    assert sorted(ids(warehouse, "constrained")) == sorted(str(e.event_id) for e in good)
    assert [letter.event for letter in log.dead_letters()] == bad
    assert warehouse.position(log.name) == log.end()


def test_erase_reaches_log_and_warehouse_and_an_erased_tail_does_not_hold_the_sink(log: LocalLog, warehouse: Warehouse) -> None:
    log.submit(events("erased", 5, unit="keep") + events("erased", 5, unit="gone")).result(10)
    sink = Sink(log, warehouse)
    sink.drain()
    log.submit(events("erased", 7, unit="gone")).result(10)
    assert sum_of(sink.erase("gone")) == 7 + 5 + 5
    assert sink.drain() == 0
    assert sink.position == log.end() == 17
    assert len(ids(warehouse, "erased")) == 5


def test_the_thread_drains_waits_and_stops(log: LocalLog, warehouse: Warehouse) -> None:
    thread = SinkThread(Sink(log, warehouse), pause_seconds=60)
    log.submit(events("threaded", 3)).result(10)
    thread.start()
    assert thread.wait_until(log.end(), 10)
    assert len(ids(warehouse, "threaded")) == 3
    time.sleep(0.1)
    log.submit(events("threaded", 4)).result(10)
    began = time.monotonic()
    assert thread.wait_until(log.end(), 10)
    assert time.monotonic() - began < 5, "waiting must not sit out the pause"
    assert len(ids(warehouse, "threaded")) == 7
    assert not thread.wait_until(log.end() + 1, 0.2)
    thread.stop()
    thread.stop()
    assert (thread.failures, thread.last_error, thread.moved) == (0, None, 7)


def test_the_thread_reports_an_outage_backs_off_and_recovers(log: LocalLog, warehouse: Warehouse) -> None:
    log.submit(events("outage", 6)).result(10)
    with warehouse._client() as client:
        client.command("RENAME TABLE events TO hidden")
    thread = SinkThread(Sink(log, warehouse), backoff_seconds=0.05, max_backoff_seconds=0.2)
    thread.start()
    try:
        assert not thread.wait_until(log.end(), 0.5)
        assert 2 <= thread.failures <= 12
        assert thread.last_error is not None and "salon migrate" in thread.last_error
        with warehouse._client() as client:
            client.command("RENAME TABLE hidden TO events")
        assert thread.wait_until(log.end(), 10)
        assert thread.last_error is None
        assert len(ids(warehouse, "outage")) == 6
    finally:
        thread.stop()


def restored(folder: Path, warehouse: Warehouse, since: int) -> LocalLog:
    """A log of 10 events, copied, read up to 15 by the warehouse, put back, with `since` new events."""
    log = LocalLog(folder / "log")
    log.submit(events("restored", 10)).result(10)
    log.close()
    shutil.copytree(folder / "log", folder / "old")
    log = LocalLog(folder / "log")
    log.submit(events("restored", 5)).result(10)
    assert Sink(log, warehouse).drain() == 15
    log.close()
    old = LocalLog(folder / "old")
    if since:
        old.submit(events("restored", since)).result(10)
    return old


def test_an_old_log_beside_a_newer_warehouse_is_refused_with_both_positions(tmp_path: Path, warehouse: Warehouse) -> None:
    log = restored(tmp_path, warehouse, since=2)
    thread = SinkThread(Sink(log, warehouse), backoff_seconds=0.05)
    thread.start()
    assert not thread.wait_until(log.end() + 1, 0.5)
    thread.stop()
    log.close()
    assert thread.last_error is not None
    assert "up to position 15, but the log ends at 12" in thread.last_error and "remove the warehouse" in thread.last_error


@pytest.mark.parametrize("since", [5, 30])
def test_an_old_log_that_has_caught_up_is_still_known(tmp_path: Path, warehouse: Warehouse, since: int) -> None:
    log = restored(tmp_path, warehouse, since)
    with pytest.raises(LogIsOlder, match=f"up to position 15, but lacks the event .* ends at {10 + since},"):
        Sink(log, warehouse).drain()
    log.close()


def test_a_last_event_that_was_set_aside_or_erased_is_no_sign_of_an_old_log(log: LocalLog, warehouse: Warehouse) -> None:
    log.submit([*events("last", 3), *events("last", 1, seed=2**63)]).result(10)
    assert Sink(log, warehouse).drain() == 4 and len(log.dead_letters()) == 1
    assert Sink(log, warehouse).drain() == 0
    log.submit(events("last", 2, unit="gone")).result(10)
    sink = Sink(log, warehouse)
    assert sink.drain() == 2 and sum_of(sink.erase("gone")) == 4
    assert Sink(log, warehouse).drain() == 0


CRASHER = """
import os, signal, sys
from analytics.event_log import open_log
from analytics.sink import Sink
from analytics.warehouse.client import Warehouse
where, log, warehouse = sys.argv[1], open_log(sys.argv[2]), Warehouse.open(sys.argv[3])
warehouse.migrate()
def die(): os.kill(os.getpid(), signal.SIGKILL)
note, calls = Warehouse._note, []
def crashing(client, name, position, pending):
    calls.append(pending)
    if where == "after insert" and len(calls) == 4: die()
    note(client, name, position, pending)
    if where == "after intent" and len(calls) == 3: die()
    if where == "after done" and len(calls) == 4: die()
Warehouse._note = staticmethod(crashing)
sink = Sink(log, warehouse)
moved = 0
while count := sink.drain(100):
    moved += count
print("moved", moved)
print(*[i for (i,) in warehouse.query("SELECT toString(event_id) FROM events")])
warehouse.close()
"""


def run_sink(where: str, folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-c", CRASHER, where, f"local:{folder}/log", f"chdb://{folder}/warehouse"]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)


def test_killed_at_every_step_nothing_is_lost_or_doubled_on_disk(tmp_path: Path) -> None:
    log = LocalLog(tmp_path / "log")
    made: list[Event] = []
    for where in ("after intent", "after insert", "after done"):
        made += (new := events("killed", 250))
        log.submit(new).result(10)
        assert run_sink(where, tmp_path).returncode == -signal.SIGKILL
    made += (new := events("killed", 250))
    log.submit(new).result(10)
    last = run_sink("never", tmp_path)
    log.close()
    moved, stored = last.stdout.splitlines()
    assert moved.startswith("moved "), last
    # Not FINAL: the token alone has kept the repeated ranges out.
    assert sorted(stored.split()) == sorted(str(e.event_id) for e in made)


HOLDER = """
import sys
from analytics.warehouse.client import Warehouse
warehouse = Warehouse.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
warehouse.close()
"""


def salon(folder: Path, *arguments: str, stop_after_first_line: bool = False) -> tuple[int, str, str]:
    program = "import sys; from salon.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments]
    pipe, env = subprocess.PIPE, os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True, env=env)
    first = ""
    if stop_after_first_line and process.stdout:
        first = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=400)
    return process.returncode, first + out, err


def test_salon_migrate_and_salon_sink(tmp_path: Path) -> None:
    (tmp_path / "salon.toml").write_text('[events]\nlog = "local:e"\n[warehouse]\nurl = "chdb://w"\n')
    code, out, err = salon(tmp_path, "migrate", "--format", "json")
    assert code == 0, err
    said = msgspec.json.decode(out)
    assert said["warehouse"] == f"chdb://{tmp_path}/w" and said["created"] == []
    versions = ["1 events and log positions", "2 origins, exposures, daily rollups, erasures", "3 events in daily rollups, stored facts"]
    assert said["applied"] == versions
    log = LocalLog(tmp_path / "e")
    log.submit(events("command", 12)).result(10)
    code, out, err = salon(tmp_path, "sink", "--once")
    assert (code, out) == (0, "12 events moved, at position 12\n"), err
    log.submit(events("command", 3)).result(10)
    code, out, err = salon(tmp_path, "sink", "--format", "json", stop_after_first_line=True)
    assert code == 0, err
    assert msgspec.json.decode(out.splitlines()[-1]) == {"moved": 3, "position": 15, "set_aside": 0, "error": None}
    log.close()
    held = subprocess.Popen([sys.executable, "-c", HOLDER, f"chdb://{tmp_path}/w"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert held.stdout is not None and held.stdout.readline() == b"open\n"
        code, out, err = salon(tmp_path, "migrate")
        assert code == 0 and "is open in another process" in out, err
    finally:
        held.communicate()
    (tmp_path / "salon.toml").write_text('[warehouse]\nurl = "chdb:/w"\n')
    code, out, err = salon(tmp_path, "migrate")
    assert code == 2 and "chdb://DIR" in err
