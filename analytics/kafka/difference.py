"""Looks into one block of offsets where Kafka and warehouse differ, id by id: what is rightly so, and what is missing or too much."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import msgspec
from kafka import KafkaConsumer

from analytics.events import utc_now
from analytics.kafka.committed_part import Block, look_into, read_blocks
from analytics.kafka.dead_letters import KafkaDeadLetter
from analytics.kafka.warehouse_side import HOUR_US, Tally, WarehouseSide, days_of

# A difference counts when it is there at the second look too: units are erased and rows arrive while we compare.
LOOKS = 2
PAUSE_SECONDS = 1.0


class Difference(msgspec.Struct):
    """By hour since 1970: both sides' tallies without what is rightly different, and the ids that are missing or too much.

    `repeated`: ids whose earlier copy lies in another block; `set_aside`: among the dead letters; `expired`: older than the
    warehouse keeps events; `conflicting`: rows more than ids, since an id came with two contents.
    """

    kafka: dict[int, Tally]
    warehouse: dict[int, Tally]
    missing: dict[int, list[int]]
    extra: dict[int, list[int]]
    repeated: int = 0
    set_aside: int = 0
    expired: int = 0
    conflicting: int = 0


def look_at_difference(
    consumer: KafkaConsumer, topic: str, side: WarehouseSide, partition: int, offsets: tuple[int, int], dead: Callable[[], set[int]]
) -> Difference:
    """Read both sides of the offsets [first, after the last) of one block again. `dead`: the ids among the dead letters.

    Raises KafkaError, OSError, LookupError.
    """
    for look in range(LOOKS):
        if look:
            time.sleep(PAUSE_SECONDS)
        blocks = list(read_blocks(consumer, topic, partition, *offsets, side.warehouse.erasures()))
        found = compare(blocks, side, dead)
        if not found.missing and not found.extra:
            break
    return found


def compare(blocks: Iterable[Block], side: WarehouseSide, dead: Callable[[], set[int]]) -> Difference:
    """What Kafka's blocks hold against the rows at their offsets. Raises OSError, LookupError."""
    kafka: dict[int, int] = {}
    rows: list[tuple[int, int]] = []
    for block in blocks:
        kafka |= block.received
        rows += side.rows(block.partition, block.start, block.end, days_of(block.received))
    there: dict[int, int] = {}
    for event_id, received in rows:
        there[event_id] = min(received, there.get(event_id, received))
    lacking = [event_id for event_id, received in kafka.items() if not _same_hour(received, there.get(event_id))]
    extra = [event_id for event_id, received in there.items() if not _same_hour(received, kafka.get(event_id))]
    elsewhere = side.anywhere(lacking) if lacking else {}
    repeated = {event_id for event_id in lacking if elsewhere.get(event_id, kafka[event_id] + 1) <= kafka[event_id]}
    lacking = [event_id for event_id in lacking if event_id not in repeated]
    first_day = side.first_day(utc_now()) if lacking else None
    expired = {event_id for event_id in lacking if first_day is not None and max(days_of([event_id])) < first_day}
    set_aside = dead().intersection(lacking) - expired if len(lacking) > len(expired) else set()
    excused = repeated | expired | set_aside
    return Difference(
        kafka=_tallies({event_id: received for event_id, received in kafka.items() if event_id not in excused}),
        warehouse=_tallies(there),
        missing=_by_hour((event_id, kafka[event_id]) for event_id in lacking if event_id not in excused),
        extra=_by_hour((event_id, there[event_id]) for event_id in extra),
        repeated=len(repeated),
        set_aside=len(set_aside),
        expired=len(expired),
        conflicting=len(rows) - len(there),
    )


def ids_of(letters: Iterable[KafkaDeadLetter], topic_id: str) -> set[int]:
    """The ids of all events among these dead letters that came from a topic."""
    return {event.event_id.int for letter in letters if letter.topic_id == topic_id for event in look_into(letter.value) or ()}


def _same_hour(received: int, other: int | None) -> bool:
    return other is not None and received // HOUR_US == other // HOUR_US


def _tallies(received: Mapping[int, int]) -> dict[int, Tally]:
    found: dict[int, Tally] = defaultdict(Tally)
    for event_id, at in received.items():
        found[at // HOUR_US].add(event_id)
    return dict(found)


def _by_hour(events: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for event_id, at in events:
        found[at // HOUR_US].append(event_id)
    return dict(found)
