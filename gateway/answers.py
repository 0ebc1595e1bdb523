"""Answers kept for `Idempotency-Key`: a small SQLite file, one thread, 24 hours, bounded per API key and in all."""

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

LIFE_SECONDS = 24 * 3600
PER_OWNER, BYTES_IN_ALL, BYTES_EACH = 1000, 256_000_000, 16_000_000
T = TypeVar("T")


class Kept(msgspec.Struct, frozen=True):
    """An answer: what was asked (as a hash) and what was said."""

    fingerprint: str
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Answers:
    """Reads and writes kept answers off the event loop. A unit stands in the file as `hash_of` names it."""

    def __init__(self, path: Path, hash_of: Callable[[str], str]) -> None:
        self._thread = ThreadPoolExecutor(1, "salon-answers")
        self._path, self._hash_of = path, hash_of
        self._database: sqlite3.Connection | None = None

    async def get(self, owner: str, key: str) -> Kept | None:
        """The answer under this key that is younger than a day."""
        return await self._run(lambda db: self._get(db, owner, key))

    async def put(self, owner: str, key: str, kept: Kept, unit: str) -> None:
        """Keep an answer, and let go of the oldest over the bounds. Answers over 16 MB are not kept."""
        if len(kept.body) <= BYTES_EACH:
            await self._run(lambda db: self._put(db, owner, key, kept, unit))

    async def erase(self, unit: str) -> int:
        """Forget the answers made for a unit."""
        # The last release named units otherwise; its answers live for a day.
        names = (self._hash_of(unit), unit_hash(unit))
        return await self._run(lambda db: db.execute("DELETE FROM answers WHERE unit IN (?, ?)", names).rowcount)

    async def erase_hash(self, name: str) -> int:
        """Forget the answers made for a unit that is known by its hash only."""
        return await self._run(lambda db: db.execute("DELETE FROM answers WHERE unit = ?", (name,)).rowcount)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._thread.submit(self._database.close)
        self._thread.shutdown()

    async def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: action(self._open()))

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA secure_delete = ON")
            columns = "owner TEXT, key TEXT, at REAL, unit TEXT, size INTEGER, data BLOB, PRIMARY KEY (owner, key)"
            database.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns})")
            database.execute("CREATE INDEX IF NOT EXISTS answers_at ON answers (at)")
            self._database = database
        return self._database

    @staticmethod
    def _get(database: sqlite3.Connection, owner: str, key: str) -> Kept | None:
        sql = "SELECT data FROM answers WHERE owner = ? AND key = ? AND at > ?"
        row = database.execute(sql, (owner, key, time.time() - LIFE_SECONDS)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Kept) if row else None

    def _put(self, database: sqlite3.Connection, owner: str, key: str, kept: Kept, unit: str) -> None:
        data = msgspec.msgpack.encode(kept)
        values = (owner, key, time.time(), self._hash_of(unit) if unit else "", len(data), data)
        database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", values)
        database.execute("DELETE FROM answers WHERE at <= ?", (time.time() - LIFE_SECONDS,))
        oldest = "SELECT rowid FROM answers WHERE owner = ? ORDER BY at DESC LIMIT -1 OFFSET ?"
        database.execute(f"DELETE FROM answers WHERE rowid IN ({oldest})", (owner, PER_OWNER))
        (total,) = database.execute("SELECT coalesce(sum(size), 0) FROM answers").fetchone()
        while total > BYTES_IN_ALL:
            rowid, size = database.execute("SELECT rowid, size FROM answers ORDER BY at LIMIT 1").fetchone()
            database.execute("DELETE FROM answers WHERE rowid = ?", (rowid,))
            total -= size


def unit_hash(unit: str) -> str:
    """A unit as it stood in the file of the last release."""
    return hashlib.sha256(unit.encode("utf-8", "surrogatepass")).hexdigest()
