"""The compacted topic of control records: read to its end, written by one gateway at a time, every call bounded in seconds.

The lock is Kafka's own: all gateways write under one transactional id, and whoever begins a writer fences the one before.
A write that commits therefore followed everything that was read before it, and nothing came in between.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.errors import (
    ConcurrentTransactionsError,
    IllegalStateError,
    InvalidProducerEpochError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    KafkaError,
    KafkaTimeoutError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
    UnknownProducerIdError,
)

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin, open_consumer, open_producer

# Well above one write, and short, for a gateway that died within one holds up the others this long.
TRANSACTION_SECONDS = 10.0
FETCH_WAIT_MS = 100
# What a writer hears that another has begun after it, at the coordinator, at the partition's leader or from its own client.
OVERTAKEN = (
    ProducerFencedError, InvalidProducerEpochError, InvalidProducerIdMappingError, InvalidTxnStateError, ConcurrentTransactionsError,
    OutOfOrderSequenceNumberError, UnknownProducerIdError, IllegalStateError,
)  # fmt: skip


class Fenced(Exception):
    """Another gateway has begun to write; nothing of this write is in the topic."""


class CommitUnknown(Exception):
    """The topic did not say whether a write is in it. Read it under a new writer, then it is settled."""


class PositionLost(Exception):
    """The topic does not have the position that was to be read."""


class ControlTopic:
    """One partition of one topic, for one thread. Raises KafkaError for a broker that is away."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._partition = TopicPartition(address.control_topic, 0)
        self._consumer = open_consumer(address, group=None, fetch_max_wait_ms=FETCH_WAIT_MS)
        self._consumer.assign([self._partition])
        self._admin = open_admin(address)
        self._producer: Any = None

    def identity(self) -> str:
        """The topic's id, another one after it was deleted and made again; empty while there is none. Raises KafkaError."""
        (topic,) = self._admin.describe_topics([self._partition.topic])
        return "" if topic["error_code"] else str(topic["topic_id"])

    def ends(self, seconds: float) -> tuple[int, int]:
        """The first offset and the one after the last that is committed. Raises KafkaTimeoutError."""
        milliseconds = max(1, int(seconds * 1000))
        (first,) = self._consumer.beginning_offsets([self._partition], timeout_ms=milliseconds).values()
        (end,) = self._consumer.end_offsets([self._partition], timeout_ms=milliseconds).values()
        return int(first), int(end)

    def seek(self, offset: int) -> None:
        """Read from `offset` on."""
        self._consumer.seek(self._partition, offset)

    def next(self, seconds: float) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Records that are there now or within `seconds`: offset, key, value. Raises PositionLost."""
        try:
            found = self._consumer.poll(timeout_ms=int(seconds * 1000))
        except OffsetOutOfRangeError as error:
            raise PositionLost(str(error)) from None
        for records in found.values():
            for record in records:
                yield record.offset, record.key or b"", record.value

    def position(self) -> int:
        """The offset that is read next."""
        return int(self._consumer.position(self._partition))

    def to_end(self, seconds: float) -> Iterator[tuple[int, bytes, bytes | None]]:
        """All records up to the end of now. Raises KafkaTimeoutError when they have not come in `seconds`."""
        deadline = time.monotonic() + seconds
        _, end = self.ends(seconds)
        while self.position() < end:
            if time.monotonic() > deadline:
                raise KafkaTimeoutError(f"{self._partition.topic} was not read up to {end} within {seconds:.0f} s")
            yield from self.next(FETCH_WAIT_MS / 1000)

    def begin(self, seconds: float) -> None:
        """Become the writer: any other is fenced, what it had not committed is gone."""
        if self._producer is not None:
            return
        milliseconds = max(1000, int(seconds * 1000))
        producer = open_producer(
            self._address,
            transactional_id=f"salon-control:{self._address.control_topic}",
            transaction_timeout_ms=int(TRANSACTION_SECONDS * 1000),
            max_block_ms=milliseconds,
            delivery_timeout_ms=max(milliseconds, 5000),
            request_timeout_ms=min(milliseconds, 5000),
            linger_ms=0,
        )
        self._producer = producer
        try:
            producer.init_transactions()
        except BaseException as error:
            self.let_go()
            if _overtaken(error):
                raise Fenced(type(error).__name__) from None
            raise

    def write(self, records: Mapping[bytes, bytes], seconds: float) -> None:
        """Write all records or none, after `begin`. Raises Fenced, CommitUnknown, KafkaError (none is written)."""
        deadline = time.monotonic() + seconds
        producer = self._producer
        try:
            producer.begin_transaction()
            sent = [producer.send(self._partition.topic, key=key, value=value, partition=0) for key, value in records.items()]
            for future in sent:
                future.get(timeout=max(0.1, deadline - time.monotonic()))
        except BaseException as error:
            self.let_go()
            if _overtaken(error):
                raise Fenced(type(error).__name__) from None
            raise
        try:
            # The client waits for a commit without a limit.
            _within(max(0.5, deadline - time.monotonic()), producer.commit_transaction)
        except BaseException as error:
            self.let_go()
            raise CommitUnknown(f"{type(error).__name__}: {error}") from None

    def let_go(self) -> None:
        """Stop being the writer; the next `begin` makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                producer.close(timeout=0)

    def close(self) -> None:
        """Give back all connections."""
        self.let_go()
        with contextlib.suppress(Exception):
            self._consumer.close(timeout_ms=1000)
        with contextlib.suppress(Exception):
            self._admin.close()


def _overtaken(error: BaseException) -> bool:
    # The client wraps some of them in its plain error, and nothing else.
    return isinstance(error, OVERTAKEN) or type(error) is KafkaError


def _within(seconds: float, call: Callable[[], None]) -> None:
    """Run `call` in a thread of its own. Raises what it raises, or TimeoutError and leaves it behind."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="salon-control-commit", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.1f} s")
    if failed:
        raise failed[0]
