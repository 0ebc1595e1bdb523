"""One request for pictures: assign, queue, render, fall back once, and tell the event log what happened."""

import asyncio
import logging
import random
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from analytics.events import Event, derived_id, new_id, utc_now
from gateway.engines import Engines
from gateway.image_request import SEED_LIMIT, ImageRequest, check_size, choose_route
from gateway.images_store import GenerationRecord, PictureRecord
from gateway.ledger import Life
from gateway.partial import Progress
from gateway.plans import Plan, View
from gateway.problems import ClientGone, GenerationFailed, Overloaded, Unavailable, retry_after
from serving.engine import Job, Picture
from serving.errors import Busy, ModelError
from serving.variant import Variant

log = logging.getLogger(__name__)
DO_NOT_RETRY = {"x-should-retry": "false"}
_dice = random.SystemRandom()


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A request on its way: what was decided before any work, and the seeds in the order in which they will be shown."""

    request: ImageRequest
    generation_id: UUID
    created_at: datetime
    plan: Plan
    life: Life | None
    arm: str
    propensity: float | None
    unit: str
    anonymous: bool
    size: str
    seed: int
    order: tuple[int, ...]

    @property
    def seeds(self) -> list[int]:
        return [(self.seed + drawn) % SEED_LIMIT for drawn in self.order]

    @property
    def experiment(self) -> str:
        return self.life.name if self.life else ""


class Finished(msgspec.Struct, frozen=True):
    """What came of it: the provenance and the pictures, by position. `held_ms` of the record's `queue_ms` are a hold (`equalise`)."""

    record: GenerationRecord
    pictures: list[Picture]
    steps: int
    fallback: str = ""
    held_ms: float = 0.0

    @property
    def latency_ms(self) -> float:
        """What the person waited for queue, model and hold."""
        return self.record.queue_ms + self.record.service_ms

    def held(self, held_ms: float) -> "Finished":
        """The same after it was held back; people waited for that too, so it counts as queueing."""
        record = msgspec.structs.replace(self.record, queue_ms=self.record.queue_ms + held_ms)
        return msgspec.structs.replace(self, record=record, held_ms=held_ms)


async def start(request: ImageRequest, view: View, engines: Engines) -> Started:
    """Check the request and draw the arm. Makes no work and no event. Raises Problem.

    A request without `user` joins no experiment: it gets what the route serves, under a unit of its own (`anon-…`) that
    never comes back, so that an arm is not seen by someone who is assigned to the other.
    """
    request.check()
    plan = view.plans[choose_route(request.model, tuple(view.plans))]
    size = check_size(request.size, *await _size(view.variants[plan.serve], engines))
    now = utc_now()
    n = request.n or 1
    order = list(range(n))
    _dice.shuffle(order)
    assigned = plan.assign(request.user) if request.user is not None else None
    return Started(
        request=request,
        generation_id=new_id(),
        created_at=now,
        plan=plan,
        life=plan.life if assigned else None,
        arm=assigned.arm if assigned else "",
        propensity=assigned.propensity if assigned else None,
        unit=request.user if request.user is not None else f"anon-{new_id()}",
        anonymous=request.user is None,
        size=size,
        seed=_dice.randrange(1 << 32) if request.seed is None else request.seed,
        order=tuple(order),
    )


async def render(
    started: Started, view: View, engines: Engines, gone: asyncio.Event, timeout_seconds: float, progress: Progress | None = None
) -> Finished:
    """Make the pictures with the arm's variant; if it fails, once with what the route serves: the unit keeps its arm.

    `progress` hears of unfinished pictures and of the predicted time.
    Raises Overloaded with nothing begun; ClientGone when the client went away while some still waited; GenerationFailed.
    """
    chosen = started.arm or started.plan.serve
    try:
        return await _attempt(started, chosen, view, engines, gone, timeout_seconds, "", progress)
    except (Overloaded, ClientGone):
        raise
    except Exception as error:
        # Whatever an engine raises, the unit keeps its arm and gets the route's own variant instead.
        if chosen == started.plan.serve or isinstance(error, TimeoutError):
            raise _failure(error) from error
        log.warning("arm %s of %s failed (%s); falling back to %s", chosen, started.experiment, error, started.plan.serve)
        cause = type(error).__name__
    try:
        return await _attempt(started, started.plan.serve, view, engines, gone, timeout_seconds, cause, progress)
    except ClientGone:
        raise
    except Exception as error:
        raise _failure(error) from error


