"""`POST /v1/feedback` and `POST /v1/preferences`: a 2xx answer means that the events are on disk."""

import asyncio
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from litestar import Request, Response, post

from analytics.event_log import LogFull
from analytics.events import Event, Flag, flag_names, utc_now
from gateway.access import holder_of
from gateway.feedback_events import (
    Envelope,
    Feedback,
    Preference,
    feedback_event,
    is_bot,
    known_kinds,
    preference_event,
    replayed,
    same_content,
)
from gateway.keys import Holder
from gateway.problems import Forbidden, InvalidRequest, NotFound, Problem, Unauthorized, Unavailable, retry_after
from gateway.running import Gateway
from gateway.tokens import Claims
from gateway.wire import decode

AnyRequest = Request[Any, Any, Any]
ERASED = "`{}` is of a generation that was erased with its unit; nothing is stored about it, do not send it again"


class Result(msgspec.Struct, omit_defaults=True):
    """What became of one event: accepted, duplicate or rejected. `event_id` is the client's where it gave one; `flags` say
    what is suspicious about what was stored, and will not be counted by default."""

    event_id: UUID | None
    status: str
    error: dict[str, Any] | None = None
    flags: list[str] = msgspec.field(default_factory=list)


class Taken(NamedTuple):
    """What is stored of an event; `new` is False for a repetition."""

    event: Event
    new: bool

    @property
    def status(self) -> str:
        return "accepted" if self.new else "duplicate"


class Reader:
    """Reads the items of one request: finds each one's generation, and judges it."""

    def __init__(self, request: AnyRequest, gateway: Gateway, envelope_token: str | None, sent_at: datetime | None = None) -> None:
        self._gateway = gateway
        self._holder: Holder | None = holder_of(request, gateway.keys)
        self._token = envelope_token or request.headers.get("salon-feedback-token")
        self._sent_at = sent_at
        self._opened: dict[str, Claims] = {}
        self._kinds = known_kinds(gateway.config.feedback_kinds)
        self.bot = is_bot(request.headers.get("user-agent", ""))

    async def feedback(self, body: bytes) -> tuple[Event, UUID]:
        """The event of one item, and the id to answer with. Raises Problem."""
        item = decode(body, Feedback)
        token = item.feedback_token or self._token
        claims = self.opened(token) if token else await self._by_generation(item.generation_id)
        event = feedback_event(item, claims, utc_now(), self._kinds, self.bot, by_token=bool(token), sent_at=self._sent_at)
        return event, item.event_id or event.event_id

    async def of_image(self, field: str, image_id: UUID, token: str | None) -> Claims:
        """The claims of the generation that made a picture, from the token when it is one of its. Raises Problem."""
        token = token or self._token
        if token and (claims := self.opened(token)).image(image_id):
            return claims
        self._may_look_up("naming a picture of another generation")
        claims_or_none = self._gateway.recent.of_image(image_id)
        if claims_or_none is None:
            record = await _read(self._gateway.store.generation_of, image_id)
            claims_or_none = record.claims() if record else None
        if claims_or_none is None:
            raise NotFound(f"`{field}` is {image_id}, which is no picture of this gateway", field=field)
        return self._living(claims_or_none, field)

    def opened(self, token: str) -> Claims:
        """What a token says; each is decrypted once. Raises InvalidToken, NotFound where its unit was erased."""
        if token not in self._opened:
            self._opened[token] = self._gateway.sealer.open(token)
        return self._living(self._opened[token], "feedback_token")

    async def _by_generation(self, generation_id: UUID | None) -> Claims | None:
        """None for a generation that this gateway does not know."""
        self._may_look_up("feedback without `feedback_token`")
        if generation_id is None:
            raise InvalidRequest(
                "`feedback_token` and `generation_id` are missing; one of them says what this is about", field="generation_id"
            )
        claims = self._gateway.recent.generation(generation_id)
        if claims is None:
            record = await _read(self._gateway.store.generation, generation_id)
            claims = record.claims() if record else None
        if claims is None and await _read(self._gateway.store.was_erased, generation_id):
            raise NotFound(ERASED.format("generation_id"), field="generation_id")
        return self._living(claims, "generation_id") if claims else None

    def _living(self, claims: Claims, field: str) -> Claims:
        """The claims again, unless their unit has been erased since: feedback would bring it back."""
        if self._gateway.erased.covers(claims.unit, claims.issued_at):
            raise NotFound(ERASED.format(field), field=field)
        return claims

    def _may_look_up(self, what: str) -> None:
        if self._holder is None:
            raise Unauthorized(f"{what} needs an API key with scope feedback; send `Authorization: Bearer KEY`, or the token")
        if "feedback" not in self._holder.scopes:
            raise Forbidden(f"{what} needs a key with scope feedback; {self._holder.name!r} has {', '.join(sorted(self._holder.scopes))}")


@post("/v1/feedback", status_code=202)
async def feedback(request: AnyRequest, gateway: Gateway) -> Response[bytes]:
    """Take one event, or `{"events": [up to 1000]}`. `text/plain` bodies with a `feedback_token` need no key (sendBeacon)."""
    body = await request.body()
    envelope = decode(body, Envelope)
    batch = envelope.events
    reader = Reader(request, gateway, envelope.feedback_token, envelope.sent_at)
    if isinstance(batch, msgspec.UnsetType):
        event, shown_id = await reader.feedback(body)
        (taken,) = await take(gateway, [event])
        gateway.metrics.feedback(taken.status, 1)
        return _answer([Result(shown_id, taken.status, flags=flag_names(taken.event.flags))])
    results, events, places = await _judge(reader, batch)
    for place, taken in zip(places, await take(gateway, events) if events else [], strict=True):
        results[place].status, results[place].flags = taken.status, flag_names(taken.event.flags)
    for status in ("accepted", "duplicate", "rejected"):
        gateway.metrics.feedback(status, sum(result.status == status for result in results))
    return _answer(results)


