"""The event log's port: append with an acknowledged position, read from a position. Local now, Kafka behind the same words."""

from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from analytics.events import Event


class LogFull(Exception):
    """The log is over its bound; nothing was stored. Try again after `retry_after_seconds`."""

    def __init__(self, retry_after_seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was refused, kept with the reason. `data` is what was stored; `event` is None where that cannot be decoded."""

    position: int
    event: Event | None
    data: bytes
    error: str
    set_aside_at: datetime


class EventLog(Protocol):
    """A durable, append-only log. Delivery is at least once; who reads it removes duplicates by `event_id`.

    Positions are positive, unique and rising, with gaps. `name` is the identity of this log: another log, or this one
    deleted and made again, has another name.
    """

    name: str

    def submit(self, events: Sequence[Event], *, together: bool = False, reserve: bool = False) -> Future[list[bool]]:
        """Append. The future resolves once the events are on disk: True for a new event, False for an event_id already there.

        `together`: they came in one request, and may travel in one message. `reserve`: they are what the gateway itself did,
        and may use an eighth more than the bound, however long others have waited. Raises LogFull at once when the log is over
        its bound. The future fails with OSError when the disk refuses; then none of `events` was stored.
        """

    def stored(self, event_ids: Sequence[UUID]) -> dict[UUID, Event]:
        """The events that are still here, of those asked for, by id. Blocks. Raises OSError."""

    def read(self, after: int, limit: int) -> list[tuple[int, Event]]:
        """At most `limit` events at positions above `after`, in order."""

    def end(self) -> int:
        """The highest position given out; 0 when there was none. The event there may have been erased since."""

    def consumed(self, position: int) -> None:
        """Say that all up to `position` is safe in the warehouse: the log may drop it when it needs the space."""

    def set_aside(self, position: int, error: str) -> None:
        """Keep a copy of the event at `position` among the dead letters. Again for the same position: no second copy."""

    def dead_letters(self) -> list[DeadLetter]:
        """All that was set aside, oldest first."""

    def erase(self, unit: str, until: datetime | None = None) -> int:
        """Delete the events of a unit that were stored up to `until` (all by default), dead letters too. Returns how many.

        Positions stay monotone. Raises OSError, also when one is left.
        """

    def units(self) -> list[str]:
        """All units with an event or a dead letter here."""

    def close(self) -> None:
        """Store what was submitted, then stop."""


def open_log(url: str) -> EventLog:
    """Open `local:DIR`, or `local:DIR?max_bytes=N`. Raises ValueError for another URL, OSError when the folder cannot be used.

    Kafka is no EventLog: the gateway's own is the spool in front of it, and sinks read the topic.
    """
    from analytics.local_log import LocalLog

    folder, max_bytes = parse_log_url(url)
    return LocalLog(folder, max_bytes=max_bytes)


def parse_log_url(url: str) -> tuple[Path, int]:
    """The folder and the bound in bytes; opens nothing. Raises ValueError."""
    scheme, colon, rest = url.partition(":")
    if scheme == "kafka":
        raise ValueError(
            f"[events] log = {_without_password(url)!r}: a topic of Kafka cannot be opened as a log on disk; this needs local:DIR"
        )
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if scheme != "local" or not colon or not path:
        raise ValueError(f"[events] log = {_without_password(url)!r}: write local:DIR, for example local:var/events, or kafka://host:port/")
    if unknown := sorted(options.keys() - {"max_bytes"}):
        raise ValueError(f"[events] log = {url!r}: unknown option {unknown[0]!r}; the only one is max_bytes")
    from analytics.local_log import DEFAULT_MAX_BYTES, MINIMUM_BYTES

    size = options.get("max_bytes", str(DEFAULT_MAX_BYTES))
    if not size.isdecimal() or int(size) < MINIMUM_BYTES:
        raise ValueError(f"[events] log = {url!r}: max_bytes is {size!r}; give a whole number of bytes, at least {MINIMUM_BYTES}")
    return Path(path), int(size)


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url
