"""The log, read again into a new generation of tables, which then takes the place of the one in use in one step."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from kafka import TopicPartition

from analytics.event_log import EventLog
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_consumer
from analytics.kafka.collector_pause import collector_paused
from analytics.kafka.dead_letters import DeadLetterWriter
from analytics.kafka.insertion import Insertion, Moved
from analytics.kafka.ranges import InHand, Range, log_name
from analytics.kafka.topics import check_topics
from analytics.warehouse.client import Warehouse
from analytics.warehouse.generations import (
    abandon_generation,
    begin_generation,
    building_generation,
    copy_unreplayed,
    drop_old_generation,
    insert_generation,
    live_generation,
    swap_generation,
)
from analytics.warehouse.rows import RowsRejected, to_arrow

log = logging.getLogger(__name__)
BLOCK = 50_000
SILENCE_ROUNDS = 100
Tell = Callable[[str], None]


class Since(msgspec.Struct, frozen=True):
    """Where to begin: at an offset (of each partition) or position, at a time, or, with neither, at the beginning."""

    offset: int | None = None
    time: datetime | None = None


class Backfilled(msgspec.Struct, frozen=True, kw_only=True):
    """`rows` were read from the log, `kept` are rows that the log was not asked for or has no longer."""

    generation: int
    rows: int
    kept: int
    dead_letters: int
    erased: int


def backfill_kafka(address: KafkaAddress, warehouse: Warehouse, since: Since, tell: Tell) -> Backfilled:
    """Read what the sinks' group has moved, again. Sinks go on meanwhile. Raises OSError, LookupError, KafkaError.

    Up to the group's committed offsets and no further: what lies beyond comes by the sinks, into one table or the other, and
    is carried over after the swap.
    """
    topic_id = check_topics(address)[address.topic].topic_id
    generation = _begin(warehouse, tell)
    letters = DeadLetterWriter(address)
    insertion = Insertion(
        warehouse, letters, address.topic, topic_id, lambda token, table: insert_generation(warehouse, generation, token, table)
    )
    consumer = open_consumer(address, group=address.group, max_partition_fetch_bytes=8 << 20)
    total, replayed = Moved(0, 0, 0), {}
    try:
        for at, (start, end) in _spans(consumer, address.topic, since).items():
            consumer.assign([at])
            consumer.seek(at, start)
            total = _sum(total, _read_partition(consumer, at, start, end, insertion, tell))
            replayed[at.partition] = (start, end - 1)
    finally:
        consumer.close()
        letters.close()
    kept = _put_in_place(warehouse, generation, log_name(address.topic, topic_id), replayed, tell)
    return Backfilled(generation=generation, rows=total.rows, kept=kept, dead_letters=total.dead_letters, erased=total.erased)


def backfill_local(event_log: EventLog, warehouse: Warehouse, since: Since, tell: Tell) -> Backfilled:
    """Read what the sink has moved of a local log, again. No gateway may run on it meanwhile. Raises OSError, LookupError."""
    end = warehouse.position(event_log.name)
    generation = _begin(warehouse, tell)
    position, rows, erased, refused = (since.offset - 1 if since.offset else 0), 0, 0, 0
    while position < end and (batch := event_log.read(position, min(BLOCK, end - position))):
        first, position = position + 1, batch[-1][0]
        known = warehouse.erasures()
        found = [(at, event) for at, event in batch if at <= end and (since.time is None or event.received_at >= since.time)]
        chosen = [(at, event) for at, event in found if not known.covers(event.unit, event.received_at)]
        erased += len(found) - len(chosen)
        put = _put_local(warehouse, generation, event_log.name, (first, position), chosen)
        rows, refused = rows + put, refused + len(chosen) - put
        tell(f"read up to position {position} of {end}")
    # Rows of a local log do not know their positions: a row stays unless the same event was read again.
    kept = _put_in_place(warehouse, generation, event_log.name, {}, tell)
    return Backfilled(generation=generation, rows=rows, kept=kept, dead_letters=refused, erased=erased)


def _begin(warehouse: Warehouse, tell: Tell) -> int:
    """A fresh generation; what a cut run has left is finished, where it was swapped in already, or thrown away."""
    cut = building_generation(warehouse)
    if cut is not None:
        tell(f"generation {cut} was begun and not finished: begun anew")
        abandon_generation(warehouse, cut)
    try:
        return begin_generation(warehouse)
    except OSError:
        live = live_generation(warehouse)
        tell(f"generation {live} was put in place and not finished: carrying over what it lacks")
        copy_unreplayed(warehouse, live, "", {})
        drop_old_generation(warehouse, live)
        return begin_generation(warehouse)


def _put_in_place(warehouse: Warehouse, generation: int, name: str, replayed: Mapping[int, tuple[int, int]], tell: Tell) -> int:
    tell("carrying over what was not read again")
    kept = copy_unreplayed(warehouse, generation, name, replayed)
    swap_generation(warehouse, generation)
    tell(f"generation {generation} is in use; carrying over what came meanwhile")
    kept += copy_unreplayed(warehouse, generation, name, replayed)
    drop_old_generation(warehouse, generation)
    return kept


def _spans(consumer: Any, topic: str, since: Since) -> dict[TopicPartition, tuple[int, int]]:
    """Per partition the offsets to read: from `since`, to where the group is. Partitions with nothing to read are left out."""
    which = [TopicPartition(topic, partition) for partition in sorted(consumer.partitions_for_topic(topic) or ())]
    starts, ends = consumer.beginning_offsets(which), consumer.end_offsets(which)
    if since.time is not None:
        milliseconds = int(since.time.timestamp() * 1000)
        found = consumer.offsets_for_times(dict.fromkeys(which, milliseconds))
        starts = {at: max(starts[at], found[at].offset if found.get(at) else ends[at]) for at in which}
    elif since.offset is not None:
        starts = {at: max(starts[at], since.offset) for at in which}
    spans = {at: (starts[at], min(ends[at], consumer.committed(at) or 0)) for at in which}
    return {at: (start, end) for at, (start, end) in spans.items() if start < end}


def _read_partition(consumer: Any, at: TopicPartition, start: int, end: int, insertion: Insertion, tell: Tell) -> Moved:
    hand, total, silent = InHand(at.partition, start), Moved(0, 0, 0), 0
    while (position := consumer.position(at)) < end or hand.records:
        if position < end and len(hand.records) < BLOCK:
            with collector_paused():
                records = [r for r in consumer.poll(timeout_ms=200, max_records=BLOCK).get(at, []) if r.offset < end]
            hand.add(records, 0.0)
            silent = 0 if records else silent + 1
            if silent > SILENCE_ROUNDS:
                raise OSError(f"partition {at.partition} of {at.topic} does not answer at offset {position}; is a broker down?")
            continue
        chosen = hand.cut(BLOCK)
        hand.begin(chosen)
        total = _sum(total, _put(insertion, chosen, hand.of(chosen)))
        hand.done()
        tell(f"partition {at.partition}: read up to {hand.next} of {end}")
    return total


def _put(insertion: Insertion, chosen: Range, records: list[Any]) -> Moved:
    try:
        return insertion.put_in(chosen, records, again=False)
    except RowsRejected:
        if len(records) == 1:
            return insertion.put_in_singly(chosen, records[0], again=False)
    half = len(records) // 2
    middle = records[half - 1].offset
    first = _put(insertion, Range(chosen.partition, chosen.start, middle), records[:half])
    return _sum(first, _put(insertion, Range(chosen.partition, middle + 1, chosen.end), records[half:]))


def _put_local(warehouse: Warehouse, generation: int, name: str, positions: tuple[int, int], events: list[tuple[int, Any]]) -> int:
    """Returns how many rows went in; the others are dead letters of the log already."""
    if not events:
        return 0
    try:
        table = to_arrow([event for _, event in events], log_name=name)
        insert_generation(warehouse, generation, f"{name}:{positions[0]}-{positions[1]}", table)
        return len(events)
    except RowsRejected as error:
        if len(events) == 1:
            log.error("event %s at position %d is left out: %s", events[0][1].event_id, events[0][0], error)
            return 0
    half = len(events) // 2
    middle = events[half - 1][0]
    first = _put_local(warehouse, generation, name, (positions[0], middle), events[:half])
    return first + _put_local(warehouse, generation, name, (middle + 1, positions[1]), events[half:])


def _sum(one: Moved, other: Moved) -> Moved:
    return Moved(one.rows + other.rows, one.dead_letters + other.dead_letters, one.erased + other.erased)
