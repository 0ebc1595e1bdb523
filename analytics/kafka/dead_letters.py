"""The dead-letter topic: messages and events that the warehouse will never take, kept with their error and origin."""

import contextlib
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError, MessageSizeTooLargeError

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_consumer, open_producer

# Header names. `attempt` also stands on a message that was sent again into the events topic.
ORIGIN, TOPIC_ID, ERROR, ATTEMPT, SET_ASIDE_AT, SENT_AT = "origin", "topic_id", "error", "attempt", "set_aside_at", "sent_at"
ERROR_CHARACTERS = 2_000
SEND_SECONDS = 60.0
SILENCE_SECONDS = 10.0


class KafkaDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter, once however often it was written.

    `origin` is `TOPIC/PARTITION/OFFSET`, with `/INDEX` for one event of a message that held several. `attempt` counts from 1.
    `value` are the original bytes; None where the message was too long to keep. `sent_at`: it was sent again then.
    """

    origin: str
    topic_id: str
    error: str
    attempt: int
    set_aside_at: datetime
    key: bytes | None
    value: bytes | None
    sent_at: datetime | None = None


class DeadLetterWriter:
    """Writes to the dead-letter topic, at least once; connects when there is something to write."""

    def __init__(self, address: KafkaAddress) -> None:
        self._address = address
        self._producer: KafkaProducer | None = None

    def write(self, letters: Iterable[KafkaDeadLetter]) -> int:
        """Returns how many, once the brokers have them all. Raises KafkaError and BrokerUnreachable: write all of them again."""
        letters = list(letters)
        if not letters:
            return 0
        if self._producer is None:
            self._producer = open_producer(self._address)
        try:
            sent = [(letter, self._send(letter)) for letter in letters]
            too_long = [letter for letter, future in sent if _too_long(future)]
        except BaseException:
            self.close()
            raise
        if too_long:
            # The idempotent producer is of no more use after that.
            self.close()
            self.write(_without_value(letter) for letter in too_long)
        return len(letters)

    def close(self) -> None:
        """End the connection. The next `write` opens another."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError):
                producer.close(timeout=1)

    def _send(self, letter: KafkaDeadLetter) -> Any:
        assert self._producer is not None
        try:
            return self._producer.send(self._address.dead_letter_topic, key=letter.key, value=letter.value, headers=letter_headers(letter))
        except MessageSizeTooLargeError as error:
            return error


def letter_of(record: Any, topic_id: str, error: str, value: bytes | None = None, index: int | None = None) -> KafkaDeadLetter:
    """The dead letter of a record of the events topic, or of the event `value`, number `index` of those in it."""
    origin = f"{record.topic}/{record.partition}/{record.offset}" + ("" if index is None else f"/{index}")
    return KafkaDeadLetter(
        origin=origin,
        topic_id=topic_id,
        error=error[:ERROR_CHARACTERS],
        attempt=attempt_of(record.headers) + 1,
        set_aside_at=utc_now(),
        key=record.key,
        value=record.value if value is None else value,
    )


def attempt_of(headers: Iterable[tuple[str, bytes]]) -> int:
    """How often a message was set aside before; 0 when it says nothing readable."""
    text = dict(headers or ()).get(ATTEMPT, b"0")
    return int(text) if text.isdigit() else 0


def letter_headers(letter: KafkaDeadLetter) -> list[tuple[str, bytes]]:
    """What stands beside the value."""
    texts = {
        ORIGIN: letter.origin,
        TOPIC_ID: letter.topic_id,
        ERROR: letter.error,
        ATTEMPT: str(letter.attempt),
        SET_ASIDE_AT: letter.set_aside_at.isoformat(),
    }
    if letter.sent_at is not None:
        texts[SENT_AT] = letter.sent_at.isoformat()
    return [(name, text.encode("utf-8", "replace")) for name, text in texts.items()]


def read_dead_letters(address: KafkaAddress) -> list[KafkaDeadLetter]:
    """All that are in the topic now, each origin once, oldest first. Raises KafkaError, BrokerUnreachable, OSError (no answer)."""
    first: dict[tuple[str, str], KafkaDeadLetter] = {}
    sent: dict[tuple[str, str], datetime] = {}
    for record in read_topic(address, address.dead_letter_topic):
        headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
        if ORIGIN not in headers:
            continue
        identity = (headers.get(TOPIC_ID, ""), headers[ORIGIN])
        if SENT_AT in headers:
            sent[identity] = datetime.fromisoformat(headers[SENT_AT])
        elif identity not in first:
            first[identity] = KafkaDeadLetter(
                origin=headers[ORIGIN],
                topic_id=headers.get(TOPIC_ID, ""),
                error=headers.get(ERROR, ""),
                attempt=attempt_of(record.headers),
                set_aside_at=datetime.fromisoformat(headers[SET_ASIDE_AT]),
                key=record.key,
                value=record.value,
            )
    letters = (msgspec.structs.replace(letter, sent_at=sent.get(identity)) for identity, letter in first.items())
    return sorted(letters, key=lambda letter: letter.set_aside_at)


def read_topic(address: KafkaAddress, topic: str) -> Iterable[Any]:
    """Every record of a topic up to where it ends now, without a group. Raises KafkaError, OSError."""
    consumer = open_consumer(address, group=None)
    try:
        which = [TopicPartition(topic, partition) for partition in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(which)
        starts, ends = consumer.beginning_offsets(which), consumer.end_offsets(which)
        left = {at for at in which if starts[at] < ends[at]}
        for at in which:
            consumer.seek(at, starts[at])
        consumer.pause(*(at for at in which if at not in left))
        heard = time.monotonic()
        while left:
            found = consumer.poll(timeout_ms=200, max_records=5_000)
            for at, records in found.items():
                yield from (record for record in records if record.offset < ends[at])
            for at in [at for at in left if consumer.position(at) >= ends[at]]:
                # Paused as soon as it is through, so that a busy topic does not keep us.
                left.discard(at)
                consumer.pause(at)
            if found:
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE_SECONDS:
                raise OSError(f"the topic {topic} on {address.shown} does not answer; is a broker down?")
    finally:
        consumer.close()


def _too_long(future: Any) -> bool:
    if isinstance(future, MessageSizeTooLargeError):
        return True
    try:
        future.get(timeout=SEND_SECONDS)
    except MessageSizeTooLargeError:
        return True
    return False


def _without_value(letter: KafkaDeadLetter) -> KafkaDeadLetter:
    size = len(letter.value or b"")
    error = f"{letter.error} (its {size} bytes are more than the dead-letter topic takes: they are only at {letter.origin})"
    return msgspec.structs.replace(letter, value=None, error=error)
