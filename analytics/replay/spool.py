"""Empties a spool into Kafka when its gateway is gone for good."""

from collections.abc import Callable, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import MessageSizeTooLargeError

from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_producer
from analytics.kafka.messages import message_key, message_value
from analytics.local_log import LocalLog, Spooled

ROWS = 2_000
SEND_SECONDS = 120.0


def push_spool(spool: LocalLog, address: KafkaAddress, told: Callable[[int], None]) -> tuple[int, int]:
    """Send what the spool holds and Kafka lacks; `told` hears how many were sent so far. Returns events sent, and set aside as too long.

    At least once: cut anywhere, the next call goes on, and what was sent twice counts once. Beside a gateway that still
    runs it only does that gateway's work a second time. Raises KafkaError, OSError.
    """
    sent = aside = 0
    position = spool.consumed_position()
    producer = _open(address)
    try:
        while rows := spool.read_spooled(position, ROWS):
            outcomes = _send(producer, address.topic, rows)
            failed = next((i for i, error in enumerate(outcomes) if error is not None), len(rows))
            position = rows[failed - 1].position if failed else position
            sent += failed
            if failed < len(rows):
                error = outcomes[failed]
                if not isinstance(error, MessageSizeTooLargeError):
                    spool.consumed(position)
                    raise error or AssertionError
                # After it the idempotent producer fails all that follow: go on behind it with another.
                position = rows[failed].position
                spool.set_aside(position, str(error))
                aside += 1
                producer.close(timeout=1)
                producer = _open(address)
            spool.consumed(position)
            told(sent)
    finally:
        producer.close(timeout=1)
    return sent, aside


def _open(address: KafkaAddress) -> KafkaProducer:
    # One request in flight: what fails is sent again in order.
    return open_producer(address, max_in_flight_requests_per_connection=1)


def _send(producer: KafkaProducer, topic: str, rows: Sequence[Spooled]) -> list[Exception | None]:
    """Per row what went wrong; ends with the first that cannot be sent at all."""
    futures: list[Any] = []
    for row in rows:
        try:
            futures.append(producer.send(topic, key=message_key(row.unit), value=message_value([row.data])))
        except MessageSizeTooLargeError as error:
            futures.append(error)
            break
    return [future if isinstance(future, Exception) else _failure(future) for future in futures]


def _failure(future: Any) -> Exception | None:
    try:
        future.get(timeout=SEND_SECONDS)
    except Exception as error:
        # Handed to the caller, who raises the first of a batch once it knows what was delivered.
        return error
    return None