@post("/v1/preferences", status_code=202)
async def preferences(request: AnyRequest, gateway: Gateway) -> Response[bytes]:
    """Take a side-by-side choice by picture ids."""
    item = decode(await request.body(), Preference)
    reader = Reader(request, gateway, item.feedback_token)
    winner = await reader.of_image("winner", item.winner, item.feedback_token)
    loser = await reader.of_image("loser", item.loser, item.feedback_token)
    event = preference_event(item, winner, loser, utc_now(), reader.bot)
    (taken,) = await take(gateway, [event])
    gateway.metrics.feedback(taken.status, 1)
    return _answer([Result(item.event_id or event.event_id, taken.status, flags=flag_names(taken.event.flags))])


async def take(gateway: Gateway, events: list[Event]) -> list[Taken]:
    """Flag what comes too fast, wait until all is on disk, and keep apart what reuses the id of another event. Raises Unavailable."""
    rated = [_rated(gateway, event) for event in events]
    try:
        taken = [Taken(event, new) for event, new in zip(rated, await append(gateway, rated), strict=True)]
        repeated = [place for place, one in enumerate(taken) if not one.new]
        if repeated:
            await _tell_apart(gateway, taken, repeated)
    except Unavailable:
        for event in events:
            gateway.rates.take_back(event.unit, event.occurred_at)
        raise
    for one in taken:
        if one.new:
            gateway.metrics.flagged(flag_names(one.event.flags))
        else:
            gateway.rates.take_back(one.event.unit, one.event.occurred_at)
    return taken


async def _tell_apart(gateway: Gateway, taken: list[Taken], repeated: list[int]) -> None:
    """Of the events whose id was there before: what says the same is a repetition, anything else is stored beside it."""
    stored = await _stored(gateway, [taken[place].event.event_id for place in repeated])
    others = []
    for place in repeated:
        event = taken[place].event
        known = stored.get(event.event_id)
        if known is not None and not same_content(known, event):
            others.append(place)
            taken[place] = Taken(replayed(event), True)
        elif known is not None:
            taken[place] = Taken(msgspec.structs.replace(event, flags=known.flags), False)
    if others:
        for place, new in zip(others, await append(gateway, [taken[place].event for place in others]), strict=True):
            taken[place] = Taken(taken[place].event, new)


async def append(gateway: Gateway, events: list[Event]) -> list[bool]:
    """Wait until the events are on disk: True for each new one. Raises Unavailable."""
    try:
        return await asyncio.wrap_future(gateway.event_log.submit(events, together=True))
    except LogFull as full:
        raise Unavailable(
            "the event log is at its bound; nothing was stored, send it again", headers=retry_after(full.retry_after_seconds)
        ) from None
    except OSError as error:
        text = f"the event log cannot be written ({error.strerror or type(error).__name__}); nothing was stored, send it again"
        raise Unavailable(text, headers=retry_after(5)) from None


def _rated(gateway: Gateway, event: Event) -> Event:
    over = gateway.rates.over(event.unit, event.occurred_at)
    return msgspec.structs.replace(event, flags=event.flags | Flag.RATE) if over else event


async def _stored(gateway: Gateway, event_ids: list[UUID]) -> dict[UUID, Event]:
    try:
        return await asyncio.to_thread(gateway.event_log.stored, event_ids)
    except OSError as error:
        text = f"the event log cannot be read ({error.strerror or type(error).__name__}); send it again"
        raise Unavailable(text, headers=retry_after(5)) from None


async def _judge(reader: Reader, batch: list[msgspec.Raw]) -> tuple[list[Result], list[Event], list[int]]:
    results: list[Result] = []
    events: list[Event] = []
    places: list[int] = []
    denied: Problem | None = None
    for place, raw in enumerate(batch):
        try:
            event, shown_id = await reader.feedback(bytes(raw))
        except (Unauthorized, Forbidden) as problem:
            denied = denied or problem
            results.append(Result(_said_id(bytes(raw)), "rejected", problem.document()))
        except Unavailable:
            raise
        except Problem as problem:
            results.append(Result(_said_id(bytes(raw)), "rejected", problem.document()))
        else:
            results.append(Result(shown_id, "accepted"))
            events.append(event)
            places.append(place)
    if denied is not None and isinstance(denied, Unauthorized) and not events:
        raise denied
    return results, events, places


def _said_id(raw: bytes) -> UUID | None:
    try:
        value = msgspec.json.decode(raw)
        return UUID(value["event_id"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _answer(results: list[Result]) -> Response[bytes]:
    return Response(msgspec.json.encode({"results": results}), status_code=202, media_type="application/json")


async def _read(read: Any, identity: UUID) -> Any:
    try:
        return await asyncio.to_thread(read, identity)
    except OSError as error:
        raise Unavailable(f"the image store cannot be read ({error.strerror or type(error).__name__}); send the feedback token") from None
