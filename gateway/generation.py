"""One request for pictures: draw what it is given, queue, render, and what an arm cannot make, once with what the route serves."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from analytics.events import new_id, utc_now
from gateway.attempt import attempt
from gateway.draws import NO_PART, Draw, draw
from gateway.engines import Engines
from gateway.image_request import SEED_LIMIT, ImageRequest, check_size, choose_route
from gateway.images_store import GenerationRecord, PictureRecord
from gateway.ledger import Life
from gateway.partial import Progress
from gateway.plans import Plan, View
from gateway.problems import ClientGone, GenerationFailed, Overloaded, Unavailable, retry_after
from gateway.sticky import Sticky
from serving.errors import ModelError
from serving.job import Picture
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
    draw: Draw
    unit: str
    anonymous: bool
    size: str
    seed: int
    order: tuple[int, ...]

    @property
    def seeds(self) -> list[int]:
        return [(self.seed + drawn) % SEED_LIMIT for drawn in self.order]

    @property
    def life(self) -> Life | None:
        return self.draw.life

    @property
    def arm(self) -> str:
        """The arm of all pictures; empty where each has its own, or none has."""
        return self.draw.arm

    @property
    def experiment(self) -> str:
        return self.draw.life.name if self.draw.life else ""


class Part(msgspec.Struct, frozen=True):
    """The pictures of one arm: what was served for it, at which places of the grid. `fallback`: why not its own variant."""

    arm: str
    served: str
    variant: Variant
    digest: str
    places: Sequence[int]
    pictures: list[Picture]
    fallback: str = ""

    @property
    def queue_ms(self) -> float:
        return max(picture.queue_ms for picture in self.pictures)

    @property
    def service_ms(self) -> float:
        return max(picture.service_ms for picture in self.pictures)


class Finished(msgspec.Struct, frozen=True):
    """What came of it: the provenance, and the pictures by arm. `held_ms` of the record's `queue_ms` are a hold (`equalise`)."""

    record: GenerationRecord
    parts: tuple[Part, ...]
    held_ms: float = 0.0

    @property
    def pictures(self) -> list[Picture]:
        """By position."""
        if len(self.parts) == 1:
            return self.parts[0].pictures
        placed = {place: picture for part in self.parts for place, picture in zip(part.places, part.pictures, strict=True)}
        return [placed[place] for place in range(len(placed))]

    @property
    def served(self) -> str:
        """What was served; of a grid of several arms by position, with commas."""
        return self.record.served or ",".join(picture.served for picture in self.record.images)

    @property
    def fallback(self) -> str:
        """Why an arm's own variant was not served; of a grid of several arms with the name of each that failed."""
        if self.record.variant is not None:
            return self.parts[0].fallback
        return ",".join(f"{part.arm}: {part.fallback}" for part in self.parts if part.fallback)

    @property
    def latency_ms(self) -> float:
        """What the person waited for queue, model and hold."""
        return self.record.queue_ms + self.record.service_ms

    def held(self, held_ms: float) -> "Finished":
        """The same after it was held back; people waited for that too, so it counts as queueing."""
        record = msgspec.structs.replace(self.record, queue_ms=self.record.queue_ms + held_ms)
        return msgspec.structs.replace(self, record=record, held_ms=held_ms)


