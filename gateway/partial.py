"""What a streamed request hears before its pictures are done: unfinished pictures, and how long it will still take."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import msgspec

from serving.job import Preview


class Partial(msgspec.Struct, frozen=True):
    """The unfinished picture at `position` of the answer, the `index`-th that is sent of it (from 0)."""

    position: int
    index: int
    preview: Preview


class Progress:
    """Of one request. Belongs to the event loop, on which the engine's previews are delivered.

    `partial_images`: how many unfinished pictures are wanted of each position.
    """

    def __init__(self, positions: int, partial_images: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.partial_images = partial_images
        self._positions, self._clock = positions, clock
        self._queue: asyncio.Queue[Partial | None] = asyncio.Queue()
        self._shown: dict[int, int] = {}
        self._sent: Counter[int] = Counter()
        self._done_at: dict[int, float] = {}
        self._all_done_at: float | None = None

    def watch(self, position: int, preview: Preview) -> None:
        """Take a preview. One that a first attempt has sent is not sent again by a second."""
        self._done_at[position] = self._clock() + preview.remaining_ms / 1000
        if preview.index > self._shown.get(position, -1):
            self._shown[position] = preview.index
            self._queue.put_nowait(Partial(position, self._sent[position], preview))
            self._sent[position] += 1

    def predict(self, seconds: float) -> None:
        """All that waits in the engine, this request last, is predicted to take `seconds`."""
        self._all_done_at, self._done_at = self._clock() + seconds, {}

    def remaining_ms(self) -> float | None:
        """Until the last picture is there; None before anything is known. By the previews where each position has had one."""
        times = list(self._done_at.values()) if len(self._done_at) == self._positions else [self._all_done_at]
        known = [at for at in times if at is not None]
        return max(0.0, 1000 * (max(known) - self._clock())) if known else None

    def finish(self) -> None:
        """Nothing more will come."""
        self._queue.put_nowait(None)

    async def next(self, patience_seconds: float) -> Partial | None:
        """The next partial picture, or None after `finish`. Raises TimeoutError when none has come for so long."""
        async with asyncio.timeout(patience_seconds):
            return await self._queue.get()
