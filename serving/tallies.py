"""What an engine has done: per lane and per variant, since its start."""

import threading
from dataclasses import dataclass, field

import msgspec

from serving.job import Picture
from serving.slot import Slot


@dataclass(slots=True)
class LaneTally:
    """`calls` of the network with `rows` in all; seconds in those calls, and in all that the lane did."""

    calls: int = 0
    rows: int = 0
    call_seconds: float = 0.0
    seconds: float = 0.0
    evictions: int = 0

    def count(self, rows: int, seconds: float) -> None:
        """One call."""
        self.calls += 1
        self.rows += rows
        self.call_seconds += seconds


class VariantTally(msgspec.Struct, frozen=True):
    """Images by what became of them; seconds of the finished ones."""

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    queue_seconds: float = 0.0
    service_seconds: float = 0.0
    rows: int = 0


@dataclass(slots=True)
class Tallies:
    """By the variant's digest. Thread-safe."""

    _by_digest: dict[str, VariantTally] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def done(self, slot: Slot, picture: Picture) -> None:
        """A finished picture."""
        self._add(slot, 1, 0, 0, picture.queue_ms / 1000, picture.service_ms / 1000, slot.rows * slot.table.steps)

    def failed(self, slot: Slot) -> None:
        """An image that met an error."""
        self._add(slot, 0, 1, 0, 0.0, 0.0, 0)

    def cancelled(self, slot: Slot) -> None:
        """An image that nobody wants any more."""
        self._add(slot, 0, 0, 1, 0.0, 0.0, 0)

    def _add(self, slot: Slot, *numbers: float) -> None:
        digest = slot.recipe.loaded.digest
        with self._lock:
            before = msgspec.structs.astuple(self._by_digest.get(digest, VariantTally()))
            self._by_digest[digest] = VariantTally(*(a + b for a, b in zip(before, numbers, strict=True)))

    def read(self) -> dict[str, VariantTally]:
        """As they are now."""
        with self._lock:
            return dict(self._by_digest)
