"""From what a client says people did to events with the facts of the assignment copied in. Pure: no clock, no store."""

import math
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from analytics.events import FEEDBACK_KINDS, Event, Flag, derived_id, new_id, time_of
from analytics.settings import nearest
from gateway.image_request import check_context
from gateway.problems import InvalidRequest
from gateway.tokens import Claims, Shown
from gateway.wire import shown

EVENTS = 1000
AHEAD = timedelta(minutes=5)
# The warehouse keeps a row by the day that its id was minted: no id may stand in 1970 or 2105.
FIRST_MINTED, MINTED_AHEAD = datetime(2020, 1, 1, tzinfo=UTC), timedelta(days=1)
RESERVED_ATTRIBUTES = (
    "block",
    "client_event_id",
    "client_generation_id",
    "client_image_id",
    "client_occurred_at",
    "client_sent_at",
    "loser",
    "loser_arm",
    "loser_variant_digest",
    "loser_generation_id",
    "rater",
    "washout",
)
BOTS = re.compile(r"bot\b|crawl|spider|slurp|headless|phantomjs|facebookexternalhit|lighthouse|pingdom|archiver", re.IGNORECASE)


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that someone did. Which generation: by `feedback_token`, or by `generation_id` with a key of scope feedback."""

    kind: str
    generation_id: UUID | None = None
    image_id: UUID | None = None
    value: float | None = None
    event_id: UUID | None = None
    occurred_at: datetime | None = None
    sent_at: datetime | None = None
    attributes: dict[str, str] | None = None
    feedback_token: str | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Many at once, each checked by itself; or, without `events`, a single one. `sent_at` is of all that do not say their own."""

    events: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=EVENTS)] | msgspec.UnsetType = msgspec.UNSET
    feedback_token: str | None = None
    sent_at: datetime | None = None


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """A side-by-side choice between two pictures of one route. With `tie` neither is better."""

    winner: UUID
    loser: UUID
    tie: bool = False
    rater: str | None = None
    event_id: UUID | None = None
    sent_at: datetime | None = None
    feedback_token: str | None = None


def is_bot(user_agent: str) -> bool:
    """Does the user agent name itself a robot?"""
    return BOTS.search(user_agent) is not None


def feedback_event(
    item: Feedback,
    claims: Claims | None,
    now: datetime,
    kinds: Collection[str],
    bot: bool,
    *,
    by_token: bool = True,
    sent_at: datetime | None = None,
) -> Event:
    """The event to log. Raises InvalidRequest.

    `claims` are the token's (`by_token`), or those of the generation that was named; None for a generation that this gateway does
    not know, and then the event knows neither arm nor unit. What a client says against its token is kept in the attributes,
    and flagged. `sent_at` is the envelope's.
    """
    _check_kind(item.kind, kinds)
    if item.value is not None and not math.isfinite(item.value):
        raise InvalidRequest(f"`value` is {item.value}; give a finite number", field="value")
    attributes = dict(item.attributes or {})
    check_context(attributes, "attributes")
    for name in RESERVED_ATTRIBUTES:
        if name in attributes:
            raise InvalidRequest(f"`attributes.{name}` is set by the gateway; take another name", field=f"attributes.{name}")
    flags, image_id, picture = (Flag.BOT_USER_AGENT if bot else 0), None, None
    if claims is None:
        claims, image_id = _unknown(item.generation_id, now), item.image_id
        flags |= Flag.UNKNOWN_GENERATION
    elif by_token:
        picture = claims.image(item.image_id) if item.image_id is not None else None
        flags |= _suspicions(claims, now, bot) | _contradictions(item, claims, picture, attributes)
    else:
        picture = _picture(item.image_id, claims)
        flags |= _suspicions(claims, now, bot)
    occurred_at, ahead = _when(item.occurred_at, claims, now, attributes)
    event_id, far_ahead = _event_id(item.event_id, claims, now, attributes)
    sent = _sent(item.sent_at or sent_at, now, attributes)
    flags |= ahead | far_ahead
    return _event(event_id, item.kind, occurred_at, now, claims, picture, item.value, flags, attributes, sent, image_id)


