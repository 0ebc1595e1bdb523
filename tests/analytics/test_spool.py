"""The local log as a spool: files of the last release, what waits, its bounds, what cannot be read, a disk that goes read-only."""

import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.backlog import SpoolState
from analytics.drain_rate import DrainRate
from analytics.event_log import LogFull
from analytics.events import Event, encode, new_id, utc_now
from analytics.local_log import LocalLog, Spooled

# What the first release made.
OLD_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE events
    (position INTEGER PRIMARY KEY AUTOINCREMENT, event_id BLOB NOT NULL UNIQUE, unit TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE dead_letters
    (position INTEGER PRIMARY KEY, unit TEXT NOT NULL, data BLOB NOT NULL, error TEXT NOT NULL, set_aside_at TEXT NOT NULL);
INSERT INTO facts VALUES ('id', 'abc'), ('consumed', '2');
"""


def event(unit: str = "u", event_id: UUID | None = None, **more: object) -> Event:
    now = utc_now()
    return Event(event_id=event_id or new_id(), kind="like", occurred_at=now, received_at=now, unit=unit, **more)  # type: ignore[arg-type]


def row(position: int, one: Event, batch: int | None = None) -> Spooled:
    return Spooled(position, one.event_id.bytes, one.unit, encode(one), batch)


def spoil(log: LocalLog, *positions: int) -> None:
    for position in positions:
        log._do(lambda db, at=position: db.execute("UPDATE events SET data = x'7b22ff' WHERE position = ?", (at,)))  # type: ignore[misc]


def test_a_file_of_the_last_release_opens_and_works(tmp_path: Path) -> None:
    old = [event(f"u{n}") for n in range(4)]
    received = old[2].received_at
    with sqlite3.connect(tmp_path / "events.sqlite") as db:
        db.executescript(OLD_SCHEMA)
        rows = [(one.event_id.bytes, one.unit, encode(one)) for one in old]
        db.executemany("INSERT INTO events (event_id, unit, data) VALUES (?, ?, ?)", rows)
        db.execute("INSERT INTO dead_letters VALUES (1, 'u0', ?, 'why', '2026-11-23T12:00:00+00:00')", (rows[0][2],))
    db.close()
    # Several at once, as after an upgrade: each finds the columns, or makes them.
    opened: list[LocalLog] = []
    threads = [threading.Thread(target=lambda: opened.append(LocalLog(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [log.name for log in opened] == ["local:abc"] * 4
    log = opened[0]
    assert log.read_spooled(0, 9) == [row(n, one) for n, one in enumerate(old, 1)]
    assert log.spool_state() == SpoolState(2, len(encode(old[2])) + len(encode(old[3])), received, 1)
    new = [event("a"), event("b")]
    assert log.submit([old[1], *new], together=True).result(10) == [False, True, True]
    # A duplicate uses a position up.
    assert log.read_spooled(4, 9) == [row(6, new[0], 5), row(7, new[1], 5)]
    assert [one for _, one in log.read(0, 9)] == old + new
    for each in opened:
        each.close()


def test_rows_of_one_request_share_a_number_that_no_other_has(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    one, two, three, four, five = (event(f"u{n}") for n in range(5))
    log.submit([one]).result(10)
    log.submit([two, three], together=True).result(10)
    log.submit([two, three, two], together=True).result(10)
    log.submit([four, five], together=True).result(10)
    log.submit([event("alone")], together=True).result(10)
    found = log.read_spooled(0, 9)
    assert found[:5] == [row(1, one), row(2, two, 2), row(3, three, 2), row(7, four, 7), row(8, five, 7)]
    assert found[5].batch is None
    assert log.read_spooled(2, 2) == found[2:4]
    log.close()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=4)),
        st.tuples(st.just("consume"), st.integers(0, 40)),
        st.tuples(st.just("erase"), st.sampled_from("ab")),
        st.tuples(st.just("elsewhere"), st.booleans()),
        st.tuples(st.just("fail"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(actions)
def test_what_waits_is_what_a_count_of_the_rows_says(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, object]]) -> None:
    folder = tmp_path_factory.mktemp("spool")
    ids = [new_id() for _ in range(31)]
    log, other = LocalLog(folder), LocalLog(folder)
    for what, value in drawn:
        if what == "append":
            log.submit([event(unit, ids[number]) for unit, number in value]).result(10)  # type: ignore[attr-defined]
        elif what == "consume":
            log.consumed(min(value, log.end()))  # type: ignore[type-var]
        elif what == "erase":
            log.erase(value)  # type: ignore[arg-type]
        elif what == "elsewhere":
            other.submit([event("c")]).result(10) if value else other.consumed(other.end())
        else:
            with pytest.raises(OSError, match=r"events\.sqlite"):
                log._do(lambda db: db.execute("SELECT nonsense FROM nowhere"))
        with sqlite3.connect(folder / "events.sqlite") as db:
            sql = "SELECT count(*), coalesce(sum(length(data)), 0), min(spooled_at) FROM events WHERE position > ?"
            count, size, _ = db.execute(sql, (log.consumed_position(),)).fetchone()
        db.close()
        state = log.spool_state()
        assert (state.events, state.bytes, state.oldest_at is None) == (count, size, count == 0)
    log.close()
    other.close()
    shutil.rmtree(folder)


def test_past_the_age_bound_it_refuses_says_both_ages_and_takes_again_once_consumed(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_age_seconds=0.5, retry_after_seconds=7.0, reader="Kafka")
    assert log.submit([event() for _ in range(10)]).result(10) == [True] * 10
    log.consumed(10)
    time.sleep(0.6)
    # Nothing waits, so nothing is old.
    log.submit([event()]).result(10)
    time.sleep(0.6)
    with pytest.raises(LogFull, match=r"has waited 1 s for Kafka, over the bound of 0 s") as full:
        log.submit([event()])
    assert full.value.retry_after_seconds == 7.0
    assert log.submit([event("gateway")], reserve=True).result(10) == [True]
    log.close()
    # It knows after a restart, too.
    again = LocalLog(tmp_path, max_age_seconds=0.5)
    with pytest.raises(LogFull):
        again.submit([event()])
    again.consumed(11)
    time.sleep(0.2)
    assert again.consumed_position() == 11
    with pytest.raises(LogFull):
        [again.submit([event()]).result(10) for _ in range(2) if time.sleep(0.3) is None]
    again.consumed(again.end())
    assert again.submit([event()]).result(10) == [True]
    again.close()


def test_the_gateways_own_events_may_use_an_eighth_more(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=400_000)
    batch = lambda: [event("u" * 200) for _ in range(20)]  # noqa: E731
    with pytest.raises(LogFull):
        while True:
            log.submit(batch()).result(10)
    before = log.used_bytes
    with pytest.raises(LogFull, match="400000 bytes"):
        while True:
            log.submit(batch(), reserve=True).result(10)
    assert before < 410_000 and 430_000 < log.used_bytes < 460_000
    log.close()


def test_history_makes_room_for_what_waits(tmp_path: Path) -> None:
    log = LocalLog(tmp_path, max_bytes=2_000_000)
    past = [event("u" * 200) for _ in range(1000)]
    log.submit(past).result(10)
    log.consumed(log.end())
    history = log.used_bytes
    assert 500_000 < history < 1_100_000
    waiting = 0
    with pytest.raises(LogFull):
        while True:
            waiting += sum(log.submit([event("u" * 200) for _ in range(20)]).result(10))
    assert log.read_spooled(0, 1)[0].position == len(past) + 1
    assert log.spool_state().events == waiting
    assert waiting * history / len(past) > 1_800_000
    log.close()


def test_retry_after_follows_from_how_fast_it_is_drained(tmp_path: Path) -> None:
    # By hand: 100 rows a second.
    rate = DrainRate()
    assert rate.seconds_for(500, 0.0) is None
    for second in range(11):
        rate.note(100 * second, None, float(second))
    assert rate.seconds_for(500, 10.0) == pytest.approx(5)
    assert rate.seconds_for(500, 20.0) == pytest.approx(10)
    assert rate.seconds_for(1, 10.0) == 1 and rate.seconds_for(10**9, 10.0) == 60
    assert rate.seconds_for(500, 100.0) is None
    # In 10 s the oldest became younger by 30 s beside the 10 s that passed: 60 s take 20 s.
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for second in range(11):
        rate.note(1, began + timedelta(seconds=4 * second), 200.0 + second)
    assert rate.seconds_until_younger(60, 210.0) == pytest.approx(20)
    # Drained more slowly than time passes.
    for second in range(11):
        rate.note(1, began + timedelta(seconds=second / 2), 300.0 + second)
    assert rate.seconds_until_younger(60, 310.0) is None


def test_what_cannot_be_read_is_set_aside_and_stops_nobody(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    events = [event(f"u{n}") for n in range(8)]
    log.submit(events).result(10)
    spoil(log, 1, 2, 3, 6, 8)
    # Three in a row, read two by two: an empty answer would mean the end.
    assert log.read(0, 2) == [(4, events[3])]
    assert log.read(4, 9) == [(5, events[4]), (7, events[6])]
    assert log.read(7, 9) == []
    letters = log.dead_letters()
    assert [(letter.position, letter.event, letter.data) for letter in letters] == [(n, None, b'{"\xff') for n in (1, 2, 3, 6, 8)]
    assert all("cannot be read" in letter.error for letter in letters)
    log.close()


def test_stored_finds_what_is_here_by_id(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    events = [event(f"u{n}") for n in range(1203)]
    log.submit(events).result(10)
    spoil(log, 3)
    strangers = [new_id(), new_id()]
    found = log.stored([strangers[0], *(one.event_id for one in reversed(events)), strangers[1]])
    assert found == {one.event_id: one for one in events if one is not events[2]}
    assert log.stored([]) == {}
    log.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of its own; remounted with `abort` it goes read-only under those who write, as after an I/O error."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None or subprocess.run(["mkfs.ext4", "-q", image], check=False).returncode:
        pytest.skip("a disk that goes read-only needs root and mkfs.ext4")
    if subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], check=False).returncode:
        pytest.skip("a disk that goes read-only needs the right to mount a loop device")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_goes_read_only_is_named_and_keeps_what_was_acknowledged(disk: Path, tmp_path: Path) -> None:
    log = LocalLog(disk / "spool")
    kept = [event() for _ in range(50)]
    assert all(log.submit(kept).result(10))
    subprocess.run(["mount", "-o", "remount,abort", disk], check=False, stderr=subprocess.DEVNULL)
    for _ in range(2):
        with pytest.raises(OSError, match="disk") as refused:
            log.submit([event()]).result(10)
        assert refused.value.filename == str(disk / "spool" / "events.sqlite")
    assert [one for _, one in log.read(0, 99)] == kept
    log.close()
    with pytest.raises(OSError, match="disk"):
        LocalLog(disk / "spool")
    subprocess.run(["umount", disk], check=True)
    subprocess.run(["mount", "-o", "loop", tmp_path / "image", disk], check=True)
    again = LocalLog(disk / "spool")
    assert [one for _, one in again.read(0, 99)] == kept
    assert again.submit([event()]).result(10) == [True]
    again.close()
