"""The engines of the configuration behind one face, local or remote: loads variants off the loop, draws pictures."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import EngineSection
from serving.errors import ModelError
from serving.job import Job, Loaded, Picture, Preview
from serving.registry import Registry
from serving.remote.engine import RemoteEngine
from serving.variant import Variant

if TYPE_CHECKING:
    from serving.devices import Devices

log = logging.getLogger(__name__)
CLOSING_SECONDS = 10.0

Watch = Callable[[int, Preview], None]


class Engines:
    """Makes each engine when a variant first needs it. Local loading happens in one thread, in the order asked for.

    With remote engines, `load`, `start_loading` and `draw` belong to one event loop.
    """

    def __init__(self, sections: Mapping[str, EngineSection], registry: Registry, cache: Path, max_queue_seconds: float) -> None:
        self._sections, self._registry, self._cache, self._max_queue_seconds = sections, registry, cache, max_queue_seconds
        self._local: dict[str, Devices] = {}
        self._remote: dict[str, RemoteEngine] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._making = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "salon-load")
        self._loading: dict[Variant, Future[Loaded]] = {}

    def loaded(self, variant: Variant) -> Loaded | None:
        """What is known of a variant that has been loaded; None before."""
        if self._is_remote(variant):
            remote = self._remote.get(variant.engine)
            return remote.loaded(variant) if remote else None
        future = self._loading.get(variant)
        return future.result() if future and future.done() and not future.cancelled() and future.exception() is None else None

    def failure(self, variant: Variant) -> str | None:
        """Why a variant could not be loaded; None when it could, or is not yet."""
        if self._is_remote(variant):
            remote = self._remote.get(variant.engine)
            return remote.failure(variant) if remote else None
        future = self._loading.get(variant)
        error = future.exception() if future and future.done() and not future.cancelled() else None
        return str(error) if error else None

    def problems(self) -> dict[str, str]:
        """Which workers of which remote engine are away or wrong, by `engine NAME`."""
        return {f"engine {name}": text for name, remote in self._remote.items() if (text := remote.problems())}

    async def load(self, variant: Variant) -> Loaded:
        """Load a variant, once; a failure is forgotten and tried again at the next call. Raises ModelError."""
        if known := self.loaded(variant):
            return known
        if self._is_remote(variant):
            return await self._remote_engine(variant.engine).load(variant)
        return await asyncio.shield(asyncio.wrap_future(self.start_loading(variant)))

    def start_loading(self, variant: Variant) -> Future[Loaded]:
        """Begin to load, or join the loading that is under way."""
        if self._is_remote(variant):
            remote = self._remote_engine(variant.engine)
            return asyncio.run_coroutine_threadsafe(remote.load(variant), asyncio.get_running_loop())
        future = self._loading.get(variant)
        if future is None or (future.done() and (future.cancelled() or future.exception() is not None)):
            future = self._loading[variant] = self._loader.submit(self._load, variant)
        return future

    async def draw(
        self, variant: Variant, jobs: Sequence[Job], *, deadline_seconds: float | None = None, watch: Watch | None = None
    ) -> list[Picture]:
        """Make the pictures of one request, all or none. `watch` gets each preview with the index of its job, on the event loop.

        Cancelling the call gives the places of its images back within a step. A remote engine sends no previews. Raises Busy,
        ModelError, Late, or what the engine raises.
        """
        if self._is_remote(variant):
            return await self._remote_engine(variant.engine).draw(variant, jobs, deadline_seconds=deadline_seconds)
        loop = asyncio.get_running_loop()
        watchers = [partial(_tell, loop, watch, i) for i in range(len(jobs))] if watch else None
        futures = self._devices(variant.engine).submit_all(jobs, deadline_seconds=deadline_seconds, watch=watchers)
        together = asyncio.gather(*map(asyncio.wrap_future, futures))
        try:
            return await together
        finally:
            for future in futures:
                future.cancel()

    def queue_seconds(self) -> float:
        """Predicted seconds of work that waits, at the engine where most does."""
        engines: list[Devices | RemoteEngine] = [*self._local.values(), *self._remote.values()]
        return max((engine.queue_seconds() for engine in engines), default=0.0)

    def close(self) -> None:
        """Stop loading and stop the engines. Blocking, so not on the event loop that remote engines belong to."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        for engine in self._local.values():
            engine.close()
        if self._loop is None or not self._loop.is_running():
            return
        for remote in self._remote.values():
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(remote.close(), self._loop).result(CLOSING_SECONDS)

    def _load(self, variant: Variant) -> Loaded:
        try:
            return self._devices(variant.engine).load(variant)
        except Exception as error:
            log.error("variant of model %s cannot be loaded: %s", variant.model, error)
            raise

    def _is_remote(self, variant: Variant) -> bool:
        section = self._sections.get(variant.engine)
        return section is not None and section.url is not None

    def _remote_engine(self, name: str) -> RemoteEngine:
        if name not in self._remote:
            self._loop = asyncio.get_running_loop()
            settings = self._sections[name].remote
            assert settings is not None
            self._remote[name] = RemoteEngine(name, settings, max_queue_seconds=self._max_queue_seconds)
        return self._remote[name]

    def _devices(self, name: str) -> "Devices":
        # a gateway with remote engines has none of what draws
        from serving.devices import Devices
        from serving.engine import LocalEngine

        with self._making:
            if name not in self._local:
                section = self._sections.get(name)
                if section is None:
                    raise ModelError(f"engine {name!r} was added to the file after the start; start the gateway again")
                self._local[name] = Devices(
                    [
                        LocalEngine(
                            self._registry,
                            settings=section.settings(device),
                            cache=self._cache,
                            max_queue_seconds=self._max_queue_seconds,
                        )
                        for device in section.devices
                    ]
                )
            return self._local[name]


def _tell(loop: asyncio.AbstractEventLoop, watch: Watch, index: int, preview: Preview) -> None:
    """From the engine's thread to the loop."""
    with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever watched
        loop.call_soon_threadsafe(watch, index, preview)
