"""Health, metrics and the schema: what those who run the gateway ask it."""

from typing import Any

import msgspec
from litestar import Request, Response, get

from gateway.metrics import MEDIA_TYPE
from gateway.openapi import document
from gateway.running import Gateway


@get("/health/live", sync_to_thread=False)
def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@get("/health/ready")
async def ready(gateway: Gateway) -> Response[bytes]:
    """Can every route make pictures? Details name what is not as it should be, also where pictures do not need it."""
    readiness = gateway.readiness()
    return Response(msgspec.json.encode(readiness), status_code=200 if readiness["ready"] else 503, media_type="application/json")


@get("/metrics", sync_to_thread=True)
def metrics(gateway: Gateway) -> Response[bytes]:
    """Prometheus metrics."""
    return Response(gateway.metrics.text(), media_type=MEDIA_TYPE)


@get(["/schema", "/schema/openapi.json"], include_in_schema=False, sync_to_thread=False)
def schema(request: Request[Any, Any, Any]) -> Response[bytes]:
    """OpenAPI 3.1 of this gateway."""
    return Response(msgspec.json.encode(document(request.app)), media_type="application/json")
