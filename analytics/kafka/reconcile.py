"""Is all that the sinks say is in the warehouse really there? Counts and hashes of event ids, Kafka against ClickHouse."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from uuid import UUID

import msgspec
from kafka import KafkaConsumer, TopicPartition

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.committed_part import BLOCK, read_blocks
from analytics.kafka.dead_letters import read_dead_letters
from analytics.kafka.difference import Difference, ids_of, look_at_difference
from analytics.kafka.group_state import LOOKUP_MS, GroupState, group_clients, read_group
from analytics.kafka.ranges import log_name
from analytics.kafka.warehouse_side import HOUR_US, Key, Tally, WarehouseSide, days_of
from analytics.warehouse.client import Warehouse

NAMED_IDS = 20
# Blocks of offsets that are looked into id by id in one run; of the others only the numbers are told.
LOOKED_INTO = 50


class Bucket(msgspec.Struct, kw_only=True):
    """One partition and hour of `received_at` (UTC): unique events on both sides, and the xor of their ids as 32 hex digits.

    `missing`: in Kafka and not in the warehouse; `extra`: the reverse. The first 20 of each are named.
    """

    partition: int
    hour: datetime
    kafka_events: int = 0
    kafka_xor: str = ""
    warehouse_events: int = 0
    warehouse_xor: str = ""
    missing: int = 0
    extra: int = 0
    missing_ids: list[UUID] = []
    extra_ids: list[UUID] = []

    @property
    def ok(self) -> bool:
        """Whether both sides hold the same events."""
        return not self.missing and not self.extra

    def text(self) -> str:
        """One line for people."""
        line = (
            f"partition {self.partition}, {self.hour:%Y-%m-%d %H}h UTC: {self.kafka_events} events in Kafka, {self.warehouse_events} here"
        )
        for what, count, ids in (("missing", self.missing, self.missing_ids), ("too much", self.extra, self.extra_ids)):
            if count:
                line += f"; {count} {what}" + (f": {', '.join(map(str, ids))}{', …' if count > len(ids) else ''}" if ids else "")
        return line


class LeftOut(msgspec.Struct):
    """What is rightly on one side only. Events: `repeated` (an id whose other copy counts), `erased` (of erased units),
    `set_aside` (among the dead letters), `expired` (older than the warehouse keeps events); messages: `unreadable` (dead
    letters too); rows: `conflicting` (an id that came with two contents has two)."""

    repeated: int = 0
    erased: int = 0
    set_aside: int = 0
    expired: int = 0
    unreadable: int = 0
    conflicting: int = 0


class Reconciliation(msgspec.Struct, kw_only=True):
    """The outcome. `offsets`: per partition what was compared, [first, after the last). `not_committed`: offsets that no sink has
    finished, not compared. `notes`: what a person should know of partitions that could not be compared."""

    log_name: str
    since: datetime
    finished_at: datetime
    offsets: dict[int, tuple[int, int]]
    buckets: list[Bucket]
    left_out: LeftOut
    not_committed: int
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is missing and nothing too much."""
        return all(bucket.ok for bucket in self.buckets)

    @property
    def events(self) -> int:
        """Unique events on Kafka's side."""
        return sum(bucket.kafka_events for bucket in self.buckets)

    @property
    def missing(self) -> int:
        """Events that Kafka has and the warehouse lacks."""
        return sum(bucket.missing for bucket in self.buckets)

    @property
    def extra(self) -> int:
        """Events that the warehouse has and Kafka lacks."""
        return sum(bucket.extra for bucket in self.buckets)


def reconcile(
    address: KafkaAddress,
    warehouse: Warehouse,
    *,
    since: datetime,
    most_records: int | None = None,
    after: Callable[[str], Mapping[int, int]] = lambda log_name: {},
    stopping: Callable[[], bool] = lambda: False,
) -> Reconciliation:
    """Compare what was written to the topic since `since` and is committed by the sinks' group; with `most_records`, of each
    partition the last so many. `after` says for the log's name where partitions go on instead: at which offset. Once
    `stopping` says so it raises InterruptedError soon.

    Buckets are hours of `received_at`, so those of late events lie before `since`. Cost: one pass over the records
    (benchmarks/events/throughput.py measures it), one query over the days they fall on; a difference is looked into id by id,
    twice. Memory: one block of offsets at a time (`committed_part.BLOCK`). Raises KafkaError, OSError (a side is out of reach),
    LookupError (no tables).
    """
    with group_clients(address) as (admin, consumer):
        group = read_group(address, admin, consumer, oldest=False)
        side = WarehouseSide(warehouse, log_name(address.topic, group.topic_id))
        offsets = _offsets(consumer, address.topic, group, since, most_records, after(side.log_name))
        left_out = LeftOut()
        today = [since.astimezone(UTC).date() + timedelta(days=n) for n in range((utc_now() - since).days + 2)]
        kafka, days = _kafka_tallies(consumer, address.topic, side, offsets, left_out, stopping)
        there = side.tallies(offsets, days.union(today)) if offsets else {}
        different = sorted({key[:2] for key in kafka.keys() | there.keys() if kafka.get(key) != there.get(key)})
        dead = cache(lambda: ids_of(read_dead_letters(address), group.topic_id))
        seen: dict[tuple[int, int], Difference] = {}
        for partition, block in different[:LOOKED_INTO]:
            first, end = offsets[partition]
            within = max(first, block * BLOCK), min(end, (block + 1) * BLOCK)
            seen[partition, block] = look_at_difference(consumer, address.topic, side, partition, within, dead)
    for found in seen.values():
        left_out.repeated += found.repeated
        left_out.set_aside += found.set_aside
        left_out.expired += found.expired
        left_out.conflicting += found.conflicting
    return Reconciliation(
        log_name=side.log_name,
        since=since,
        finished_at=utc_now(),
        offsets=offsets,
        buckets=_buckets(kafka, there, seen),
        left_out=left_out,
        not_committed=sum(each.lag_records for each in group.partitions),
        notes=_notes(group),
    )


