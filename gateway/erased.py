"""Who was erased, and when: kept as keyed hashes, so that tokens that are still out bring nobody back."""

import hmac
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import msgspec


class Erasure(msgspec.Struct, frozen=True, array_like=True):
    """One line of the file: HMAC-SHA256 of the unit under the gateway's token key, and the time of its erasure.

    `pending`: another gateway erased the unit, and what this one keeps of it is still to be deleted.
    """

    unit: str
    at: datetime
    pending: bool = False


class Erased:
    """A file of one JSON line per erasure, the last of a unit counts. What was made for a unit before its erasure is not taken
    up again; what came later is.

    Without the key the file tells nobody's name. Raises ValueError when the file is damaged, OSError when it cannot be read.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path, self._key, self._lock = path, key, Lock()
        self._at: dict[str, datetime] = {}
        self._pending: dict[str, datetime] = {}
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else (), 1):
            try:
                erasure = msgspec.json.decode(line, type=Erasure)
            except msgspec.DecodeError as error:
                if not line.endswith(b"\n"):
                    # Cut short by a crash before it was acknowledged: whoever asked was told to ask again.
                    path.write_bytes(path.read_bytes()[: -len(line)])
                    break
                raise ValueError(f"{path}:{number}: {error}; restore the file, or remove this line") from None
            self._note(erasure)

    def add(self, unit: str, at: datetime | None = None) -> datetime:
        """Keep that a unit was erased now, on disk before this returns. Returns when that was. Blocks. Raises OSError."""
        erasure = Erasure(self.hash(unit), at or datetime.now(UTC))
        with self._lock:
            self._append(erasure)
        return erasure.at

    def follow(self, unit_hash: str, at: datetime) -> None:
        """Keep that another gateway erased a unit, known by its hash; `to_do` names it until `done`. Blocks. Raises OSError."""
        with self._lock:
            known = self._at.get(unit_hash)
            if known is None or known < at:
                self._append(Erasure(unit_hash, at, True))

    def to_do(self) -> dict[str, datetime]:
        """Units, by hash, of which this gateway may still keep something, and when each was erased."""
        with self._lock:
            return dict(self._pending)

    def done(self, unit_hash: str, at: datetime) -> None:
        """Keep that nothing is left here of a unit that another gateway erased at `at`. Blocks. Raises OSError."""
        with self._lock:
            if self._pending.get(unit_hash) == at:
                self._append(Erasure(unit_hash, at))

    def everyone(self) -> dict[str, datetime]:
        """All erasures that are known, by hash."""
        with self._lock:
            return dict(self._at)

    def covers(self, unit: str, issued_at: datetime) -> bool:
        """Was the unit erased at or after `issued_at`?"""
        at = self._at.get(self.hash(unit)) if self._at else None
        return at is not None and issued_at <= at

    def hash(self, unit: str) -> str:
        """The name of a unit that says nothing to those who do not hold the key: 64 hexadecimal digits."""
        return hmac.digest(self._key, b"erased:" + unit.encode("utf-8", "surrogatepass"), "sha256").hex()

    def _append(self, erasure: Erasure) -> None:
        with open(self._path, "ab", opener=_private) as file:
            whole = file.tell()
            try:
                file.write(msgspec.json.encode(erasure) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # Half a line would spoil the next.
                os.truncate(self._path, whole)
                raise
        self._note(erasure)

    def _note(self, erasure: Erasure) -> None:
        self._at[erasure.unit] = erasure.at
        if erasure.pending:
            self._pending[erasure.unit] = erasure.at
        else:
            self._pending.pop(erasure.unit, None)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
