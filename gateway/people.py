"""`DELETE /v1/units/{unit}`: forget a person everywhere that the gateway keeps something."""

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, delete

from analytics.events import utc_now
from gateway.access import needs
from gateway.problems import Unavailable, retry_after
from gateway.running import Gateway


@delete("/v1/units/{unit:path}", guards=[needs("admin")], status_code=200)
async def forget(request: Request[Any, Any, Any], gateway: Gateway, unit: str) -> Response[bytes]:
    """Delete a unit's events, pictures, provenance and kept answers. The receipt counts them; ask again if it fails halfway.

    Feedback on what was made for the unit before is refused from now on. Assignments need no deletion: they are computed,
    not stored. Training examples are read anew from the warehouse by each round.
    """
    unit = unit.removeprefix("/")
    gateway.recent.erase(unit)
    try:
        # First of all, so that no feedback slips in behind what is deleted below.
        await asyncio.to_thread(gateway.erased.add, unit)
        generations, pictures = await asyncio.to_thread(gateway.store.erase, unit)
        rows = await asyncio.to_thread(gateway.reports.erase, unit)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Unavailable(f"not everything could be deleted ({reason}); ask again", headers=retry_after(5)) from None
    answers = await gateway.answers.erase(unit)
    erased = {"event_rows": rows, "generations": generations, "pictures": pictures, "kept_answers": answers}
    await gateway.experiments.note("erase", request.scope["user"].name, "a person asked to be forgotten", erased)
    return Response(msgspec.json.encode({"erased": erased, "at": utc_now()}), media_type="application/json")
