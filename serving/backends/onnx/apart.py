"""What single adapters have for themselves: networks or text encoders with merged weights."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, float]


class Apart(Generic[T]):
    """By entry of the bank, each with its adapter's digest and scale. Made by the thread that loads, taken over by the engine's."""

    def __init__(self) -> None:
        self._of_entry: dict[int, tuple[Key, T]] = {}
        self._waiting: dict[Key, T] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._of_entry or self._waiting)

    def prepare(self, key: Key, make: Callable[[], T]) -> None:
        """Have one ready for when `key` is attached."""
        with self._lock:
            if key in self._waiting or any(key == other for other, _ in self._of_entry.values()):
                return
        made = make()
        with self._lock:
            self._waiting[key] = made

    def attach(self, entry: int, key: Key, make: Callable[[], T]) -> None:
        """Into `entry`, over what was there; made now when the one that was prepared has given way since."""
        with self._lock:
            made = self._waiting.pop(key, None)
        made = make() if made is None else made
        with self._lock:
            self._of_entry[entry] = key, made

    def detach(self, entry: int) -> None:
        """`entry` goes to an adapter that needs none."""
        with self._lock:
            self._of_entry.pop(entry, None)

    def get(self, entry: int) -> T | None:
        """What `entry` has, if it has one."""
        found = self._of_entry.get(entry)
        return found[1] if found else None
