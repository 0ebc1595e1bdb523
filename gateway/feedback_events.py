"""From what a client says people did to events with the facts of the assignment copied in. Pure: no clock, no store."""

import math
import re
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

import msgspec

from analytics.events import FEEDBACK_KINDS, Event, Flag, derived_id, new_id
from analytics.settings import nearest
from gateway.image_request import check_context
from gateway.problems import InvalidRequest, InvalidToken
from gateway.tokens import Claims, Shown
from gateway.wire import shown

EVENTS = 1000
AHEAD = timedelta(minutes=5)
RESERVED_ATTRIBUTES = (
    "client_event_id",
    "client_occurred_at",
    "loser",
    "loser_arm",
    "loser_variant_digest",
    "loser_generation_id",
    "rater",
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
    attributes: dict[str, str] | None = None
    feedback_token: str | None = None


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Many at once, each checked by itself; or, without `events`, a single one."""

    events: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=EVENTS)] | msgspec.UnsetType = msgspec.UNSET
    feedback_token: str | None = None


class Preference(msgspec.Struct, frozen=True, kw_only=True):
    """A side-by-side choice between two pictures of one route. With `tie` neither is better."""

    winner: UUID
    loser: UUID
    tie: bool = False
    rater: str | None = None
    event_id: UUID | None = None
    feedback_token: str | None = None


def is_bot(user_agent: str) -> bool:
    """Does the user agent name itself a robot?"""
    return BOTS.search(user_agent) is not None


def feedback_event(item: Feedback, claims: Claims, now: datetime, kinds: Collection[str], bot: bool) -> Event:
    """The event to log. Raises InvalidRequest, InvalidToken."""
    _check_kind(item.kind, kinds)
    if item.generation_id is not None and item.generation_id != claims.generation_id:
        raise InvalidToken(
            f"`generation_id` is {item.generation_id}, but `feedback_token` belongs to another generation", field="generation_id"
        )
    picture = _picture(item.image_id, claims)
    if item.value is not None and not math.isfinite(item.value):
        raise InvalidRequest(f"`value` is {item.value}; give a finite number", field="value")
    attributes = dict(item.attributes or {})
    check_context(attributes, "attributes")
    for name in RESERVED_ATTRIBUTES:
        if name in attributes:
            raise InvalidRequest(f"`attributes.{name}` is set by the gateway; take another name", field=f"attributes.{name}")
    occurred_at, flags = _when(item.occurred_at, claims, now, attributes)
    event_id = _event_id(item.event_id, claims, attributes)
    return _event(event_id, item.kind, occurred_at, now, claims, picture, item.value, flags | _suspicions(claims, now, bot), attributes)


def preference_event(item: Preference, winner: Claims, loser: Claims, now: datetime, bot: bool) -> Event:
    """The event of a choice: facts of the winner, those of the loser as attributes. Raises InvalidRequest."""
    if item.winner == item.loser:
        raise InvalidRequest(f"`winner` and `loser` are the same picture {item.winner}; name two", field="loser")
    if winner.route != loser.route:
        raise InvalidRequest(
            f"`winner` was made for route {winner.route!r}, `loser` for {loser.route!r}; compare within one route", field="loser"
        )
    lost = _picture(item.loser, loser)
    attributes = {"loser": str(item.loser), "loser_arm": loser.arm, "loser_generation_id": str(loser.generation_id)}
    attributes |= {"loser_variant_digest": lost.variant_digest if lost else ""}
    if item.rater is not None:
        check_context({"rater": item.rater}, "rater")
        attributes["rater"] = item.rater
    event_id = _event_id(item.event_id, winner, attributes)
    picture, value = _picture(item.winner, winner), 0.5 if item.tie else 1.0
    return _event(event_id, "preference", now, now, winner, picture, value, _suspicions(winner, now, bot), attributes)


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
    held = min(max(said, claims.issued_at), now)
    if held != said:
        attributes["client_occurred_at"] = said.isoformat()
    return held, int(Flag.CLOCK_AHEAD) if said > now + AHEAD else 0


def _event_id(said: UUID | None, claims: Claims, attributes: dict[str, str]) -> UUID:
    """The client's UUIDv7, or one derived from another version's, the same at each retry, or a new one."""
    if said is None:
        return new_id()
    if said.version == 7:
        return said
    attributes["client_event_id"] = str(said)
    return derived_id(claims.issued_at, "feedback", str(said))


def _suspicions(claims: Claims, now: datetime, bot: bool) -> int:
    return (Flag.BOT_USER_AGENT if bot else 0) | (Flag.TOKEN_EXPIRED if claims.expired(now) else 0)


def _event(
    event_id: UUID, kind: str, occurred_at: datetime, now: datetime, claims: Claims, picture: Shown | None, value: float | None, flags: int,
    attributes: dict[str, str],
) -> Event:  # fmt: skip
    digests = {shown.variant_digest for shown in claims.images}
    return Event(
        event_id=event_id,
        kind=kind,
        occurred_at=occurred_at,
        received_at=now,
        route=claims.route,
        experiment=claims.experiment,
        arm=claims.arm,
        variant_digest=picture.variant_digest if picture else (digests.pop() if len(digests) == 1 else ""),
        unit=claims.unit,
        propensity=claims.propensity,
        generation_id=claims.generation_id,
        image_id=picture.image_id if picture else None,
        position=picture.position if picture else None,
        grid=len(claims.images),
        value=value,
        flags=flags,
        attributes=attributes,
    )


def known_kinds(from_metrics: frozenset[str]) -> frozenset[str]:
    """What may be sent: the built-in kinds and those that metrics name."""
    return FEEDBACK_KINDS | from_metrics
