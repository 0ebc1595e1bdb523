"""Messages on their way to Kafka: one producer, what it was given, and how far all of it is acknowledged."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from kafka.errors import InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError

from analytics.kafka.messages import message_key, message_value
from analytics.local_log import Spooled

ENVELOPE_BYTES = 256 << 10
MAX_MESSAGES, MAX_BYTES = 5_000, 16 << 20
# The message itself is at fault: no attempt will ever deliver it.
FAULTS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidRecordError, InvalidTimestampError)


class Message(msgspec.Struct, frozen=True):
    """Neighbouring rows of the spool that travel together."""

    rows: tuple[Spooled, ...]

    @property
    def last(self) -> int:
        """The position of the last row."""
        return self.rows[-1].position


class Failed(Exception):
    """The first message that is not acknowledged has failed, or has not been taken at all; the cause says why."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"position {message.rows[0].position} was not delivered")
        self.message = message


def messages(rows: Sequence[Spooled], single_until: int = 0) -> Iterator[Message]:
    """Rows in order, as messages: neighbours of one batch and one unit share one, up to 256 KiB, beyond position `single_until`."""
    together: list[Spooled] = []
    size = 0
    for row in rows:
        fits = row.batch is not None and row.position > single_until and size + len(row.data) <= ENVELOPE_BYTES
        if together and not (fits and (row.batch, row.unit) == (together[0].batch, together[0].unit)):
            yield Message(tuple(together))
            together, size = [], 0
        together.append(row)
        size += len(row.data)
    if together:
        yield Message(tuple(together))


class Flight:
    """A producer and its unacknowledged messages, in the spool's order. For one thread."""

    def __init__(self, producer: Any, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self._waiting: deque[tuple[Message, int, Any]] = deque()
        self._bytes = 0
        self._broken = threading.Event()

    @property
    def empty(self) -> bool:
        """Is all acknowledged?"""
        return not self._waiting

    @property
    def room(self) -> bool:
        """May another message be sent? Not once one has failed: what follows it would overtake it."""
        return len(self._waiting) < MAX_MESSAGES and self._bytes < MAX_BYTES and not self._broken.is_set()

    def send(self, message: Message) -> None:
        """Hand a message to the producer. Blocks at most `max_block_ms`, for the topic's metadata. Raises KafkaError, ValueError."""
        value = message_value([row.data for row in message.rows])
        try:
            future = self._producer.send(self._topic, value=value, key=message_key(message.rows[0].unit))
        except FAULTS as error:
            # Refused before it was sent: those ahead of it may still be on their way.
            future = _Refused(error)
            self._broken.set()
        else:
            future.add_errback(lambda _: self._broken.set())
        self._waiting.append((message, len(value), future))
        self._bytes += len(value)

    def acknowledged(self) -> tuple[int, int]:
        """Take off what was acknowledged: the position up to which everything is in Kafka (0: nothing new), how many events.

        Raises Failed once the first message that is left has failed.
        """
        position = events = 0
        while self._waiting and self._waiting[0][2].is_done:
            message, size, future = self._waiting[0]
            if future.failed():
                if position:
                    break
                raise Failed(message) from future.exception
            self._waiting.popleft()
            self._bytes -= size
            position, events = message.last, events + len(message.rows)
        return position, events

    def close(self) -> None:
        """Give up what is not acknowledged. Never raises, never waits."""
        try:
            # close() alone flushes first, raises where that takes too long, and leaves a sender behind that goes on sending:
            # beside the next producer that would be a second one.
            self._producer._sender.force_close()
            self._producer.close(timeout=1)
        except Exception:
            # What a client that has failed says at its end changes nothing.
            return


class _Refused:
    """The future of a message that the client did not take."""

    is_done = True

    def __init__(self, exception: Exception) -> None:
        self.exception = exception

    def failed(self) -> bool:
        return True