async def start(request: ImageRequest, view: View, engines: Engines, sticky: Sticky) -> Started:
    """Check the request and draw the arm, or the arms. Makes no work and no event. Raises Problem.

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
    return Started(
        request=request,
        generation_id=new_id(),
        created_at=now,
        plan=plan,
        draw=await draw(plan, request.user, n, now, sticky, _dice) if request.user is not None else NO_PART,
        unit=request.user if request.user is not None else f"anon-{new_id()}",
        anonymous=request.user is None,
        size=size,
        seed=_dice.randrange(1 << 32) if request.seed is None else request.seed,
        order=tuple(order),
    )


async def render(
    started: Started, view: View, engines: Engines, gone: asyncio.Event, timeout_seconds: float, progress: Progress | None = None
) -> Finished:
    """Make the pictures with the arm's variant, of a grid of several arms each with its own, all at once; what fails, once with what
    the route serves: the arm is kept.

    `progress` hears of unfinished pictures and of the predicted time.
    Raises Overloaded with nothing begun; ClientGone when the client went away while some still waited; GenerationFailed.
    """
    arms, every = started.draw.arms, range(len(started.order))
    if not arms:
        return _finished(started, (await _part(started, started.draw.arm, every, view, engines, gone, timeout_seconds, progress),))

    def part(arm: str, places: Sequence[int]) -> Coroutine[Any, Any, Part]:
        return _part(started, arm, places, view, engines, gone, timeout_seconds, progress)

    places = {arm: [place for place in every if arms[place] == arm] for arm in started.draw.each_arm}
    found = dict(zip(places, await asyncio.gather(*map(part, places, places.values()), return_exceptions=True), strict=True))
    if any(isinstance(one, Part) for one in found.values()):
        for arm in [arm for arm, one in found.items() if isinstance(one, Overloaded)]:
            # The rest of its own grid went ahead of it; of a request that is let in, all is.
            found[arm] = await part(arm, places[arm])
    if error := next((one for one in found.values() if isinstance(one, BaseException)), None):
        raise error
    return _finished(started, tuple(one for one in found.values() if isinstance(one, Part)))


async def _part(
    started: Started,
    arm: str,
    places: Sequence[int],
    view: View,
    engines: Engines,
    gone: asyncio.Event,
    timeout_seconds: float,
    progress: Progress | None,
) -> Part:
    """The pictures of one arm, or of none (`arm` empty), with what the route serves where the arm's own variant fails."""
    own, route, seeds = arm or started.plan.serve, started.plan.serve, started.seeds
    asked = [seeds[place] for place in places]
    try:
        digest, pictures = await attempt(view.variants[own], started.request, asked, places, engines, gone, timeout_seconds, progress)
        return Part(arm, own, view.variants[own], digest, places, pictures)
    except (Overloaded, ClientGone):
        raise
    except Exception as error:
        # Whatever an engine raises, the unit keeps its arm and gets the route's own variant instead.
        if own == route or isinstance(error, TimeoutError):
            raise _failure(error) from error
        log.warning("arm %s of %s failed (%s); falling back to %s", own, started.experiment, error, route)
        cause = type(error).__name__
    try:
        digest, pictures = await attempt(view.variants[route], started.request, asked, places, engines, gone, timeout_seconds, progress)
        return Part(arm, route, view.variants[route], digest, places, pictures, cause)
    except ClientGone:
        raise
    except Exception as error:
        raise _failure(error) from error


def _finished(started: Started, parts: tuple[Part, ...]) -> Finished:
    """What came of the parts of a request, with its provenance."""
    draw = started.draw
    first, alone = parts[0], len(parts) == 1
    same = alone or len({part.served for part in parts}) == 1
    pictures = [PictureRecord(new_id(), position, seed) for position, seed in enumerate(started.seeds)]
    if draw.arms:
        for part in parts:
            own = {"arm": part.arm, "served": part.served, "variant_digest": part.digest, "propensity": draw.place_propensity}
            for place in part.places:
                pictures[place] = msgspec.structs.replace(pictures[place], **own)
    record = GenerationRecord(
        generation_id=started.generation_id,
        created_at=started.created_at,
        route=started.plan.route,
        experiment=started.experiment,
        arm=started.arm,
        served=first.served if same else "",
        variant=None if draw.arms else first.variant,
        variant_digest=first.digest if same else "",
        unit=started.unit,
        anonymous=started.anonymous,
        propensity=draw.propensity,
        prompt=started.request.prompt,
        negative_prompt=started.request.negative_prompt or "",
        size=started.size,
        status="failed" if any(part.fallback for part in parts) else "ok",
        queue_ms=first.queue_ms if alone else max(part.queue_ms for part in parts),
        service_ms=first.service_ms if alone else max(part.service_ms for part in parts),
        context=started.request.context or {},
        images=tuple(pictures),
        variants={part.served: part.variant for part in parts} if draw.arms else {},
        facts=draw.facts,
    )
    return Finished(record, parts)


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
