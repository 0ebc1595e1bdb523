"""The local event log: durability, duplicates, bounds, faults, erasure."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from uuid import UUID

import pytest

from analytics.event_log import LogFull, open_log
from analytics.events import Event, new_id, utc_now
from analytics.local_log import LocalLog

ROOT = Path(__file__).parents[2]


def event(unit: str = "u", event_id: UUID | None = None, **more: object) -> Event:
    now = utc_now()
    return Event(event_id=event_id or new_id(), kind="like", occurred_at=now, received_at=now, unit=unit, **more)  # type: ignore[arg-type]


def test_what_is_acknowledged_is_read_back_equal_and_in_order(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    events = [event(f"u{i}", value=i / 3, attributes={"é": "\n"}, image_id=new_id(), seed=2**40) for i in range(250)]
    assert log.submit(events[:100]).result(10) == [True] * 100
    assert log.submit(events[100:]).result(10) == [True] * 150
    rows = log.read(0, 1000)
    assert [e for _, e in rows] == events
    positions = [p for p, _ in rows]
    assert positions == sorted(set(positions)) and positions[-1] == log.end()
    assert [e for _, e in log.read(positions[99], 7)] == events[100:107]
    assert log.submit([]).result(10) == []
    log.close()


def test_duplicates_count_once_inside_a_batch_across_batches_and_after_reopening(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    a, b, c = event(), event(), event()
    assert log.submit([a, b, a]).result(10) == [True, True, False]
    assert log.submit([b, c, c, a]).result(10) == [False, True, False, False]
    log.close()
    again = LocalLog(tmp_path)
    assert again.submit([c, b]).result(10) == [False, False]
    assert [e for _, e in again.read(0, 10)] == [a, b, c]
    assert again.name == log.name
    again.close()
    assert LocalLog(tmp_path / "other").name != log.name


def test_a_duplicate_submitted_concurrently_is_new_for_exactly_one(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    events = [event() for _ in range(40)]
    answers: list[Future[list[bool]]] = []
    lock = threading.Lock()

    def send() -> None:
        for e in events:
            future = log.submit([e])
            with lock:
                answers.append(future)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(f.result(10)[0] for f in answers) == 40
    assert len(log.read(0, 1000)) == 40
    log.close()


def test_another_process_reads_at_once_what_was_acknowledged(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    e = event("somebody")
    log.submit([e]).result(10)
    program = "import sys; from analytics.event_log import open_log; print(open_log(sys.argv[1]).read(0, 9)[0][1].event_id)"
    answer = subprocess.run([sys.executable, "-c", program, f"local:{tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.stdout.strip() == str(e.event_id), answer.stderr
    log.close()


def test_over_the_bound_it_refuses_and_takes_again_once_the_sink_has_consumed(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400_000, retry_after_seconds=3.5)
    batch = lambda: [event("u" * 200) for _ in range(50)]  # noqa: E731
    stored = 0
    with pytest.raises(LogFull, match="400000 bytes") as full:
        for _ in range(1000):
            stored += sum(log.submit(batch()).result(10))
    assert full.value.retry_after_seconds == 3.5
    assert 300 < stored < 1500
    assert len(log.read(0, 10_000)) == stored
    # The sink's process has a log object of its own; ours must notice the room that it makes.
    sink_side = LocalLog(tmp_path, max_bytes=400_000)
    sink_side.consumed(sink_side.read(0, 10_000)[-1][0])
    assert log.submit(batch()).result(10) == [True] * 50
    assert log.read(0, 10_000)[-1][0] == log.end() == stored + 50
    sink_side.close()
    log.close()


def test_what_the_sink_has_not_consumed_is_never_dropped(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400_000)
    first = [event("u" * 200) for _ in range(300)]
    log.submit(first).result(10)
    half = log.read(0, 150)[-1][0]
    for position in (9, half, *range(10)):
        log.consumed(position)
    assert log._select("SELECT value FROM facts WHERE key = 'consumed'") == [(str(half),)]
    kept = [e for p, e in log.read(0, 10_000) if p > half]
    assert kept == first[150:]
    log.close()


def test_erase_removes_a_persons_rows_and_bytes_and_positions_stay_monotone(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    theirs = [event("erase-me-please") for _ in range(20)]
    others = [event("keep") for _ in range(20)]
    log.submit([e for pair in zip(others, theirs, strict=True) for e in pair]).result(10)
    end = log.end()
    log.set_aside(end, "wrong")
    assert log.erase("erase-me-please") == 21
    assert log.erase("erase-me-please") == 0
    assert [e for _, e in log.read(0, 100)] == others
    assert log.dead_letters() == []
    for file in tmp_path.iterdir():
        assert b"erase-me-please" not in file.read_bytes(), file
    assert log.end() == end
    log.submit([event()]).result(10)
    assert log.read(0, 100)[-1][0] > end
    log.close()


def test_dead_letters_are_kept_once_with_their_error(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    e = event(seed=2**70)
    log.submit([e]).result(10)
    log.set_aside(1, "first")
    log.set_aside(1, "seed out of range")
    (letter,) = log.dead_letters()
    assert (letter.position, letter.event, letter.error) == (1, e, "seed out of range")
    log.close()


DISK = """
import resource, signal, sys
from analytics.event_log import open_log
from analytics.events import Event, new_id, utc_now
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = open_log(sys.argv[1])
def batch(n):
    now = utc_now()
    return [Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, prompt="x" * 1000) for _ in range(n)]
