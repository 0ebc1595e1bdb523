"""`DELETE /v1/units/{unit}`: forget a person everywhere that the gateway keeps something."""

from typing import Any

import msgspec
from litestar import Request, Response, delete

from gateway.access import needs
from gateway.running import Gateway


@delete("/v1/units/{unit:path}", guards=[needs("admin")], status_code=200)
async def forget(request: Request[Any, Any, Any], gateway: Gateway, unit: str) -> Response[bytes]:
    """Delete a unit's events, pictures, provenance and kept answers. The receipt counts them, place by place, each checked to
    be empty afterwards; ask again if it fails halfway.

    Feedback on what was made for the unit before is refused from now on, by every gateway. Assignments need no deletion where they
    are computed; those that a bandit remembers go too. Training examples are read anew from the warehouse by each round. Copies
    in Kafka expire by its retention.
    """
    receipt = await gateway.forgetting.forget(unit.removeprefix("/"), request.scope["user"].name)
    return Response(msgspec.json.encode(receipt), media_type="application/json")
