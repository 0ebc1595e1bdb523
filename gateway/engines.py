"""The engines of the configuration behind one face: loads variants off the loop, remembers what is loaded, submits jobs."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from gateway.config import EngineSection
from serving.engine import Job, Loaded, LocalEngine, Picture, Preview
from serving.registry import Registry
from serving.variant import Variant

log = logging.getLogger(__name__)


Watch = Callable[[int, Preview], None]


class Engines:
    """Makes each engine when a variant first needs it. Loading happens in one thread, in the order asked for."""

    def __init__(self, sections: Mapping[str, EngineSection], registry: Registry, cache: Path, max_queue_seconds: float) -> None:
        self._sections, self._registry, self._cache, self._max_queue_seconds = sections, registry, cache, max_queue_seconds
        self._engines: dict[str, LocalEngine] = {}
        self._making = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "salon-load")
        self._loading: dict[Variant, Future[Loaded]] = {}

    def loaded(self, variant: Variant) -> Loaded | None:
        """What is known of a variant that has been loaded; None before."""
        future = self._loading.get(variant)
        return future.result() if future and future.done() and not future.cancelled() and future.exception() is None else None

    def failure(self, variant: Variant) -> str | None:
        """Why a variant could not be loaded; None when it could, or is not yet."""
        future = self._loading.get(variant)
        error = future.exception() if future and future.done() and not future.cancelled() else None
        return str(error) if error else None

    async def load(self, variant: Variant) -> Loaded:
        """Load a variant, once; a failure is forgotten and tried again at the next call. Raises ModelError."""
        if known := self.loaded(variant):
            return known
        return await asyncio.shield(asyncio.wrap_future(self.start_loading(variant)))

    def start_loading(self, variant: Variant) -> Future[Loaded]:
        """Begin to load, or join the loading that is under way."""
        future = self._loading.get(variant)
        if future is None or (future.done() and (future.cancelled() or future.exception() is not None)):
            future = self._loading[variant] = self._loader.submit(self._load, variant)
        return future

    async def draw(
        self, variant: Variant, jobs: Sequence[Job], *, deadline_seconds: float | None = None, watch: Watch | None = None
    ) -> list[Picture]:
        """Make the pictures of one request, all or none. `watch` gets each preview with the index of its job, on the event loop.

        Cancelling the call gives the places of its images back within a step. Raises Busy, ModelError, Late, or what the engine raises.
        """
        loop = asyncio.get_running_loop()
        watchers = [partial(_tell, loop, watch, i) for i in range(len(jobs))] if watch else None
        futures = self._engine(variant.engine).submit_all(jobs, deadline_seconds=deadline_seconds, watch=watchers)
        together = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            return await together
        finally:
            for future in futures:
                future.cancel()

    def queue_seconds(self) -> float:
        """Predicted seconds of work that waits, over all engines."""
        return max((engine.queue_seconds() for engine in self._engines.values()), default=0.0)

    def close(self) -> None:
        """Stop loading and stop the engines."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for engine in self._engines.values():
            engine.close()

    def _load(self, variant: Variant) -> Loaded:
        try:
            return self._engine(variant.engine).load(variant)
        except Exception as error:
            log.error("variant of model %s cannot be loaded: %s", variant.model, error)
            raise

    def _engine(self, name: str) -> LocalEngine:
        with self._making:
            if name not in self._engines:
                settings = self._sections[name].settings()
                self._engines[name] = LocalEngine(
                    self._registry, settings=settings, cache=self._cache, max_queue_seconds=self._max_queue_seconds
                )
            return self._engines[name]


def _tell(loop: asyncio.AbstractEventLoop, watch: Watch, index: int, preview: Preview) -> None:
    """From the engine's thread to the loop."""
    with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever watched
        loop.call_soon_threadsafe(watch, index, preview)
