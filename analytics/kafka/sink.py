"""Kafka topic to warehouse, exactly once per record: an intent, one insert of exactly that range, a done, per partition."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from analytics.kafka.address import KafkaAddress
from analytics.kafka.collector_pause import collector_paused
from analytics.kafka.dead_letters import DeadLetterWriter
from analytics.kafka.insertion import Insertion
from analytics.kafka.intents import starting_point
from analytics.kafka.membership import Membership, NotOwned, done
from analytics.kafka.moving import Moving
from analytics.kafka.probe import explain
from analytics.kafka.ranges import RANGE_BYTES, InHand, log_name
from analytics.kafka.sink_state import PartitionState, SinkState, now_ms
from analytics.warehouse.client import Warehouse

T = TypeVar("T")

log = logging.getLogger(__name__)
MEASURE_SECONDS = 2.0
EXPLAIN_SECONDS = 2.0
FAILURES_BEFORE_REOPENING = 5
# What the group said no to, or moved under us: what is in hand is worth nothing, what is committed is the truth.
MOVED_ON = (
    CommitFailedError, FencedInstanceIdError, IllegalGenerationError, NoOffsetForPartitionError, NotOwned, OffsetOutOfRangeError,
    RebalanceInProgressError, UnknownMemberIdError,
)  # fmt: skip


class KafkaSink:
    """One member of the sinks' group. All calls come from one thread, but for `state`. Connects at the first `drain`.

    For each range of a partition: commit its start with the note where it ends (intent), insert exactly its records under a
    token that names it, commit the offset after it (done). Whoever owns the partition after any death finds the intent and
    repeats that very insert, which the warehouse ignores if it has it. `block_rows` bounds the records in hand, so those of
    a range; `linger_seconds` is how long records may wait for more.
    """

    def __init__(
        self, address: KafkaAddress, warehouse: Warehouse, *, block_rows: int = 100_000, linger_seconds: float = 0.5,
        consumer_options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.address, self.warehouse = address, warehouse
        self.state = SinkState()
        self._block_rows, self._linger_seconds = block_rows, linger_seconds
        self._options = dict(consumer_options or {})
        self._member: Membership | None = None
        self._insertion: Insertion | None = None
        self._topic_id = ""
        self._hands: dict[int, InHand] = {}
        self._dead_letters = DeadLetterWriter(address)
        self._kafka_failures = 0
        self._measured = 0.0

    def drain(self, wait_seconds: float = 0.2) -> int:
        """Fetch for at most so long and move what is due. Returns how many rows and dead letters were moved.

        Raises OSError, LookupError (no tables): nothing is lost, and the next call goes on. Between calls that fail, `rest`.
        """
        return self._guarded(lambda: self._turn(wait_seconds))

    def rest(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait, and stay a member of the group meanwhile. Raises nothing."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stopping():
            try:
                if self._member is None:
                    time.sleep(min(left, 0.2))
                    continue
                self._member.pause()
                self._member.poll(min(left, 0.2), 1)
                self._forget_moved(self._member)
            except Exception as error:
                # An outage is being waited out: what else fails meanwhile, the next drain meets again and tells.
                log.info("while waiting: %s", error)
                self._doubt()
                time.sleep(min(left, 0.2))
        if self._member is not None:
            self._member.resume()

    def ends(self) -> dict[int, int]:
        """Per partition of the topic the offset after the last record. Raises OSError."""
        return self._guarded(lambda: self._open().ends())

    def reached(self, ends: Mapping[int, int]) -> bool:
        """Whether all before `ends` is in the warehouse, by this sink or another of the group. Raises OSError."""
        return self._guarded(lambda: all(self._has(partition, end) for partition, end in ends.items()))

    def close(self) -> None:
        """Leave the group. What is in hand is fetched again by whoever comes next."""
        self._hands.clear()
        self._dead_letters.close()
        member, self._member = self._member, None
        if member is not None:
            member.close()

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            result = action()
            self._kafka_failures = 0
            return result
        except KafkaError as error:
            self._doubt()
            self._kafka_failures += 1
            if self._kafka_failures >= FAILURES_BEFORE_REOPENING:
                self.close()
            reason = explain(self.address, EXPLAIN_SECONDS) or f"{type(error).__name__}: {error}"
            raise OSError(f"Kafka {self.address.shown}: {reason}") from error

    def _open(self) -> Membership:
        if self._member is None:
            self._member = Membership(self.address, self._options)
            self._kafka_failures = 0
        return self._member

    def _turn(self, wait_seconds: float) -> int:
        member = self._open()
        try:
            with collector_paused():
                fetched = member.poll(wait_seconds, self._block_rows)
            self._forget_moved(member)
            if member.fresh:
                self._look_up(member)
            now = time.monotonic()
            for partition, records in fetched.items():
                self._hands[partition].add(records, now)
            if self._hands and now - self._measured > MEASURE_SECONDS:
                self._measured = now
                self._measure(member)
            due = self._due(member, now)
            moved = self._move(member, due) if due else 0
        except MOVED_ON as error:
            log.info("partitions of %s moved: %s", self.address.topic, error)
            self.state.fenced += 1
            self._doubt()
            return 0
        if self._is_full():
            member.pause()
        else:
            member.resume()
        return moved

    def _doubt(self) -> None:
        self._hands.clear()
        self.state.partitions.clear()
        if self._member is not None:
            self._member.look_again()

    def _forget_moved(self, member: Membership) -> None:
        for partition in [p for p in self._hands if p not in member.owned or p in member.fresh]:
            del self._hands[partition]
            self.state.partitions.pop(partition, None)

    def _look_up(self, member: Membership) -> None:
        """Find where the partitions that came go on."""
        topic_id = member.topic_id()
        if topic_id != self._topic_id:
            self._insertion = Insertion(self.warehouse, self._dead_letters, self.address.topic, topic_id)
            self._topic_id = topic_id
        self.state.assignments += 1
        for partition, (first, end) in member.bounds(member.fresh).items():
            committed = member.committed(partition)
            if committed is None and first < end:
                self._warn_of_expiry(partition)
            start = starting_point(partition, committed, topic_id, first, end)
            if start.why:
                log.error("partition %d of %s: %s", partition, self.address.topic, start.why)
            if start.commit:
                member.commit({partition: done(start.fetch, topic_id)})
            self.state.lost_to_retention += start.lost
            self._hands[partition] = InHand(partition, start.fetch, start.pending, start.bound)
            state = self.state.partitions[partition] = PartitionState()
            if start.pending is not None:
                self.state.replays += 1
                state.intent_since_ms, state.inserts_at_intent = (committed and committed.note.at_ms) or now_ms(), self.state.inserts
            member.go_on(partition, start.fetch)

    def _warn_of_expiry(self, partition: int) -> None:
        sql = "SELECT log_offset FROM events WHERE log_name = {name:String} AND log_partition = {partition:Int32} LIMIT 1"
        if self.warehouse.query(sql, {"name": log_name(self.address.topic, self._topic_id), "partition": partition}):
            log.error(
                "partition %d of %s: the group %s has no offset, yet the warehouse has records of it: the group's offsets expired "
                "(offsets.retention.minutes) or its name was changed; reading it from its beginning, which changes no report",
                partition, self.address.topic, self.address.group,
            )  # fmt: skip

    def _is_full(self) -> bool:
        hands = self._hands.values()
        return sum(len(h.records) for h in hands) >= self._block_rows or sum(h.bytes for h in hands) >= RANGE_BYTES

    def _due(self, member: Membership, now: float) -> list[InHand]:
        """Those whose begun range is complete; and all that hold records, when they have waited or there are enough."""
        ready = [hand for hand in self._hands.values() if hand.pending and hand.complete(member.position(hand.partition))]
        waiting = [hand for hand in self._hands.values() if hand.records and not hand.pending]
        if self._is_full() or any(now - hand.since_seconds >= self._linger_seconds for hand in waiting):
            ready += waiting
        return ready

    def _move(self, member: Membership, due: Sequence[InHand]) -> int:
        # Asked after the records were fetched: so all of them are of the topic that the tokens will name.
        insertion = self._insertion
        if insertion is None or self._is_another_topic(member):
            return 0
        moving = Moving(member, insertion, self.state, self._topic_id)
        moving.begin({hand: hand.cut(self._block_rows) for hand in due if hand.pending is None})
        moved, finished = 0, {}
        try:
            for hand in due:
                moved += moving.put_in(hand)
                finished[hand.partition] = done(hand.done(), self._topic_id)
        finally:
            member.commit(finished)
            for partition, committed in finished.items():
                state = self.state.partitions[partition]
                state.intent_since_ms, state.lag_records = None, max(0, state.end - committed.offset)
        return moved

    def _is_another_topic(self, member: Membership) -> bool:
        if member.topic_id() == self._topic_id:
            return False
        log.error("the topic %s was deleted and made again; reading it from its beginning", self.address.topic)
        self._doubt()
        return True

    def _measure(self, member: Membership) -> None:
        """How far behind every partition is; and commit past what holds no records (markers of transactions)."""
        if self._is_another_topic(member):
            return
        for partition, (_, end) in member.bounds(self._hands).items():
            hand, state, position = self._hands[partition], self.state.partitions[partition], member.position(partition)
            idle = not hand.records and hand.pending is None
            if idle and position > hand.next:
                member.commit({partition: done(position, self._topic_id)})
                hand.next = position
            state.end, state.lag_records = end, max(0, end - hand.next)
            state.unread_since_ms = hand.records[0].timestamp if hand.records else None

    def _has(self, partition: int, end: int) -> bool:
        member = self._open()
        if partition not in member.owned:
            committed = member.committed(partition)
            return (committed.offset if committed else 0) >= end and not (committed and committed.note.end)
        hand = self._hands.get(partition)
        return hand is not None and not hand.records and hand.pending is None and member.position(partition) >= end
