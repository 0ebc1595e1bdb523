"""The SQLite file of the local log: its tables, what one transaction does, and its errors as OSError."""

import errno
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

TRIM_ROWS = 2_000

Row = tuple[bytes, str, bytes]

SCHEMA = """
CREATE TABLE IF NOT EXISTS events
    (position INTEGER PRIMARY KEY AUTOINCREMENT, event_id BLOB NOT NULL UNIQUE, unit TEXT NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS dead_letters
    (position INTEGER PRIMARY KEY, unit TEXT NOT NULL, data BLOB NOT NULL, error TEXT NOT NULL, set_aside_at TEXT NOT NULL);
"""
INSERT = "INSERT INTO events (event_id, unit, data) VALUES (?, ?, ?) ON CONFLICT (event_id) DO NOTHING"


def append(db: sqlite3.Connection, rows: Sequence[Row]) -> list[bool]:
    """Insert in the open transaction. Says for each row whether its event_id is new; within `rows` the first counts."""
    if not rows:
        return []
    before = db.total_changes
    last = last_position(db)
    db.executemany(INSERT, rows)
    if db.total_changes - before == len(rows):
        return [True] * len(rows)
    fresh = {bytes(event_id) for (event_id,) in db.execute("SELECT event_id FROM events WHERE position > ?", (last,))}
    new = []
    for event_id, _, _ in rows:
        new.append(event_id in fresh)
        fresh.discard(event_id)
    return new


def last_position(db: sqlite3.Connection) -> int:
    """The highest position given out, or 0."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(row[0]) if row else 0


def note_consumed(db: sqlite3.Connection, position: int) -> None:
    """Remember how far the sink is; never goes back."""
    sql = """INSERT INTO facts VALUES ('consumed', ?) ON CONFLICT (key)
        DO UPDATE SET value = max(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))"""
    db.execute(sql, (position,))


def trim(db: sqlite3.Connection) -> int:
    """Drop the oldest consumed rows; returns how many."""
    chosen = """SELECT position FROM events
        WHERE position <= (SELECT CAST(value AS INTEGER) FROM facts WHERE key = 'consumed') ORDER BY position LIMIT ?"""
    return db.execute(f"DELETE FROM events WHERE position IN ({chosen})", (TRIM_ROWS,)).rowcount


def fold_in_wal(db: sqlite3.Connection) -> None:
    """Checkpoint and empty the WAL."""
    # Until the checkpoint the erased bytes stand in the old pages of the main file and in the WAL.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


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
