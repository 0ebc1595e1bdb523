"""Health, metrics and the schema: what those who run the gateway ask it."""

from typing import Any

import msgspec
from litestar import Request, Response, get

from analytics.event_schema.files import VERSIONS, kinds, read
from analytics.events import SCHEMA_VERSION
from gateway.metrics import MEDIA_TYPE
from gateway.openapi import document
from gateway.problems import NotFound
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


@get("/schema/events", sync_to_thread=False)
def event_schemas() -> dict[str, Any]:
    """The kinds of event that have a JSON Schema, and the versions of the schemas."""
    return {"version": SCHEMA_VERSION, "versions": list(VERSIONS), "kinds": kinds()}


@get("/schema/events/{kind:str}", sync_to_thread=True)
def event_schema(kind: str, version: int | None = None) -> Response[bytes]:
    """The JSON Schema (2020-12) of one kind of event; `custom` stands for kinds that metrics name. `?version=` an older one."""
    try:
        found = read(kind, SCHEMA_VERSION if version is None else version)
    except LookupError as error:
        raise NotFound(f"there is no {error.args[0]}") from None
    return Response(found, media_type="application/schema+json")


@get(["/schema", "/schema/openapi.json"], include_in_schema=False, sync_to_thread=False)
def schema(request: Request[Any, Any, Any]) -> Response[bytes]:
    """OpenAPI 3.1 of this gateway."""
    return Response(msgspec.json.encode(document(request.app)), media_type="application/json")
