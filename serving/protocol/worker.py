"""A worker: an engine of this process, the variants on its shelf, and the requests under way."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

from serving.devices import Devices
from serving.job import Job, Picture
from serving.protocol.refusals import NotReady
from serving.protocol.shelf import Shelf
from serving.variant import Variant


class Worker:
    """Belongs to one event loop, but for the engine's own threads."""

    def __init__(
        self, engine: Devices, configured: Mapping[str, Variant], *, token: str | None = None, grace_seconds: float = 30.0
    ) -> None:
        """`token`: the bearer token that requests must carry, but for health and metrics."""
        self.engine, self.shelf, self.token = engine, Shelf(engine, configured), token
        self._grace_seconds = grace_seconds
        self._running, self._until = 0, 0.0
        self.closing = False

    def begin_closing(self) -> None:
        """Finish what runs, refuse what is new. Only sets a flag: a signal's handler may call it."""
        self._until = time.monotonic() + self._grace_seconds
        self.closing = True

    @property
    def drained(self) -> bool:
        """Closing, and nothing runs any more, or the grace is over."""
        return self.closing and (not self._running or time.monotonic() > self._until)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """A request that makes work. Raises NotReady when the worker is closing."""
        if self.closing:
            raise NotReady("the worker is closing; ask another")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def draw(self, jobs: Sequence[Job], deadline_seconds: float | None) -> list[Picture]:
        """The pictures of one request, all or none. Cancelling it frees their places within a step. Raises as LocalEngine."""
        futures = self.engine.submit_all(jobs, deadline_seconds=deadline_seconds)
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except (RuntimeError, asyncio.CancelledError) as error:
            # the engine cancels what waits when it is closed; a cancelled request is another matter
            if not self.closing or (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise NotReady("the worker was closed before the images were done; ask another") from error
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Stop the engine. Blocks until its tick is over."""
        self.shelf.close()
        self.engine.close()
