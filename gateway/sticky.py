"""What units of sticky bandits were given first: a small SQLite file, one thread. Each gateway remembers whom it served."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from gateway.assignment import Assignment, Split

log = logging.getLogger(__name__)
ROWS_AT_ONCE = 10_000
T = TypeVar("T")


class Sticky:
    """Assignments that outlive a change of weights. A unit stands in the file as `hash_of` (64 hexadecimal digits) names it.

    `problem`: why nothing is remembered now; empty when all is well. Units then get what the weights of today say, with that
    propensity: a file that cannot be written fails no request.
    """

    def __init__(self, path: Path, hash_of: Callable[[str], str]) -> None:
        self._path, self._hash_of = path, hash_of
        self._thread = ThreadPoolExecutor(1, "salon-sticky")
        self._database: sqlite3.Connection | None = None
        self._dropped: set[str] = set()
        self.problem = ""

    async def assign(self, experiment: str, unit: str, split: Split, weights: Mapping[str, float]) -> Assignment:
        """The arm that the unit was given first, with its propensity of then, while the arm has a weight; else one drawn anew by
        the weights of today, remembered from now on."""
        name = bytes.fromhex(self._hash_of(unit))
        return await self._or_today(lambda db: self._assign(db, experiment, name, unit, split, weights), lambda: split.assign(unit))

    async def told(self, experiment: str, units: Sequence[str], split: Split, weights: Mapping[str, float]) -> list[Assignment]:
        """What `assign` would say of each unit; remembers nothing."""
        names = [bytes.fromhex(self._hash_of(unit)) for unit in units]

        def look(database: sqlite3.Connection) -> list[Assignment]:
            known = [_read(database, experiment, name) for name in names]
            return [_still(first, unit, split, weights) for first, unit in zip(known, units, strict=True)]

        return await self._or_today(look, lambda: [split.assign(unit) for unit in units])

    async def erase(self, unit: str) -> int:
        """Forget what a unit was given. Returns of how many experiments. Raises OSError."""
        return await self.erase_hash(self._hash_of(unit))

    async def erase_hash(self, name: str) -> int:
        """Forget what a unit was given that is known by its hash only. Returns of how many experiments. Raises OSError."""
        if self._database is None and not self._path.exists():
            return 0
        try:
            return await self._run(lambda db: db.execute("DELETE FROM draws WHERE unit = ?", (bytes.fromhex(name),)).rowcount)
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from None

    async def drop(self, ended: Iterable[str]) -> None:
        """Forget experiments that have ended, once each; little by little, since requests wait in the same line."""
        for experiment in set(ended) - self._dropped:
            if self._database is not None or self._path.exists():
                while await self._run(lambda db, name=experiment: _drop_some(db, name)):  # type: ignore[misc]
                    continue
            self._dropped.add(experiment)

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._thread.submit(self._database.close)
            self._database = None
        self._thread.shutdown()

    async def _or_today(self, action: Callable[[sqlite3.Connection], T], today: Callable[[], T]) -> T:
        try:
            return await self._run(action)
        except (sqlite3.Error, OSError) as error:
            if not self.problem:
                log.error("what units were given cannot be remembered, the weights of today decide: %s: %s", self._path, error)
            self.problem = f"what units were given cannot be remembered, the weights of today decide: {error}"
            return today()

    async def _run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: action(self._open()))

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA secure_delete = ON")
            columns = "experiment TEXT, unit BLOB, arm TEXT, propensity REAL, PRIMARY KEY (unit, experiment)"
            database.execute(f"CREATE TABLE IF NOT EXISTS draws ({columns}) WITHOUT ROWID")
            database.execute("CREATE INDEX IF NOT EXISTS draws_of_experiment ON draws (experiment)")
            self._database = database
        return self._database

    def _assign(
        self, database: sqlite3.Connection, experiment: str, name: bytes, unit: str, split: Split, weights: Mapping[str, float]
    ) -> Assignment:
        first = _read(database, experiment, name)
        now = _still(first, unit, split, weights)
        if now != first:
            database.execute("INSERT OR REPLACE INTO draws VALUES (?, ?, ?, ?)", (experiment, name, now.arm, now.propensity))
            self.problem = ""
        return now


def _still(first: Assignment | None, unit: str, split: Split, weights: Mapping[str, float]) -> Assignment:
    """The assignment that counts now."""
    if first is None:
        return split.assign(unit)
    if weights.get(first.arm, 0.0) > 0:
        return first
    # Another hash: who had the retired arm stood in its spans, and given that, today's spans are not met by today's weights.
    return split.assign(f"{unit}\n{first.arm}")


def _read(database: sqlite3.Connection, experiment: str, name: bytes) -> Assignment | None:
    row = database.execute("SELECT arm, propensity FROM draws WHERE unit = ? AND experiment = ?", (name, experiment)).fetchone()
    return Assignment(*row) if row else None


def _drop_some(database: sqlite3.Connection, experiment: str) -> int:
    rows = "SELECT unit FROM draws WHERE experiment = ? LIMIT ?"
    return database.execute(f"DELETE FROM draws WHERE experiment = ? AND unit IN ({rows})", (experiment, experiment, ROWS_AT_ONCE)).rowcount
