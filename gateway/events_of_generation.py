"""What the event log is told of one request for pictures: exposure, generation, images."""

from datetime import datetime
from typing import Any

import msgspec

from analytics.events import Event, derived_id, new_id, utc_now
from gateway.generation import Finished, Started
from gateway.plans import View


def exposure(started: Started) -> list[Event]:
    """The exposure event of a unit in an experiment: always the same id, so that only the first one counts; none without one.

    Where grids mix arms, a unit is exposed to the experiment, to no arm of it, and nothing was drawn for it.
    """
    if started.life is None:
        return []
    began = datetime.fromisoformat(started.life.started_at)
    identity = derived_id(began, "exposure", started.experiment, started.arm, started.unit)
    facts: dict[str, Any] = {"propensity": None} if started.draw.arms else {}
    return [_event(started, "exposure", event_id=identity, attributes=started.request.context or {}, **facts)]


def events_of_success(started: Started, finished: Finished, *, client_gone: bool) -> list[Event]:
    """Exposure, generation, and one image event per picture."""
    record = finished.record
    attributes = {**record.context, "served": finished.served, "order": ",".join(map(str, started.order)), "size": record.size}
    attributes |= _noted(started)
    attributes |= {"client_gone": "true"} if client_gone else {}
    attributes |= {"error": finished.fallback} if finished.fallback else {}
    attributes |= _company(finished)
    # Where arms share the grid, the pictures say what made them, and the request as a whole has neither steps nor guidance.
    made = {} if record.variant is None else {"steps": record.variant.steps, "guidance": record.variant.guidance}
    common = {"variant_digest": record.variant_digest, "grid": len(record.images), "prompt": record.prompt, **made}
    generation = _event(
        started, "generation", **common, seed=started.seed, queue_ms=record.queue_ms, service_ms=record.service_ms,
        status=record.status, attributes=attributes,
    )  # fmt: skip
    told = {**record.context, **record.facts} if record.facts else record.context
    images = [
        _event(started, "image", **common, image_id=p.image_id, position=p.position, seed=p.seed, attributes=told) for p in record.images
    ]
    if started.draw.arms:
        images = [msgspec.structs.replace(event, **own) for event, own in zip(images, _own(finished), strict=True)]
    return [*exposure(started), generation, *images]


def events_of_failure(started: Started, view: View, status: str, error: str) -> list[Event]:
    """Exposure and a generation without pictures: `failed`, or `cancelled` when the client went away first."""
    attributes = {**(started.request.context or {}), "error": error, **_noted(started)}
    facts: dict[str, Any] = {"grid": len(started.order), "prompt": started.request.prompt, "seed": started.seed, "status": status}
    if not started.draw.arms:
        variant = view.variants[started.arm or started.plan.serve]
        facts |= {"steps": variant.steps, "guidance": variant.guidance}
    return [*exposure(started), _event(started, "generation", **facts, attributes=attributes)]


def _noted(started: Started) -> dict[str, str]:
    """What the gateway notes of every request as attributes."""
    draw = started.draw
    noted = {"anonymous": "true"} if started.anonymous else {}
    noted |= {"arms": ",".join(draw.arms)} if draw.arms else {}
    noted |= {"pair": draw.pair} if draw.pair else {}
    return noted | draw.facts


def _own(finished: Finished) -> list[dict[str, Any]]:
    """By position, of a grid of several arms: the picture's arm, the propensity of its place, and what made it."""
    own = []
    for picture in finished.record.images:
        variant = finished.record.variants[picture.served]
        own.append({"arm": picture.arm, "propensity": picture.propensity, "variant_digest": picture.variant_digest})
        own[-1] |= {"steps": variant.steps, "guidance": variant.guidance}
    return own


def _company(finished: Finished) -> dict[str, str]:
    """How the pictures were made: rows that each took of a network call, rows of the calls they were in, and a hold."""
    rows = max((picture.rows for picture in finished.pictures), default=0)
    facts = {"held_ms": f"{finished.held_ms:.1f}"} if finished.held_ms else {}
    if rows:
        batch = sum(picture.batch_rows for picture in finished.pictures) / len(finished.pictures)
        facts |= {"rows": str(rows), "batch_rows": f"{batch:.2f}"}
    return facts


def _event(started: Started, kind: str, **facts: Any) -> Event:
    now = utc_now()
    return Event(
        **{"event_id": new_id(), "generation_id": started.generation_id, "propensity": started.draw.propensity, **facts},
        kind=kind,
        occurred_at=started.created_at if kind == "exposure" else now,
        received_at=now,
        route=started.plan.route,
        experiment=started.experiment,
        arm=started.draw.arm,
        unit=started.unit,
    )
