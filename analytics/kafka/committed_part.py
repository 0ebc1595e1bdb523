"""Reads the part of the events topic that the sinks say is in the warehouse: event ids by block of offsets."""

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import OffsetOutOfRangeError

from analytics.kafka.messages import ENVELOPE
from analytics.warehouse.erasure import Erasures
from analytics.warehouse.rows import microseconds

# Offsets that are compared at once. An id takes about 150 bytes of memory while its block is read: 1.2 MB for a block of single
# events, 60 MB for one of batches of 50.
BLOCK = 8_192
FETCHED = 2_000
SILENCE_SECONDS = 10.0


class Block(msgspec.Struct):
    """What records `start`..`end` - 1 of a partition hold: for each event id the time (us since 1970) when it was first received.

    `erased`: events that are left out because their unit was erased. `unreadable`: messages that are no events.
    """

    partition: int
    start: int
    end: int
    received: dict[int, int] = {}
    erased: int = 0
    unreadable: int = 0


class Seen(msgspec.Struct, frozen=True):
    """What reconciliation needs of an event: reading only that is ten times cheaper than all of it."""

    event_id: UUID
    received_at: Annotated[datetime, msgspec.Meta(tz=True)]
    unit: str = ""


class _Envelope(msgspec.Struct, frozen=True):
    events: list[Seen]


_READ = msgspec.json.Decoder(Seen)
_READ_ENVELOPE = msgspec.json.Decoder(_Envelope)


def look_into(value: bytes | None) -> list[Seen] | None:
    """The events in a message; None when it holds none that can be read."""
    try:
        return _READ_ENVELOPE.decode(value).events if value and value.startswith(ENVELOPE) else [_READ.decode(value or b"")]
    except (msgspec.MsgspecError, UnicodeError, ValueError, OverflowError, RecursionError):
        return None


def read_blocks(consumer: KafkaConsumer, topic: str, partition: int, start: int, end: int, erasures: Erasures) -> Iterator[Block]:
    """The records `start`..`end` - 1 in blocks that begin at multiples of BLOCK; `end` lies at or below the partition's end.

    What retention removes meanwhile is in no block. Raises KafkaError, and OSError when the brokers fall silent.
    """
    at = TopicPartition(topic, partition)
    consumer.assign([at])
    while start < end:
        consumer.seek(at, start)
        block = Block(partition, start, min(end, (start // BLOCK + 1) * BLOCK))
        try:
            _fill(consumer, at, block, erasures)
            start = block.end
        except OffsetOutOfRangeError:
            # Its beginning is gone; what stays of it is a block of its own.
            start = max(start + 1, consumer.beginning_offsets([at])[at])
            continue
        yield block


def _fill(consumer: KafkaConsumer, at: TopicPartition, block: Block, erasures: Erasures) -> None:
    heard = time.monotonic()
    while consumer.position(at) < block.end:
        found = consumer.poll(timeout_ms=200, max_records=min(FETCHED, block.end - consumer.position(at)))
        for record in found.get(at, ()):
            if record.offset < block.end:
                _count(block, record.value, erasures)
        if found:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise OSError(f"partition {at.partition} of {at.topic} does not answer at offset {consumer.position(at)}; is a broker down?")


def _count(block: Block, value: bytes | None, erasures: Erasures) -> None:
    events = look_into(value)
    if events is None:
        block.unreadable += 1
        return
    for event in events:
        received = microseconds(event.received_at)
        if len(erasures) and erasures.covers(event.unit, event.received_at):
            block.erased += 1
        else:
            known = block.received.get(event.event_id.int)
            block.received[event.event_id.int] = received if known is None else min(known, received)
