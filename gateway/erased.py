"""Who was erased, and when: kept as keyed hashes, so that tokens that are still out bring nobody back."""

import hmac
import os
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import msgspec


class Erasure(msgspec.Struct, frozen=True, array_like=True):
    """One line of the file: HMAC-SHA256 of the unit under the gateway's token key, and the time of its erasure."""

    unit: str
    at: datetime


class Erased:
    """A file of one JSON line per erasure. What was made for a unit before its erasure is not taken up again; what came later is.

    Without the key the file tells nobody's name. Raises ValueError when the file is damaged, OSError when it cannot be read.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path, self._key, self._lock = path, key, Lock()
        self._at: dict[str, datetime] = {}
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.exists() else (), 1):
            try:
                erasure = msgspec.json.decode(line, type=Erasure)
            except msgspec.DecodeError as error:
                if not line.endswith(b"\n"):
                    # Cut short by a crash before it was acknowledged: whoever asked was told to ask again.
                    path.write_bytes(path.read_bytes()[: -len(line)])
                    break
                raise ValueError(f"{path}:{number}: {error}; restore the file, or remove this line") from None
            self._at[erasure.unit] = erasure.at

    def add(self, unit: str, at: datetime | None = None) -> None:
        """Keep that a unit was erased now, on disk before this returns. Blocks. Raises OSError."""
        erasure = Erasure(self._hash(unit), at or datetime.now(UTC))
        with self._lock, open(self._path, "ab", opener=_private) as file:
            whole = file.tell()
            try:
                file.write(msgspec.json.encode(erasure) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                # Half a line would spoil the next.
                os.truncate(self._path, whole)
                raise
            self._at[erasure.unit] = erasure.at

    def covers(self, unit: str, issued_at: datetime) -> bool:
        """Was the unit erased at or after `issued_at`?"""
        at = self._at.get(self._hash(unit)) if self._at else None
        return at is not None and issued_at <= at

    def _hash(self, unit: str) -> str:
        return hmac.digest(self._key, b"erased:" + unit.encode("utf-8", "surrogatepass"), "sha256").hex()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
