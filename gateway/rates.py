"""How often one unit gives feedback: beyond what a person can do in a minute, it is flagged."""

from collections import OrderedDict
from datetime import datetime

MINUTES_KEPT = 100_000


class Rates:
    """Feedback per unit and minute of its own time, in memory only: a restart begins anew, and every gateway counts for itself.

    `per_minute` events of a unit are a person's; 0 turns the count off. The `kept` latest minutes are remembered, as hashes, so
    that no unit is. No clock of its own: times are passed in, so that what a phone held back for hours is judged by when it
    happened.
    """

    def __init__(self, per_minute: int, kept: int = MINUTES_KEPT) -> None:
        self._per_minute, self._kept = per_minute, kept
        self._counts: OrderedDict[int, int] = OrderedDict()

    def over(self, unit: str, at: datetime) -> bool:
        """Count one event that happened at `at`; is it beyond the bound? Events of nobody ("") are not counted."""
        if not self._per_minute or not unit:
            return False
        key = _key(unit, at)
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > self._kept:
            self._counts.popitem(last=False)
        return count > self._per_minute

    def take_back(self, unit: str, at: datetime) -> None:
        """An event that was counted turned out to be a repetition, or was not stored."""
        key = _key(unit, at)
        if self._counts.get(key, 0) > 1:
            self._counts[key] -= 1
        else:
            self._counts.pop(key, None)


def _key(unit: str, at: datetime) -> int:
    # Python's own hash: keyed per process, and 64 bits tell 100,000 minutes apart.
    return hash((unit, int(at.timestamp() // 60)))
