"""The SQLite file of the local log: its tables, what one transaction does, and its errors as OSError."""

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

TRIM_ROWS = 2_000

Row = tuple[bytes, str, bytes]

SCHEMA = """
CREATE TABLE IF NOT EXISTS events
    (position INTEGER PRIMARY KEY AUTOINCREMENT, event_id BLOB NOT NULL UNIQUE, unit TEXT NOT NULL, data BLOB NOT NULL,
    batch INTEGER, spooled_at INTEGER);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters
    (position INTEGER PRIMARY KEY, unit TEXT NOT NULL, data BLOB NOT NULL, error TEXT NOT NULL, set_aside_at TEXT NOT NULL);
"""
# What came after the first release; a file made by it has tables without them. `batch`: rows with the same number came in
# one request; `spooled_at`: milliseconds since 1970.
ADDED_COLUMNS = ("batch", "spooled_at")
INSERT = "INSERT INTO events (event_id, unit, data, batch, spooled_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING"
CONSUMED = "coalesce((SELECT CAST(value AS INTEGER) FROM facts WHERE key = 'consumed'), 0)"


def create(db: sqlite3.Connection) -> None:
    """Make the tables, or add what an older release did not have."""
    db.executescript(SCHEMA)
    if all(name in _columns(db) for name in ADDED_COLUMNS):
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        # Looked at again: another process may have been first.
        present = _columns(db)
        for name in ADDED_COLUMNS:
            if name not in present:
                db.execute(f"ALTER TABLE events ADD COLUMN {name} INTEGER")
        db.execute("COMMIT")
    except sqlite3.Error:
        db.execute("ROLLBACK")
        raise


def append(db: sqlite3.Connection, rows: Sequence[Row], together: bool = False) -> list[bool]:
    """Insert in the open transaction. Says for each row whether its event_id is new; within `rows` the first counts."""
    if not rows:
        return []
    before = db.total_changes
    last = last_position(db)
    # The first position that these rows can get: no two batches share it.
    batch = last + 1 if together and len(rows) > 1 else None
    at = time.time_ns() // 1_000_000
    db.executemany(INSERT, [(event_id, unit, data, batch, at) for event_id, unit, data in rows])
    if db.total_changes - before == len(rows):
        return [True] * len(rows)
    fresh = {bytes(event_id) for (event_id,) in db.execute("SELECT event_id FROM events WHERE position > ?", (last,))}
    new = []
    for event_id, _, _ in rows:
        new.append(event_id in fresh)
        fresh.discard(event_id)
    return new


def append_again(db: sqlite3.Connection, position: int, event_id: bytes) -> int:
    """Store the dead letter at `position` at a new position, and forget the letter; returns the new one, 0 for no such letter."""
    found = db.execute("SELECT unit, data FROM dead_letters WHERE position = ?", (position,)).fetchone()
    if found is None:
        return 0
    db.execute("DELETE FROM events WHERE event_id = ?", (event_id,))
    append(db, [(event_id, *found)])
    db.execute("DELETE FROM dead_letters WHERE position = ?", (position,))
    return last_position(db)


def last_position(db: sqlite3.Connection) -> int:
    """The highest position given out, or 0."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(row[0]) if row else 0


def note_consumed(db: sqlite3.Connection, position: int) -> None:
    """Remember how far the sink is; never goes back."""
    sql = """INSERT INTO facts VALUES ('consumed', ?) ON CONFLICT (key)
        DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"""
    db.execute(sql, (position,))


def consumed_position(db: sqlite3.Connection) -> int:
    """How far the consumer is; 0 when it has nothing yet."""
    return int(db.execute(f"SELECT {CONSUMED}").fetchone()[0])


def waiting(db: sqlite3.Connection, after: int, until: int | None = None) -> tuple[int, int]:
    """How many events, and how many bytes of JSON, lie above `after`, up to `until` if given. Reads every row of them."""
    sql, bounds = "SELECT count(*), coalesce(sum(length(data)), 0) FROM events WHERE position > ?", [after]
    if until is not None:
        sql, bounds = sql + " AND position <= ?", [after, until]
    events, size = db.execute(sql, bounds).fetchone()
    return int(events), int(size)


def oldest_waiting(db: sqlite3.Connection) -> datetime | None:
    """When the oldest event that is not consumed was stored, UTC; None when all are."""
    row = db.execute(f"SELECT spooled_at, data FROM events WHERE position > {CONSUMED} ORDER BY position LIMIT 1").fetchone()
    if row is None:
        return None
    at, data = row
    if at is not None:
        return datetime.fromtimestamp(at / 1000, UTC)
    try:
        return msgspec.json.decode(data, type=_Received).received_at
    except msgspec.DecodeError:
        return None


def trim(db: sqlite3.Connection) -> int:
    """Drop the oldest consumed rows; returns how many."""
    chosen = f"SELECT position FROM events WHERE position <= {CONSUMED} ORDER BY position LIMIT ?"
    return db.execute(f"DELETE FROM events WHERE position IN ({chosen})", (TRIM_ROWS,)).rowcount


def fold_in_wal(db: sqlite3.Connection) -> None:
    """Checkpoint and empty the WAL."""
    # Until the checkpoint the erased bytes stand in the old pages of the main file and in the WAL.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def measure(db: sqlite3.Connection) -> int:
    """The bytes of the pages in use."""
    (pages,), (free,), (size,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def sync_folder(folder: Path) -> None:
    """Make a new file's name durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def os_error(error: sqlite3.Error, path: Path) -> OSError:
    """The OSError (errno, fix, path) for what SQLite reported."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number, fix = {
        sqlite3.SQLITE_FULL: (errno.ENOSPC, "the disk is full: make room"),
        sqlite3.SQLITE_READONLY: (errno.EROFS, "the disk or the file is read-only: make it writable"),
        sqlite3.SQLITE_CANTOPEN: (errno.EACCES, "the file cannot be opened: check the folder's owner and rights"),
        sqlite3.SQLITE_BUSY: (errno.EAGAIN, "another process holds the file for too long"),
        sqlite3.SQLITE_NOTADB: (errno.EINVAL, "this is no event log: name another folder in [events] log"),
        sqlite3.SQLITE_CORRUPT: (errno.EIO, "the file is damaged: keep a copy and restore it"),
    }.get(code, (errno.EIO, "the disk refuses"))
    return OSError(number, f"{fix} ({error})", str(path))


def _columns(db: sqlite3.Connection) -> set[str]:
    return {str(row[1]) for row in db.execute("PRAGMA table_info(events)")}


class _Received(msgspec.Struct):
    """All that a row of an older release says about when it was stored."""

    received_at: datetime
