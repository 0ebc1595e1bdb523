"""OpenAPI: Litestar's schema of the calls, with the bodies that our handlers decode by themselves."""

from typing import Any

import msgspec
from litestar import Litestar

from gateway.experiments_api import AssignmentsRequest, Change, Weights
from gateway.feedback_events import Feedback, Preference
from gateway.image_request import ImageRequest

BODIES: dict[tuple[str, str], type] = {
    ("/v1/images/generations", "post"): ImageRequest,
    ("/v1/feedback", "post"): Feedback,
    ("/v1/preferences", "post"): Preference,
    ("/v1/assignments", "post"): AssignmentsRequest,
    ("/v1/experiments/{name}/{action}", "post"): Change,
    ("/v1/experiments/{name}", "patch"): Weights,
}


def document(app: Litestar) -> dict[str, Any]:
    """The OpenAPI document."""
    schema: dict[str, Any] = app.openapi_schema.to_schema()
    bodies, components = msgspec.json.schema_components(list(BODIES.values()), ref_template="#/components/schemas/{name}")
    schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for ((path, method), _), body in zip(BODIES.items(), bodies, strict=True):
        if path == "/v1/feedback":
            many = {"type": "object", "required": ["events"], "properties": {"events": {"type": "array", "maxItems": 1000, "items": body}}}
            body = {"oneOf": [body, many]}
        schema["paths"][path][method]["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    for path, calls in schema["paths"].items():
        for call in calls.values():
            if isinstance(call, dict) and path.startswith("/v1/"):
                call["security"] = [{"key": []}]
    return schema
