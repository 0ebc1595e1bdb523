"""One worker of a remote engine: is it there, what has it ready, how much is it doing."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from serving.job import Job, Picture
from serving.protocol.wire import WireError, decode_response, encode_request
from serving.remote import other_server, salon_server
from serving.remote.connection import Connection
from serving.remote.failures import Closed, Lost, NotReady, Unanswered
from serving.remote.served import Served
from serving.remote.tensors import backlog_ms, guidance_of, infer_request, pictures_of, steps_of
from serving.remote.workload import Workload, predicted_ms, row_steps
from serving.variant import Variant

log = logging.getLogger(__name__)
PROBE_SECONDS = 4.0
# Probes in a row without an answer, after which a worker that accepts connections counts as dead. One that imports or compiles
# is slow for seconds; one whose process ended refuses connections, and is not waited for.
PATIENCE = 3
T = TypeVar("T")


class Worker:
    """`alive` is what the latest probe says; None before the first. `reason`: why it is not. What it served dies with it."""

    def __init__(self, connection: Connection, model: str | None) -> None:
        self.url = connection.url
        self.alive: bool | None = None
        self.reason = f"{connection.url} was not looked at yet"
        self.served: dict[Variant, Served] = {}
        self.refused: dict[Variant, str] = {}
        self.work = Workload()
        self._connection, self._model = connection, model
        self._deaths: set[asyncio.Future[None]] = set()
        self._missed = 0

    async def look(self) -> bool:
        """Probe once. The death of the host ends every request under way here with Lost; one that only closes may finish them."""
        try:
            await self._connection.get(salon_server.HEALTH if self._model is None else other_server.HEALTH, PROBE_SECONDS)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._missed = self._missed + 1 if isinstance(error, Unanswered) else PATIENCE
            if self._missed >= PATIENCE:
                self._bury(str(error) or type(error).__name__)
                if isinstance(error, Lost) and not isinstance(error, (Closed, NotReady)):
                    self._give_up()
            return False
        self._missed = 0
        if not self.alive:
            log.log(logging.INFO if self.alive is None else logging.WARNING, "worker %s answers", self.url)
            self.alive, self.reason = True, ""
        return True

    async def load(self, variant: Variant) -> Served:
        """What the worker says of `variant`; may take minutes. Raises ModelError, Lost, or what the exchange raises."""
        work = salon_server.load(self._connection, variant) if self._model is None else self._found(variant)
        return await self._while_alive(work)

    async def _found(self, variant: Variant) -> Served:
        return await other_server.load(self._connection, self._model or "", variant)

    async def draw(self, jobs: Sequence[Job], served: Served, deadline_seconds: float | None, others: list[Workload]) -> list[Picture]:
        """The pictures, as work that this worker is known to have meanwhile. Raises what the exchange raises; Lost."""
        lane = served.loaded.lane
        rows = sum(row_steps(steps_of(job), guidance_of(job), 1) for job in jobs)
        expected = predicted_ms(rows, lane, self.work, others)
        self.work.begin(expected)
        try:
            if served.one_at_a_time:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._infer([job], served, deadline_seconds)) for job in jobs]
                pictures = [task.result()[0] for task in tasks]
            else:
                pictures = await self._infer(jobs, served, deadline_seconds)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self.work.end(expected)
        # an image's share of the calls that it was in is what it cost the device
        spent = sum(picture.service_ms * (picture.rows / picture.batch_rows if picture.batch_rows > 0 else 1.0) for picture in pictures)
        self.work.learn(lane, spent / rows)
        return pictures

    async def _infer(self, jobs: Sequence[Job], served: Served, deadline_seconds: float | None) -> list[Picture]:
        body, json_length = encode_request(infer_request(jobs, served, deadline_seconds))
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(json_length)}
        began = time.perf_counter()
        answer = await self._while_alive(self._connection.post(served.path, body, headers))
        wall_ms = 1000 * (time.perf_counter() - began)
        try:
            length = answer.headers.get("Inference-Header-Content-Length")
            response = decode_response(answer.body, int(length) if length is not None else None)
            pictures = pictures_of(response, len(jobs), (served.loaded.width, served.loaded.height), wall_ms)
        except (WireError, Lost, ValueError, msgspec.MsgspecError) as error:
            raise Lost(f"{self.url}: its answer cannot be read: {error}") from None
        if (told := backlog_ms(response)) is not None:
            self.work.reported(told, time.perf_counter())
        return pictures

    async def _while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """The result, or Lost as soon as the worker is known to be dead: a dead host closes no connection."""
        task, death = asyncio.ensure_future(work), asyncio.get_running_loop().create_future()
        self._deaths.add(death)
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Lost(f"{self.url} died: {self.reason}")
            return task.result()
        finally:
            self._deaths.discard(death)
            if not task.done():
                task.cancel()

    def _bury(self, reason: str) -> None:
        if self.alive is not False:
            log.warning("a worker is away: %s", reason)
        self.alive, self.reason = False, reason
        self.served.clear()
        self.refused.clear()
        self.work.forget()

    def _give_up(self) -> None:
        for death in self._deaths:
            if not death.done():
                death.set_result(None)