kept = batch(20)
assert log.submit(kept).result(10) == [True] * 20
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
lost = batch(400)
future = log.submit(lost)
try:
    future.result(10)
    print("stored?!")
except OSError as error:
    print("refused", error.errno, error.filename)
assert [e for _, e in log.read(0, 1000)] == kept, "half stored"
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert log.submit(lost).result(10) == [True] * 400
assert [e for _, e in log.read(0, 1000)] == kept + lost
log.close()
print("recovered")
"""


def test_a_full_disk_fails_the_future_stores_nothing_and_recovers(tmp_path: Path) -> None:
    answer = subprocess.run([sys.executable, "-c", DISK, f"local:{tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = answer.stdout.split("\n")
    assert lines[0].startswith("refused ") and str(tmp_path) in lines[0], answer
    assert lines[1] == "recovered", answer


def test_sqlites_own_disk_full_becomes_enospc(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log.submit([event()]).result(10)
    log._do(lambda db: db.execute("PRAGMA max_page_count = 12"), transaction=False)
    with pytest.raises(OSError, match="disk is full") as refused:
        log.submit([event(prompt="x" * 4000) for _ in range(50)]).result(10)
    assert refused.value.errno == 28
    assert len(log.read(0, 100)) == 1
    assert log.submit([event()]).result(10) == [True]
    log.close()


@pytest.mark.skipif(os.getuid() != 0, reason="gives up root's rights to see what others see")
def test_a_read_only_folder_is_a_clear_oserror(tmp_path: Path) -> None:
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[2])\nfrom analytics.local_log import LocalLog\nfrom pathlib import Path\n"
        "os.setuid(65534)\ntry:\n    LocalLog(Path(sys.argv[1]))\nexcept OSError as error:\n    print('refused', error)"
    )
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp") and folder != Path("/"):
            folder.chmod(0o755)
    folder = tmp_path / "events"
    folder.mkdir(mode=0o555)
    answer = subprocess.run([sys.executable, "-c", program, str(folder), str(ROOT)], capture_output=True, text=True, timeout=60)
    assert answer.stdout.startswith("refused") and "events.sqlite" in answer.stdout, answer


def test_a_file_that_is_no_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.sqlite").write_text("nonsense " * 1000)
    with pytest.raises(OSError, match="no event log") as wrong:
        LocalLog(tmp_path)
    assert wrong.value.filename == str(tmp_path / "events.sqlite")


def test_close_stores_what_was_submitted_and_then_refuses(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    futures = [log.submit([event()]) for _ in range(200)]
    log.close()
    log.close()
    assert all(f.done() and f.result() == [True] for f in futures)
    with pytest.raises(ValueError, match="closed"):
        log.submit([event()])
    with pytest.raises(ValueError, match="closed"):
        log.read(0, 1)
    assert sqlite3.connect(tmp_path / "events.sqlite").execute("SELECT count(*) FROM events").fetchone() == (200,)


APPENDER = """
import sys, threading
from analytics.event_log import open_log
from analytics.events import Event, new_id, utc_now
log = open_log(sys.argv[1])
lock = threading.Lock()
def send():
    while True:
        now = utc_now()
        events = [Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, unit="u") for _ in range(7)]
        if not all(log.submit(events).result()): raise SystemExit("a new id was called a duplicate")
        log.submit(events)  # a retry right away
        with lock:
            sys.stdout.write("".join(f"{e.event_id}\\n" for e in events)); sys.stdout.flush()
for _ in range(3):
    threading.Thread(target=send, daemon=True).start()
threading.Event().wait()
"""


def test_kill_9_at_random_instants_loses_nothing_acknowledged_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    acked: list[str] = []
    for round_number in range(6):
        out = tmp_path / f"acked-{round_number}"
        with out.open("wb") as file:
            process = subprocess.Popen([sys.executable, "-c", APPENDER, f"local:{tmp_path / 'log'}"], cwd=ROOT, stdout=file)
            deadline = time.monotonic() + 30
            while out.stat().st_size == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.wait()
        acked += [line for line in out.read_text().split("\n") if len(line) == 36]
    assert len(acked) > 100
    log = open_log(f"local:{tmp_path / 'log'}")
    ids = [str(e.event_id) for _, e in log.read(0, 10_000_000)]
    log.close()
    assert len(ids) == len(set(ids))
    assert set(acked) <= set(ids)
    # Seven events go in together: no submission may be half there.
    assert len(ids) % 7 == 0


def test_open_log_refuses_other_urls_with_the_fix() -> None:
    with pytest.raises(ValueError, match="cannot be opened as a log on disk; this needs local:DIR"):
        open_log("kafka://broker:9092/")
    with pytest.raises(ValueError, match="write local:DIR") as wrong:
        open_log("redis://me:hunter2@host")
    assert "hunter2" not in str(wrong.value)
    with pytest.raises(ValueError, match="unknown option 'size'"):
        open_log("local:x?size=3")
    with pytest.raises(ValueError, match="max_bytes is 'lots'"):
        open_log("local:x?max_bytes=lots")
