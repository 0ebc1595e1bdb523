"""Where the sinks' consumer group stands: who reads which partition, how far, and what is left. Asks brokers, joins nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NotCoordinatorError,
)

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin, open_consumer
from analytics.kafka.intents import Committed, read_note
from analytics.kafka.topics import TopicMissing

T = TypeVar("T")
LOOKUP_MS = 5_000
PAUSE_SECONDS = 0.2
# A cluster's first group waits for the topic of offsets to be made, and every group for its coordinator's move to another broker.
NOT_YET = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, NotCoordinatorError)
OLDEST_SECONDS = 2.0


class PartitionReach(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of the events topic. Offsets: `start` the first there is, `end` after the last; `committed` None: never read.

    `owner`: the member that reads it, or None. `waiting_since_ms`: timestamp of the oldest record not in the warehouse.
    `only_markers`: what is not committed holds no record, only the ends of transactions.
    """

    partition: int
    start: int
    end: int
    committed: Committed | None
    owner: str | None = None
    waiting_since_ms: int | None = None
    only_markers: bool = False

    @property
    def lag_records(self) -> int:
        """Offsets not committed as being in the warehouse; a message with several events counts once, markers between records too."""
        if self.only_markers:
            return 0
        return max(0, self.end - (self.start if self.committed is None else max(self.committed.offset, self.start)))

    @property
    def lost(self) -> int:
        """Offsets that retention removed before they were read."""
        return 0 if self.committed is None else max(0, self.start - self.committed.offset)

    def lag_seconds(self, now_ms: int) -> float:
        """The age of the oldest record that waits; 0 when none does."""
        return max(0, now_ms - self.waiting_since_ms) / 1000 if self.lag_records and self.waiting_since_ms is not None else 0.0


class GroupState(msgspec.Struct, frozen=True, kw_only=True):
    """The group as the brokers see it. `state`: Stable, Empty, PreparingRebalance…; `members`: client ids with their hosts."""

    topic_id: str
    state: str
    members: list[str]
    partitions: list[PartitionReach]

    def readable(self, reach: PartitionReach) -> bool:
        """Whether the committed offset counts in the topic as it is now."""
        note = reach.committed
        return note is not None and note.note.topic_id in ("", self.topic_id) and note.offset <= reach.end


def look_at_group(address: KafkaAddress, *, oldest: bool = True) -> GroupState:
    """Ask for members, committed offsets and the topic's ends; with `oldest` also for how long records wait (one fetch, 2 s at most).

    Raises BrokerUnreachable, TopicMissing, KafkaError.
    """
    with group_clients(address) as (admin, consumer):
        return read_group(address, admin, consumer, oldest=oldest)


@contextmanager
def group_clients(address: KafkaAddress) -> Iterator[tuple[KafkaAdminClient, KafkaConsumer]]:
    """An admin and a consumer that is in no group, both closed at the end. Raises BrokerUnreachable."""
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(_closing(open_admin(address, request_timeout_ms=LOOKUP_MS)))
        yield admin, stack.enter_context(_closing(open_consumer(address, group=None)))


def read_group(address: KafkaAddress, admin: KafkaAdminClient, consumer: KafkaConsumer, *, oldest: bool) -> GroupState:
    """As `look_at_group`, with clients that are there already; leaves the consumer without partitions."""
    (facts,) = admin.describe_topics([address.topic])
    if facts["error_code"]:
        raise TopicMissing(f"the topic {address.topic} is not on {address.shown}; run `salon migrate`")
    which = [TopicPartition(address.topic, each["partition_index"]) for each in facts["partitions"]]
    which.sort()
    committed = _committed(admin, address.group)
    starts = consumer.beginning_offsets(which, timeout_ms=LOOKUP_MS)
    ends = consumer.end_offsets(which, timeout_ms=LOOKUP_MS)
    state, members, owners = _members(admin, address.group, address.topic)
    reaches = [
        PartitionReach(partition=at.partition, start=starts[at], end=ends[at], committed=committed.get(at), owner=owners.get(at.partition))
        for at in which
    ]
    group = GroupState(topic_id=str(facts["topic_id"]), state=state, members=members, partitions=reaches)
    return msgspec.structs.replace(group, partitions=_with_oldest(address, consumer, group)) if oldest else group


def _committed(admin: KafkaAdminClient, group: str) -> dict[TopicPartition, Committed]:
    try:
        found = _coordinated(lambda: admin.list_group_offsets(group)).get(group, {})
    except GroupIdNotFoundError:
        return {}
    return {at: Committed(each.offset, read_note(each.metadata)) for at, each in found.items() if each.offset >= 0}


def _coordinated(ask: Callable[[], T]) -> T:
    deadline = time.monotonic() + LOOKUP_MS / 1000
    while True:
        try:
            return ask()
        except NOT_YET:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def _members(admin: KafkaAdminClient, group: str, topic: str) -> tuple[str, list[str], dict[int, str]]:
    try:
        facts = _coordinated(lambda: admin.describe_groups([group]))[group]
    except GroupIdNotFoundError:
        return "Dead", [], {}
    members: list[str] = []
    owners: dict[int, str] = {}
    for member in facts["members"]:
        name = f"{member['client_id']} at {member['client_host'].lstrip('/')}"
        members.append(name)
        assignment = member["member_assignment"] or {}
        for each in assignment.get("assigned_partitions", ()):
            if each["topic"] == topic:
                owners |= dict.fromkeys(each["partitions"], name)
    return str(facts["group_state"]), members, owners


def _with_oldest(address: KafkaAddress, consumer: KafkaConsumer, group: GroupState) -> list[PartitionReach]:
    """Look at the first record that waits in each partition."""
    waiting = {}
    for reach in group.partitions:
        if reach.lag_records:
            offset = reach.committed.offset if reach.committed is not None and group.readable(reach) else reach.start
            waiting[TopicPartition(address.topic, reach.partition)] = max(offset, reach.start)
    found: dict[int, int] = {}
    ends = {reach.partition: reach.end for reach in group.partitions}
    through: set[int] = set()
    consumer.assign(list(waiting))
    for at, offset in waiting.items():
        consumer.seek(at, offset)
    deadline = time.monotonic() + OLDEST_SECONDS
    while len(found) + len(through) < len(waiting) and time.monotonic() < deadline:
        for at, records in consumer.poll(timeout_ms=100, max_records=1).items():
            found[at.partition] = records[0].timestamp
            consumer.pause(at)
        for at in waiting:
            if at.partition not in found and consumer.position(at) >= ends[at.partition]:
                through.add(at.partition)
    consumer.unsubscribe()
    return [
        msgspec.structs.replace(reach, waiting_since_ms=found.get(reach.partition), only_markers=reach.partition in through)
        for reach in group.partitions
    ]


@contextmanager
def _closing(client: Any) -> Iterator[Any]:
    try:
        yield client
    finally:
        with contextlib.suppress(KafkaError, OSError):
            client.close()
