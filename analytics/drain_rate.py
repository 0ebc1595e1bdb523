"""How fast a spool is drained, and so how long a client should wait before it sends again."""

import time
from collections import deque
from datetime import datetime

WINDOW_SECONDS = 30.0
LOWEST_SECONDS, HIGHEST_SECONDS = 1.0, 60.0
# Who comes back at the first free byte is refused again with all the others: the wait is for this share of the bound.
ROOM = 0.01


class DrainRate:
    """Watches the marks of what is consumed. Not for several threads at once."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, datetime | None]] = deque()

    def note(self, position: int, oldest_at: datetime | None, now_seconds: float | None = None) -> None:
        """All up to `position` is consumed; the oldest that waits was stored at `oldest_at`."""
        now = time.monotonic() if now_seconds is None else now_seconds
        self._marks.append((now, position, oldest_at))
        self._drop(now)

    def seconds_for(self, rows: float, now_seconds: float | None = None) -> float | None:
        """How long it takes to consume so many rows; None where nothing is being consumed."""
        now = time.monotonic() if now_seconds is None else now_seconds
        self._drop(now)
        if len(self._marks) < 2:
            return None
        moved = self._marks[-1][1] - self._marks[0][1]
        return _held(rows * (now - self._marks[0][0]) / moved) if moved > 0 else None

    def seconds_until_younger(self, excess_seconds: float, now_seconds: float | None = None) -> float | None:
        """How long until the oldest is younger by so much; None where it only grows older."""
        now = time.monotonic() if now_seconds is None else now_seconds
        self._drop(now)
        marks = [(at, oldest) for at, _, oldest in self._marks if oldest is not None]
        if len(marks) < 2:
            return None
        passed = now - marks[0][0]
        gained = (marks[-1][1] - marks[0][1]).total_seconds() - passed
        return _held(excess_seconds * passed / gained) if gained > 0 else None

    def _drop(self, now: float) -> None:
        while self._marks and self._marks[0][0] < now - WINDOW_SECONDS:
            self._marks.popleft()


def _held(seconds: float) -> float:
    return min(max(seconds, LOWEST_SECONDS), HIGHEST_SECONDS)
