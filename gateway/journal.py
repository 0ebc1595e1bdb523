"""Exposures, generations and images on their way to the event log: an image answer never fails, nor waits long, for the log.

A write normally ends within a millisecond or two, and is awaited. These events may use an eighth more than the log's bound, so
they go to disk also when feedback is refused. Only when the disk itself refuses them, or that eighth is full too, they wait in
memory up to a bound and are tried again; past the bound they are dropped, counted and logged, and readiness says so.
"""

import asyncio
import logging
from collections.abc import Sequence

from analytics.event_log import EventLog, LogFull
from analytics.events import Event

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 0.25
RETRY_SECONDS = 0.5
BOUND_EVENTS = 20_000


class Journal:
    """Hands events of images to the log, behind the answer when the log is slow."""

    def __init__(self, event_log: EventLog, bound: int = BOUND_EVENTS) -> None:
        self._log, self._bound = event_log, bound
        self._held = 0
        self._running: set[asyncio.Task[None]] = set()
        self.dropped = 0

    @property
    def held(self) -> int:
        """Events that wait for the log."""
        return self._held

    async def record(self, events: Sequence[Event]) -> None:
        """Write events; returns when they are on disk or after a quarter of a second. Never raises for the log."""
        batch = list(events)
        if self._held + len(batch) > self._bound:
            self.dropped += len(batch)
            log.error("the event log has been away too long: %d events of images dropped so far", self.dropped)
            return
        self._held += len(batch)
        task = asyncio.create_task(self._write(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.wait({task}, timeout=PATIENCE_SECONDS)

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Wait for what is under way."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_seconds)
        if self._held:
            log.error("%d events of images were not written before the end", self._held)

    async def _write(self, batch: list[Event]) -> None:
        while True:
            try:
                await asyncio.wrap_future(self._log.submit(batch, together=True, reserve=True))
                break
            except LogFull as error:
                await asyncio.sleep(max(RETRY_SECONDS, min(error.retry_after_seconds, 10.0)))
            except OSError as error:
                log.warning("the event log cannot be written (%s); %d events wait", error.strerror or error, self._held)
                await asyncio.sleep(RETRY_SECONDS)
        self._held -= len(batch)
