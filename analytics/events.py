"""The event: one flat, append-only record of something that happened. The schema of the log and of the warehouse."""

import hashlib
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import IntFlag
from typing import Any
from uuid import UUID

import msgspec

SCHEMA_VERSION = 2
# A UUIDv7 counts to the year 10889, datetime to 9999.
LAST_MILLISECOND = 253_402_300_799_000

# What Salon itself says: no client can send these.
GATEWAY_KINDS = frozenset({"exposure", "generation", "image", "control", "decision", "trained"})
FEEDBACK_KINDS = frozenset({"view", "click", "like", "share", "dislike", "report", "convert", "preference"})


class Flag(IntFlag):
    """Suspicions about an event. An event is flagged, never silently dropped. A number, once given, is never given again."""

    BOT_USER_AGENT = 1
    CLOCK_AHEAD = 2
    UNKNOWN_GENERATION = 4
    TOKEN_EXPIRED = 8
    TOKEN_MISMATCH = 16
    RATE = 32
    REPLAYED_ID = 64
    SELF_CLICK = 128


FLAG_NAMES = {flag.value: flag.name.lower() for flag in Flag if flag.name}


def flag_names(flags: int) -> list[str]:
    """`["bot_user_agent", …]`, lowest bit first; a bit that only a newer version knows is `bit_N`."""
    # A plain number: asked for every event, and the operators of an enum take microseconds.
    flags = int(flags)
    bits = (1 << place for place in range(flags.bit_length()))
    return [FLAG_NAMES.get(bit, f"bit_{bit}") for bit in bits if flags & bit]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One event (design §3.4). Times are UTC. `unit` is who is randomised; `propensity` the probability that `arm` had.
    `occurred_at`, held between the generation and `received_at`, is what counts; `sent_at` is when the client sent it.

    Kind `generation` is one request (`grid` pictures, `status` ok or failed); kind `image` is one picture of it at
    `position`; kind `exposure` is the first time an assignment could have changed what the unit saw; kind `control`
    is a change of an experiment by a person or a policy (attributes: action, who, why, and what changed, as JSON);
    kind `decision` is a report that recommends something else than the one before (analytics.decision_event); kind `trained`
    is a unit whose feedback a candidate, `variant_digest`, was trained on (attribute `round`).
    For `preference`, `image_id` is the winner's, attribute `loser` the other's, and `value` 1, or 0.5 for a tie.
    """

    event_id: UUID
    kind: str
    occurred_at: datetime
    received_at: datetime
    route: str = ""
    experiment: str = ""
    arm: str = ""
    variant_digest: str = ""
    unit: str = ""
    propensity: float | None = None
    generation_id: UUID | None = None
    image_id: UUID | None = None
    position: int | None = None
    grid: int | None = None
    value: float | None = None
    flags: int = 0
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    queue_ms: float | None = None
    service_ms: float | None = None
    status: str = ""
    sent_at: datetime | None = None
    # Last, and always written: `decode` looks for it at the end.
    schema_version: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)


class _Versioned(msgspec.Struct):
    """Version 1 did not write its number."""

    schema_version: int = 1


_DECODER = msgspec.json.Decoder(Event)
_CURRENT = f'"schema_version":{SCHEMA_VERSION}}}'.encode()
_FIELDS = frozenset(Event.__struct_fields__)


def encode(event: Event) -> bytes:
    """JSON, as on the wire and in the log."""
    return msgspec.json.encode(event)


def decode(data: bytes) -> Event:
    """Read one event of any schema version, newer ones too: fields that this version does not know are kept in
    `attributes`, and `schema_version` stays theirs. Raises msgspec.DecodeError (msgspec.ValidationError for a wrong field)."""
    try:
        event = _DECODER.decode(data)
    except msgspec.ValidationError as error:
        event = _decode_newer(data, error)
    if event.schema_version == SCHEMA_VERSION and not data.endswith(_CURRENT):
        return msgspec.structs.replace(event, schema_version=msgspec.json.decode(data, type=_Versioned).schema_version)
    return event


def _decode_newer(data: bytes, error: msgspec.ValidationError) -> Event:
    found = msgspec.json.decode(data)
    unknown = sorted(found.keys() - _FIELDS) if isinstance(found, dict) else []
    attributes: Any = (found.get("attributes") or {}) if unknown else None
    if not isinstance(attributes, dict):
        raise error
    kept = dict(attributes)
    for name in unknown:
        value = found.pop(name)
        while name in kept:
            name = f"field_{name}"
        kept[name] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return msgspec.convert({**found, "attributes": kept}, Event)


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)


def new_id() -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of milliseconds, then random bits."""
    return _version_7(time.time_ns() // 1_000_000, os.urandom(10))


def derived_id(at: datetime, *parts: str) -> UUID:
    """A UUIDv7 with the milliseconds of `at` and the hash of `parts`: a retry makes the same id."""
    return _version_7(int(at.timestamp() * 1000), hashlib.sha256("\x1f".join(parts).encode()).digest()[:10])


def time_of(event_id: UUID) -> datetime | None:
    """When a UUIDv7 was minted, in the year 9999 at the latest; None for any other version."""
    return datetime.fromtimestamp(min(event_id.int >> 80, LAST_MILLISECOND) / 1000, UTC) if event_id.version == 7 else None


def _version_7(milliseconds: int, tail: bytes) -> UUID:
    random_bits = int.from_bytes(tail, "big")
    value = (
        (milliseconds & ((1 << 48) - 1)) << 80 | 0x7 << 76 | (random_bits >> 62 & 0xFFF) << 64 | 0b10 << 62 | random_bits & ((1 << 62) - 1)
    )
    return UUID(int=value)


def control_event(experiment: str, route: str, action: str, who: str, why: str, changed: Mapping[str, object]) -> Event:
    """What a person or a policy did to an experiment."""
    now = utc_now()
    attributes = {"action": action, "who": who, "why": why, "changed": msgspec.json.encode(changed).decode()}
    return Event(
        event_id=new_id(), kind="control", occurred_at=now, received_at=now, route=route, experiment=experiment, attributes=attributes
    )