def preference_event(item: Preference, winner: Claims, loser: Claims, now: datetime, bot: bool) -> Event:
    """The event of a choice: facts of the winner, those of the loser as attributes. Raises InvalidRequest."""
    if item.winner == item.loser:
        raise InvalidRequest(f"`winner` and `loser` are the same picture {item.winner}; name two", field="loser")
    if winner.route != loser.route:
        raise InvalidRequest(
            f"`winner` was made for route {winner.route!r}, `loser` for {loser.route!r}; compare within one route", field="loser"
        )
    lost = _picture(item.loser, loser)
    attributes = {"loser": str(item.loser), "loser_arm": loser.arm_of(lost), "loser_generation_id": str(loser.generation_id)}
    attributes |= {"loser_variant_digest": lost.variant_digest if lost else ""}
    if item.rater is not None:
        check_context({"rater": item.rater}, "rater")
        attributes["rater"] = item.rater
    event_id, far_ahead = _event_id(item.event_id, winner, now, attributes)
    sent = _sent(item.sent_at, now, attributes)
    picture, value = _picture(item.winner, winner), 0.5 if item.tie else 1.0
    # Whoever judges two pictures of their own has nothing to gain by either.
    own = item.rater is not None and (winner.unit == item.rater) != (loser.unit == item.rater)
    flags = _suspicions(winner, now, bot) | far_ahead | (Flag.SELF_CLICK if own else 0)
    return _event(event_id, "preference", now, now, winner, picture, value, flags, attributes, sent)


def same_content(stored: Event, again: Event) -> bool:
    """Do two events with one id say the same? A unit that one of them does not know is no difference."""
    a, b = ((event.kind, event.generation_id, event.image_id) for event in (stored, again))
    return a == b and (stored.unit == again.unit or not stored.unit or not again.unit)


def replayed(event: Event) -> Event:
    """The same event under an id of its own, the same at each retry: its own id already stands for something else."""
    content = (str(event.event_id), event.kind, str(event.generation_id), str(event.image_id), event.unit)
    event_id = derived_id(time_of(event.event_id) or event.received_at, "replayed", *content)
    attributes = {"client_event_id": str(event.event_id), **event.attributes}
    return msgspec.structs.replace(event, event_id=event_id, attributes=attributes, flags=event.flags | Flag.REPLAYED_ID)


def _check_kind(kind: str, kinds: Collection[str]) -> None:
    if kind == "preference":
        raise InvalidRequest('`kind` is "preference"; a choice between two pictures goes to POST /v1/preferences', field="kind")
    if kind not in kinds:
        known = sorted({*kinds} - {"preference"})
        raise InvalidRequest(
            f"`kind` is {shown(kind)}, which is neither built in nor named by a metric; {nearest(kind[:200], known)}", field="kind"
        )


def _picture(image_id: UUID | None, claims: Claims) -> Shown | None:
    if image_id is None:
        return None
    picture = claims.image(image_id)
    if picture is None:
        raise InvalidRequest(f"`image_id` is {image_id}, which is no picture of generation {claims.generation_id}", field="image_id")
    return picture


def _when(said: datetime | None, claims: Claims, now: datetime, attributes: dict[str, str]) -> tuple[datetime, int]:
    """When it happened, held between the generation and now: a client's clock must not move feedback out of its window."""
    if said is None:
        return now, 0
    if said.tzinfo is None:
        raise InvalidRequest(f"`occurred_at` is {said.isoformat()}, without an offset from UTC; write …Z", field="occurred_at")
    held = min(max(said, claims.issued_at), now).astimezone(UTC)
    if held != said:
        attributes["client_occurred_at"] = said.isoformat()
    return held, int(Flag.CLOCK_AHEAD) if said > now + AHEAD else 0


