"""One member of the sinks' consumer group: which partitions it owns, what it may commit, where the group has got to."""

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin, open_consumer
from analytics.kafka.intents import Committed, Note, read_note, write_note
from analytics.kafka.topics import TopicMissing, check_topics

log = logging.getLogger(__name__)
LOOKUP_MS = 5_000
COMMIT_MS = 10_000
# An insert may take this long before the group takes this member for dead. A member that dies is missed by its heartbeats.
POLL_INTERVAL_MS = 900_000
MAX_PARTITION_FETCH_BYTES = 8 << 20


class NotOwned(Exception):
    """A commit for a partition that moved to another member. Kafka itself would take it from any live member of the group."""


class Membership:
    """Opens at once. All calls come from one thread. Raises KafkaError, and BrokerUnreachable or TopicMissing when it opens."""

    def __init__(self, address: KafkaAddress, options: Mapping[str, Any]) -> None:
        self._address = address
        self.topic = address.topic
        check_topics(address)
        self.owned: set[int] = set()
        self.fresh: set[int] = set()
        self._admin = open_admin(address)
        try:
            common = {"max_poll_interval_ms": POLL_INTERVAL_MS, "max_partition_fetch_bytes": MAX_PARTITION_FETCH_BYTES}
            self._consumer: KafkaConsumer = open_consumer(address, group=address.group, **{**common, **options})
        except BaseException:
            self._admin.close()
            raise
        self._consumer.subscribe([self.topic], listener=_Turns(self))
        # A member without metadata that is made the leader would hand out no partition at all.
        self._partitions()

    def poll(self, wait_seconds: float, most_records: int) -> dict[int, list[Any]]:
        """Take part in the group and fetch what is not paused. Partitions that came are in `fresh`, paused, until `go_on`."""
        found = self._consumer.poll(timeout_ms=int(wait_seconds * 1000), max_records=most_records)
        return {at.partition: records for at, records in found.items() if at.partition in self.owned - self.fresh}

    def topic_id(self) -> str:
        """The id that the topic has now. Raises TopicMissing."""
        (facts,) = self._admin.describe_topics([self.topic])
        if facts["error_code"]:
            raise TopicMissing(f"the topic {self.topic} is gone from {self._address.shown}; run `salon migrate`")
        return str(facts["topic_id"])

    def bounds(self, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """Per partition the first offset there is and the one after the last (transactions under way not counted)."""
        which = [self._at(partition) for partition in partitions]
        starts = self._consumer.beginning_offsets(which, timeout_ms=LOOKUP_MS)
        ends = self._consumer.end_offsets(which, timeout_ms=LOOKUP_MS)
        return {at.partition: (starts[at], ends[at]) for at in which}

    def ends(self) -> dict[int, int]:
        """Per partition of the topic, owned or not, the offset after the last."""
        return {partition: end for partition, (_, end) in self.bounds(self._partitions()).items()}

    def committed(self, partition: int) -> Committed | None:
        """What the group has committed for a partition, owned or not."""
        found = self._consumer.committed(self._at(partition), metadata=True, timeout_ms=LOOKUP_MS)
        return None if found is None else Committed(found.offset, read_note(found.metadata))

    def commit(self, notes: Mapping[int, Committed]) -> None:
        """Commit for partitions that this member owns. Raises NotOwned, and KafkaError: then what is committed is not known."""
        if strange := notes.keys() - self.owned:
            raise NotOwned(f"partition {min(strange)} of {self.topic} belongs to another sink now")
        if notes:
            self._consumer.commit(
                {self._at(p): OffsetAndMetadata(c.offset, write_note(c.note), -1) for p, c in notes.items()}, timeout_ms=COMMIT_MS
            )

    def go_on(self, partition: int, offset: int) -> None:
        """Fetch a partition from an offset."""
        self._consumer.seek(self._at(partition), offset)
        self._consumer.resume(self._at(partition))
        self.fresh.discard(partition)

    def pause(self) -> None:
        """Fetch nothing; `poll` then only keeps the membership."""
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """Fetch again, but for `fresh` partitions."""
        self._consumer.resume(*(at for at in self._consumer.assignment() if at.partition not in self.fresh))

    def position(self, partition: int) -> int:
        """The offset that is fetched next."""
        return int(self._consumer.position(self._at(partition), timeout_ms=LOOKUP_MS))

    def look_again(self) -> None:
        """All that was known of the owned partitions is in doubt: they are `fresh` again."""
        self.pause()
        self.fresh |= self.owned

    def close(self) -> None:
        """Leave the group."""
        for client in (self._consumer, self._admin):
            with contextlib.suppress(KafkaError, OSError):
                client.close()

    def _partitions(self) -> set[int]:
        deadline = time.monotonic() + LOOKUP_MS / 1000
        while not (found := self._consumer.partitions_for_topic(self.topic)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return set(found or ())

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self.topic, partition)

    def _came(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            # Offsets cannot be looked up in here. With any position at all, and paused, the client does not go on by itself.
            self._consumer.pause(at)
            self._consumer.seek(at, 0)
            self.owned.add(at.partition)
            self.fresh.add(at.partition)

    def _went(self, partitions: Iterable[TopicPartition]) -> None:
        for at in partitions:
            self.owned.discard(at.partition)
            self.fresh.discard(at.partition)


# kafka-python has no types, so its class is Any to mypy.
class _Turns(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes who owns what; the rest is done after `poll`."""

    def __init__(self, member: Membership) -> None:
        self._member = member

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._member._went(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._member._came(assigned)


def done(offset: int, topic_id: str) -> Committed:
    """All before `offset` is in."""
    return Committed(offset, Note(topic_id=topic_id))
