"""A remote engine: workers that share its load, each found again by itself when it was away."""

import asyncio
import logging
import time
from collections.abc import Sequence

from serving.errors import Away, Busy, Late, ModelError
from serving.job import Job, Loaded, Picture
from serving.remote.connection import Connection, open_session
from serving.remote.failures import Lost, NotReady, Refused
from serving.remote.settings import RemoteSettings
from serving.remote.worker import Worker
from serving.variant import Variant

log = logging.getLogger(__name__)
LOOK_SECONDS = 1.0


class RemoteEngine:
    """The client of a group of workers. All of it belongs to one event loop, in which it is made and closed.

    A request goes to the worker with the least predicted work, whatever its variant. When that worker dies over it, it goes
    to another once, with the same variant and seeds.
    """

    def __init__(self, name: str, settings: RemoteSettings, *, max_queue_seconds: float = 60.0) -> None:
        """`max_queue_seconds` bounds the wait at servers that are not Salon's; a Salon worker has a bound of its own."""
        self._name, self._settings, self._max_queue_seconds = name, settings, max_queue_seconds
        self._session = open_session()
        self.workers = [Worker(Connection(url, self._session, settings.token), settings.model) for url in settings.urls]
        self._known: dict[Variant, Loaded] = {}
        self._wanted: dict[Variant, str] = {}
        self._under_way: dict[tuple[Worker, Variant], asyncio.Task[Loaded]] = {}
        self._glances: dict[Worker, asyncio.Task[bool]] = {}
        self._watchers = [asyncio.create_task(self._watch(worker)) for worker in self.workers]

    def loaded(self, variant: Variant) -> Loaded | None:
        """What the first worker said that had it; None before."""
        return self._known.get(variant)

    def failure(self, variant: Variant) -> str | None:
        """Why no worker has it now; None when one does, or nobody asked yet."""
        if variant not in self._wanted or any(variant in worker.served for worker in self.workers):
            return None
        return self._wanted[variant] or self.problems() or None

    def problems(self) -> str:
        """Which workers are away, lack variants that others have, or hold something else; empty when all is well."""
        told = [worker.reason for worker in self.workers if worker.alive is False]
        for worker in self.workers:
            lacking = sum(variant not in worker.served and variant not in worker.refused for variant in self._known)
            if worker.alive and lacking:
                told.append(f"{worker.url} does not have {lacking} of {len(self._known)} variants yet")
            told += worker.refused.values()
        return "; ".join(dict.fromkeys(told))

    def queue_seconds(self) -> float:
        """Predicted seconds until the least loaded worker would begin with something new."""
        now = time.perf_counter()
        return min((worker.work.backlog_ms(now) / 1000 for worker in self.workers if worker.alive), default=0.0)

    async def load(self, variant: Variant) -> Loaded:
        """Load on every worker; ready when one has it, the others follow. Raises ModelError, or Away when none can be reached.

        From then on, workers that come back get the variant by themselves.
        """
        if known := self._known.get(variant):
            return known
        self._wanted.setdefault(variant, "")
        for worker in self.workers:
            worker.refused.pop(variant, None)
        pending = {self._load_on(worker, variant) for worker in self.workers}
        failures: list[BaseException] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.cancelled():
                    continue
                if error := task.exception():
                    failures.append(error)
                else:
                    return task.result()
        told = "; ".join(dict.fromkeys(str(error) or type(error).__name__ for error in failures)) or "the engine is closed"
        unusable = [error for error in failures if isinstance(error, ModelError) and not isinstance(error, Away)]
        raise ModelError(told) if unusable else Away(f"no worker of engine {self._name!r} can be reached: {told}")

    async def load_everywhere(self, variant: Variant) -> tuple[Loaded, list[str]]:
        """Like `load`, and the workers that have it once each has answered."""
        loaded = await self.load(variant)
        if others := [self._load_on(worker, variant) for worker in self.workers if variant not in worker.served]:
            await asyncio.wait(others)
        return loaded, [worker.url for worker in self.workers if variant in worker.served]

    async def draw(self, variant: Variant, jobs: Sequence[Job], *, deadline_seconds: float | None = None) -> list[Picture]:
        """The pictures of one request, as PNG files where the server makes them.

        What a lost worker cost is part of `queue_ms`. Cancelling closes the request, which frees its places at the worker.
        Raises Busy when all workers are, Late, ModelError, Away, or RuntimeError when the engine there failed.
        """
        began = time.perf_counter()
        await self.load(variant)
        busy: list[float] = []
        passed: set[Worker] = set()
        again = False
        failure: Exception | None = None
        while worker := self._least_loaded(variant, passed) or await self._arriving(variant, passed):
            served, waited = worker.served[variant], time.perf_counter() - began
            left = deadline_seconds - waited if deadline_seconds is not None else None
            if left is not None and left <= 0:
                raise Late("the deadline passed before a worker took the request")
            if (over := self._over(worker, left)) > 0:
                busy.append(over)
                passed.add(worker)
                continue
            try:
                others = [other.work for other in self.workers if other is not worker]
                pictures = await worker.draw(jobs, served, left, others)
            except Busy as full:
                busy.append(full.retry_after_seconds)
                passed.add(worker)
                continue
            except (Lost, Refused) as error:
                failure = error
                if again:
                    break
                again = True
                log.warning("a request is asked again: %s", error)
                self._glance(worker)
                if not await self._may_be_asked_again(worker, variant, error):
                    passed.add(worker)
                continue
            return pictures if not again else [_later(picture, 1000 * waited) for picture in pictures]
        if busy:
            raise Busy(max(1.0, min(busy)))
        if isinstance(failure, Refused):
            raise ModelError(str(failure))
        away = failure or self._wanted[variant] or self.problems()
        raise Away(f"no worker of engine {self._name!r} has the variant now: {away}")

    async def close(self) -> None:
        """Stop looking, cancel what is being loaded, close all connections."""
        tasks = [*self._watchers, *self._under_way.values(), *self._glances.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._session.close()

    def _least_loaded(self, variant: Variant, passed: set[Worker]) -> Worker | None:
        now = time.perf_counter()
        able = [worker for worker in self.workers if worker.alive and variant in worker.served and worker not in passed]
        return min(able, key=lambda worker: worker.work.backlog_ms(now), default=None)

    async def _arriving(self, variant: Variant, passed: set[Worker]) -> Worker | None:
        """The first worker that gets the variant now, when none has it: one that was just started. None when none does."""
        loads = {
            self._load_on(worker, variant): worker
            for worker in self.workers
            if worker.alive and worker not in passed and variant not in worker.served and variant not in worker.refused
        }
        pending = set(loads)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if variant in loads[task].served:
                    return loads[task]
        return None

    def _over(self, worker: Worker, left_seconds: float | None) -> float:
        """Seconds by which the wait at a server that knows no bound of its own is too long."""
        if self._settings.model is None:
            return 0.0
        bound = self._max_queue_seconds if left_seconds is None else min(self._max_queue_seconds, left_seconds)
        return worker.work.backlog_ms(time.perf_counter()) / 1000 - bound

    def _glance(self, worker: Worker) -> None:
        """Look before it is time, so that no other request goes to a worker that died."""
        if worker not in self._glances:
            task = self._glances[worker] = asyncio.create_task(worker.look())
            task.add_done_callback(lambda _: self._glances.pop(worker, None))

    async def _may_be_asked_again(self, worker: Worker, variant: Variant, error: Exception) -> bool:
        """Is a worker that lost or refused a request good for another try?

        When it refused, it may have been started anew without having missed a look, and has forgotten the variant. When it was
        lost, another worker is better, if there is one.
        """
        if isinstance(error, Lost) and (self._least_loaded(variant, {worker}) is not None or not await worker.look()):
            return False
        if isinstance(error, NotReady) and await self._arriving(variant, {worker}):
            return False
        worker.served.pop(variant, None)
        task = self._load_on(worker, variant)
        await asyncio.wait({task})
        return not task.cancelled() and task.exception() is None

    def _load_on(self, worker: Worker, variant: Variant) -> "asyncio.Task[Loaded]":
        """Begin to load, or join the loading that is under way."""
        key = (worker, variant)
        if key not in self._under_way:
            task = self._under_way[key] = asyncio.create_task(self._load(worker, variant))
            task.add_done_callback(lambda done: self._loaded_on(key, done))
        return self._under_way[key]

    def _loaded_on(self, key: tuple[Worker, Variant], task: "asyncio.Task[Loaded]") -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and (error := task.exception()):
            self._wanted[key[1]] = str(error) or type(error).__name__
            if not isinstance(error, Away):  # that a worker is away was told when it went
                log.error("a variant is not loaded: %s", error)

    async def _load(self, worker: Worker, variant: Variant) -> Loaded:
        while worker.alive is None:
            await worker.look()
        if not worker.alive:
            raise Away(worker.reason)
        try:
            served = await worker.load(variant)
            known = self._known.setdefault(variant, served.loaded)
            if served.loaded.digest != known.digest:
                raise ModelError(
                    f"{worker.url} has other weights for a variant of {variant.model}: {served.loaded.digest[:19]}…, "
                    f"not {known.digest[:19]}… as before; give every worker the same files, or new weights a new place and variant"
                )
        except ModelError as error:
            worker.refused[variant] = str(error)
            raise
        worker.served[variant] = served
        self._wanted[variant] = ""
        worker.refused.pop(variant, None)
        return known

    async def _watch(self, worker: Worker) -> None:
        """Look at a worker every second, and give it what it lacks."""
        while True:
            try:
                if await worker.look():
                    for variant in [*self._wanted]:
                        if variant not in worker.served and variant not in worker.refused:
                            self._load_on(worker, variant)
            except Exception:
                log.exception("looking at worker %s failed", worker.url)
            await asyncio.sleep(LOOK_SECONDS)


def _later(picture: Picture, ms: float) -> Picture:
    return Picture(
        rgb=picture.rgb, queue_ms=picture.queue_ms + ms, service_ms=picture.service_ms, steps=picture.steps, rows=picture.rows,
        batch_rows=picture.batch_rows, encoded=picture.encoded,
    )  # fmt: skip