def _sent(said: datetime | None, now: datetime, attributes: dict[str, str]) -> datetime | None:
    """When the client says that it sent the event; not used to correct anything. A time that cannot be is kept as an attribute."""
    if said is None:
        return None
    if said.tzinfo is None:
        raise InvalidRequest(f"`sent_at` is {said.isoformat()}, without an offset from UTC; write …Z", field="sent_at")
    if FIRST_MINTED <= said <= now + MINTED_AHEAD:
        return said.astimezone(UTC)
    attributes["client_sent_at"] = said.isoformat()
    return None


def _event_id(said: UUID | None, claims: Claims, now: datetime, attributes: dict[str, str]) -> tuple[UUID, int]:
    """The client's UUIDv7, or one derived from another version's or from an impossible time, the same at each retry, or a new one."""
    if said is None:
        return new_id(), 0
    minted = time_of(said)
    far_ahead = minted is not None and minted > now + MINTED_AHEAD
    if minted is not None and minted >= FIRST_MINTED and not far_ahead:
        return said, 0
    attributes["client_event_id"] = str(said)
    return derived_id(claims.issued_at, "feedback", str(said)), int(Flag.CLOCK_AHEAD) if far_ahead else 0


def _contradictions(item: Feedback, claims: Claims, picture: Shown | None, attributes: dict[str, str]) -> int:
    """What the client names beside a token that is about something else: the token is believed."""
    if item.generation_id is not None and item.generation_id != claims.generation_id:
        attributes["client_generation_id"] = str(item.generation_id)
    if item.image_id is not None and picture is None:
        attributes["client_image_id"] = str(item.image_id)
    return int(Flag.TOKEN_MISMATCH) if attributes.keys() & {"client_generation_id", "client_image_id"} else 0


def _unknown(generation_id: UUID | None, now: datetime) -> Claims:
    """What is known of a generation that is not known: its id, and the time that the id tells."""
    if generation_id is None:
        raise InvalidRequest("`generation_id` is missing; it says what this is about", field="generation_id")
    made = time_of(generation_id)
    if made is None or not FIRST_MINTED <= made <= now:
        # The day, not the second, so that a retry makes the same id.
        made = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return Claims(generation_id, made, "", "", "", "", None, ())


def _suspicions(claims: Claims, now: datetime, bot: bool) -> int:
    return (Flag.BOT_USER_AGENT if bot else 0) | (Flag.TOKEN_EXPIRED if claims.expired(now) else 0)


def _event(
    event_id: UUID, kind: str, occurred_at: datetime, now: datetime, claims: Claims, picture: Shown | None, value: float | None, flags: int,
    attributes: dict[str, str], sent_at: datetime | None, unknown_image_id: UUID | None = None,
) -> Event:  # fmt: skip
    digests = {shown.variant_digest for shown in claims.images}
    return Event(
        event_id=event_id,
        kind=kind,
        occurred_at=occurred_at,
        received_at=now,
        route=claims.route,
        experiment=claims.experiment,
        arm=claims.arm_of(picture),
        variant_digest=picture.variant_digest if picture else (digests.pop() if len(digests) == 1 else ""),
        unit=claims.unit,
        # A picture with an arm of its own has the propensity of its place.
        propensity=picture.propensity if picture is not None and picture.arm else claims.propensity,
        generation_id=claims.generation_id,
        image_id=picture.image_id if picture else unknown_image_id,
        position=picture.position if picture else None,
        grid=len(claims.images) or None,
        value=value,
        flags=int(flags),
        attributes=attributes | claims.facts if claims.facts else attributes,
        sent_at=sent_at,
    )


def known_kinds(from_metrics: frozenset[str]) -> frozenset[str]:
    """What may be sent: the built-in kinds and those that metrics name."""
    return FEEDBACK_KINDS | from_metrics
