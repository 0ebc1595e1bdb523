"""The ASGI application of a worker, and the server that runs it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any

import uvicorn
from litestar import Litestar
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Send

from serving.protocol import handlers, metrics
from serving.protocol.metrics import Metrics
from serving.protocol.refusals import from_error, from_framework
from serving.protocol.worker import Worker

MAX_BODY_BYTES, KEEP_ALIVE_SECONDS = 16_000_000, 75
HANDLERS = (
    handlers.live, handlers.ready, handlers.server, handlers.all_statistics, handlers.metadata, handlers.model_ready, handlers.config,
    handlers.statistics, handlers.index, handlers.load, handlers.unload, handlers.infer, metrics.exposition,
)  # fmt: skip


def create_app(worker: Worker) -> ASGIApp:
    """The application. Its lifespan begins to load what is configured, and closes the worker."""
    counted = Metrics(worker)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        worker.shelf.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.close)

    def the_worker() -> Worker:
        return worker

    def the_metrics() -> Metrics:
        return counted

    errors: dict[Any, Any] = {HTTPException: from_framework, Exception: from_error}
    app = Litestar(
        route_handlers=HANDLERS,
        dependencies={"worker": Provide(the_worker, sync_to_thread=False), "metrics": Provide(the_metrics, sync_to_thread=False)},
        lifespan=[lifespan],
        exception_handlers=errors,
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        openapi_config=None,
    )
    return _counting(app, counted)


def _counting(app: ASGIApp, counted: Metrics) -> ASGIApp:
    """Count at the edge, where unknown paths are seen too."""

    async def edge(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        status = 500

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, counting)
        finally:
            counted.request(scope.get("path_template") or "unmatched", status)

    return edge


class Server(uvicorn.Server):
    """At the first signal the worker finishes what runs and answers 503 to what is new; then, or at the second, the server ends."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(worker),
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=5,
            )
        )
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT."""
        if self._worker.closing:
            self.should_exit = True
        else:
            self._worker.begin_closing()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self._worker.drained:
            self.should_exit = True
        return await super().on_tick(counter)
