"""What a Kafka message of the events topic holds: one event as JSON, or the events of one browser batch in an envelope."""

from collections.abc import Sequence

import msgspec

from analytics.events import Event, decode

ENVELOPE = b'{"events":['


class Undecodable(ValueError):
    """No attempt will ever read this message. The text says why."""


class _Envelope(msgspec.Struct, frozen=True):
    events: list[msgspec.Raw]


_READ_ENVELOPE = msgspec.json.Decoder(_Envelope)


def message_key(unit: str) -> bytes | None:
    """A unit's events share a key, so a partition, so their order. None, any partition, for events without a unit."""
    return unit.encode() if unit else None


def message_value(events: Sequence[bytes]) -> bytes:
    """One encoded event as it is; several as `{"events": […]}`. Raises ValueError for none."""
    if not events:
        raise ValueError("a message holds at least one event")
    return events[0] if len(events) == 1 else ENVELOPE + b",".join(events) + b"]}"


def read_message(value: bytes | None) -> list[Event]:
    """The events in a message, in order: the same bytes always give the same events. Raises Undecodable."""
    if not value:
        raise Undecodable("the message is empty")
    try:
        if not value.startswith(ENVELOPE):
            return [decode(value)]
        events = [decode(bytes(raw)) for raw in _READ_ENVELOPE.decode(value).events]
    except (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError) as error:
        raise Undecodable(f"{error}") from error
    if not events:
        raise Undecodable("the envelope holds no event")
    return events
