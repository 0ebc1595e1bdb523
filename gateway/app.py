"""The Litestar application of a gateway, counted at the edge."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp, Message, Receive, Send

from gateway import experiments_api, feedback, images, operations, people
from gateway.idempotency import Idempotency
from gateway.metrics import Metrics
from gateway.problems import Problem, from_bug, from_framework, from_problem
from gateway.running import Gateway

log = logging.getLogger(__name__)
HANDLERS = (
    images.generate, images.picture, images.provenance, feedback.feedback, feedback.preferences, experiments_api.assignments,
    experiments_api.experiments, experiments_api.experiment, experiments_api.change, experiments_api.reweigh, experiments_api.report,
    people.forget, operations.live, operations.ready, operations.metrics, operations.schema,
    operations.event_schemas, operations.event_schema,
)  # fmt: skip


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application. Its lifespan starts and stops the gateway."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        try:
            await gateway.start()
        except Problem as problem:
            raise RuntimeError(problem.detail) from None
        try:
            yield
        finally:
            await gateway.stop()

    def parts() -> Gateway:
        return gateway

    handlers: dict[Any, Any] = {Problem: from_problem, HTTPException: from_framework, Exception: from_bug}
    app = Litestar(
        route_handlers=HANDLERS,
        dependencies={"gateway": Provide(parts, sync_to_thread=False)},
        lifespan=[lifespan],
        middleware=[Idempotency(gateway.answers, gateway.config.gateway.max_body_bytes)],
        exception_handlers=handlers,
        request_max_body_size=gateway.config.gateway.max_body_bytes,
        state=State({"gateway": gateway}),
        logging_config=None,
        openapi_config=OpenAPIConfig(title="Salon gateway", version="1", path="/schema/litestar", render_plugins=[JsonRenderPlugin()]),
    )
    return counted(app, gateway.metrics)


def counted(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Count at the edge, where unknown paths are seen too; the label is the path's template."""

    async def edge(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, counting)
        finally:
            path = scope.get("path_template") or "unmatched"
            metrics.request(scope["method"], path, status, time.perf_counter() - began)

    return edge