def _offsets(
    consumer: KafkaConsumer, topic: str, group: GroupState, since: datetime, most_records: int | None, after: Mapping[int, int]
) -> dict[int, tuple[int, int]]:
    """From the first record written at `since` or later up to what is committed. Events are received before they are written."""
    wanted = {TopicPartition(topic, each.partition): int(since.timestamp() * 1000) for each in group.partitions}
    begins = consumer.offsets_for_times(wanted, timeout_ms=LOOKUP_MS)
    offsets = {}
    for at, each in zip(wanted, group.partitions, strict=True):
        found = begins.get(at)
        begin = after.get(each.partition, None if found is None else found.offset)
        if each.committed is None or not group.readable(each) or begin is None:
            continue
        end = each.committed.offset
        begin = max(each.start, begin, 0 if most_records is None else end - most_records)
        if begin < end:
            offsets[each.partition] = (begin, end)
    return offsets


def _notes(group: GroupState) -> list[str]:
    return [
        f"partition {each.partition}: the committed offset {each.committed.offset} belongs to a topic that is gone; not compared"
        for each in group.partitions
        if each.committed is not None and not group.readable(each)
    ]


def _kafka_tallies(
    consumer: KafkaConsumer,
    topic: str,
    side: WarehouseSide,
    offsets: Mapping[int, tuple[int, int]],
    left_out: LeftOut,
    stopping: Callable[[], bool],
) -> tuple[dict[Key, Tally], set[date]]:
    """Kafka's side by partition, block and hour, and the days in the ids."""
    erasures = side.warehouse.erasures()
    tallies: dict[Key, Tally] = defaultdict(Tally)
    days: set[date] = set()
    for partition, (start, end) in offsets.items():
        for block in read_blocks(consumer, topic, partition, start, end, erasures):
            if stopping():
                raise InterruptedError("the reconciliation was stopped")
            number = block.start // BLOCK
            for event_id, received in block.received.items():
                tallies[partition, number, received // HOUR_US].add(event_id)
            days |= days_of(block.received)
            left_out.erased += block.erased
            left_out.unreadable += block.unreadable
    return dict(tallies), days


def _buckets(kafka: Mapping[Key, Tally], there: Mapping[Key, Tally], seen: Mapping[tuple[int, int], Difference]) -> list[Bucket]:
    """Blocks summed up by partition and hour."""
    sides: dict[tuple[int, int], tuple[Tally, Tally]] = defaultdict(lambda: (Tally(), Tally()))
    buckets: dict[tuple[int, int], Bucket] = {}

    def bucket(partition: int, hour: int) -> Bucket:
        at = datetime.fromtimestamp(hour * 3600, UTC)
        return buckets.setdefault((partition, hour), Bucket(partition=partition, hour=at, missing_ids=[], extra_ids=[]))

    def add(partition: int, hour: int, ours: Tally | None, theirs: Tally | None) -> None:
        for total, part in zip(sides[partition, hour], (ours, theirs), strict=True):
            if part is not None:
                total.events, total.xor = total.events + part.events, total.xor ^ part.xor

    for key in kafka.keys() | there.keys():
        partition, block, hour = key
        if (partition, block) not in seen:
            ours, theirs = kafka.get(key, Tally()), there.get(key, Tally())
            add(partition, hour, ours, theirs)
            if ours != theirs:
                # Not looked into: as many as the counts say, and at least one on each side where only the ids differ.
                same = ours.events == theirs.events
                bucket(partition, hour).missing += 1 if same else max(0, ours.events - theirs.events)
                bucket(partition, hour).extra += 1 if same else max(0, theirs.events - ours.events)
    for (partition, _), found in seen.items():
        for hour in found.kafka.keys() | found.warehouse.keys():
            add(partition, hour, found.kafka.get(hour), found.warehouse.get(hour))
        for hour, ids in found.missing.items():
            _name(bucket(partition, hour).missing_ids, ids)
            bucket(partition, hour).missing += len(ids)
        for hour, ids in found.extra.items():
            _name(bucket(partition, hour).extra_ids, ids)
            bucket(partition, hour).extra += len(ids)
    for (partition, hour), (ours, theirs) in sides.items():
        each = bucket(partition, hour)
        each.kafka_events, each.kafka_xor = ours.events, f"{ours.xor:032x}"
        each.warehouse_events, each.warehouse_xor = theirs.events, f"{theirs.xor:032x}"
    return sorted(buckets.values(), key=lambda each: (each.hour, each.partition))


def _name(named: list[UUID], ids: Iterable[int]) -> None:
    named.extend(UUID(int=event_id) for event_id in sorted(ids)[: NAMED_IDS - len(named)])