async def _attempt(
    started: Started,
    name: str,
    view: View,
    engines: Engines,
    gone: asyncio.Event,
    timeout_seconds: float,
    fallback: str,
    progress: Progress | None,
) -> Finished:
    variant = view.variants[name]
    request, previews = started.request, progress.partial_images if progress else 0
    async with asyncio.timeout(timeout_seconds):
        loaded = await engines.load(variant)
        jobs = [
            Job(variant=variant, prompt=request.prompt, negative_prompt=request.negative_prompt or "", seed=seed, previews=previews)
            for seed in started.seeds
        ]
        watch = progress.watch if progress and previews else None
        try:
            drawing = asyncio.create_task(engines.draw(variant, jobs, deadline_seconds=timeout_seconds, watch=watch))
            if progress:
                # Behind the task's first step, which queues the jobs.
                asyncio.get_running_loop().call_soon(_predict, progress, engines)
            pictures = await _unless_gone(drawing, gone)
        except Busy as busy:
            raise Overloaded(
                f"about {engines.queue_seconds():.0f} s of work is waiting; try again in {busy.retry_after_seconds:.0f} s",
                headers=retry_after(busy.retry_after_seconds),
            ) from None
    record = GenerationRecord(
        generation_id=started.generation_id,
        created_at=started.created_at,
        route=started.plan.route,
        experiment=started.experiment,
        arm=started.arm,
        served=name,
        variant=variant,
        variant_digest=loaded.digest,
        unit=started.unit,
        anonymous=started.anonymous,
        propensity=started.propensity,
        prompt=started.request.prompt,
        negative_prompt=started.request.negative_prompt or "",
        size=started.size,
        status="failed" if fallback else "ok",
        queue_ms=max(picture.queue_ms for picture in pictures),
        service_ms=max(picture.service_ms for picture in pictures),
        context=started.request.context or {},
        images=tuple(PictureRecord(new_id(), position, seed) for position, seed in enumerate(started.seeds)),
    )
    return Finished(record, pictures, variant.steps, fallback)


def _predict(progress: Progress, engines: Engines) -> None:
    progress.predict(engines.queue_seconds())


async def _unless_gone(task: "asyncio.Task[list[Picture]]", gone: asyncio.Event) -> list[Picture]:
    """The pictures. When the client goes away, the engine gives their places to others at its next step. Raises ClientGone."""
    leaving = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client went away")
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()


async def _size(variant: Variant, engines: Engines) -> tuple[int, int]:
    try:
        loaded = await engines.load(variant)
    except ModelError as error:
        raise Unavailable(f"what this route serves cannot be loaded: {error}", headers=retry_after(30)) from None
    return loaded.width, loaded.height


def _failure(error: Exception) -> GenerationFailed | Unavailable:
    if isinstance(error, Overloaded):
        return Unavailable(error.detail, headers=error.headers)
    if isinstance(error, TimeoutError):
        return GenerationFailed("the picture was not ready in time; the work was begun, so do not repeat it at once", headers=DO_NOT_RETRY)
    if isinstance(error, ModelError):
        return Unavailable(f"the model cannot be loaded: {error}", headers=retry_after(30))
    return GenerationFailed("the model failed on this request; the gateway's log says why", headers=DO_NOT_RETRY)


def exposure(started: Started) -> list[Event]:
    """The exposure event of a unit in an experiment: always the same id, so that only the first one counts; none without one."""
    if started.life is None:
        return []
    began = datetime.fromisoformat(started.life.started_at)
    identity = derived_id(began, "exposure", started.experiment, started.arm, started.unit)
    return [_event(started, "exposure", event_id=identity, attributes=started.request.context or {})]


def events_of_success(started: Started, finished: Finished, *, client_gone: bool) -> list[Event]:
    """Exposure, generation, and one image event per picture."""
    record = finished.record
    attributes = {**record.context, "served": record.served, "order": ",".join(map(str, started.order)), "size": record.size}
    attributes |= {"anonymous": "true"} if started.anonymous else {}
    attributes |= {"client_gone": "true"} if client_gone else {}
    attributes |= {"error": finished.fallback} if finished.fallback else {}
    attributes |= _company(finished)
    common = {
        "variant_digest": record.variant_digest,
        "grid": len(record.images),
        "prompt": record.prompt,
        "steps": finished.steps,
        "guidance": record.variant.guidance,
    }
    generation = _event(
        started, "generation", **common, seed=started.seed, queue_ms=record.queue_ms, service_ms=record.service_ms,
        status=record.status, attributes=attributes,
    )  # fmt: skip
    images = [
        _event(started, "image", **common, image_id=p.image_id, position=p.position, seed=p.seed, attributes=record.context)
        for p in record.images
    ]
    return [*exposure(started), generation, *images]


def _company(finished: Finished) -> dict[str, str]:
    """How the pictures were made: rows that each took of a network call, rows of the calls they were in, and a hold."""
    rows = max((picture.rows for picture in finished.pictures), default=0)
    facts = {"held_ms": f"{finished.held_ms:.1f}"} if finished.held_ms else {}
    if rows:
        batch = sum(picture.batch_rows for picture in finished.pictures) / len(finished.pictures)
        facts |= {"rows": str(rows), "batch_rows": f"{batch:.2f}"}
    return facts


def events_of_failure(started: Started, view: View, status: str, error: str) -> list[Event]:
    """Exposure and a generation without pictures: `failed`, or `cancelled` when the client went away first."""
    variant = view.variants[started.arm or started.plan.serve]
    attributes = {**(started.request.context or {}), "error": error, **({"anonymous": "true"} if started.anonymous else {})}
    generation = _event(
        started, "generation", grid=len(started.order), prompt=started.request.prompt, seed=started.seed, steps=variant.steps,
        guidance=variant.guidance, status=status, attributes=attributes,
    )  # fmt: skip
    return [*exposure(started), generation]


def _event(started: Started, kind: str, **facts: Any) -> Event:
    now = utc_now()
    return Event(
        **{"event_id": new_id(), "generation_id": started.generation_id, **facts},
        kind=kind,
        occurred_at=started.created_at if kind == "exposure" else now,
        received_at=now,
        route=started.plan.route,
        experiment=started.experiment,
        arm=started.arm,
        unit=started.unit,
        propensity=started.propensity,
    )
