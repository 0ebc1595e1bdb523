"""Events of a command that is no gateway, into the configured log: on disk, or acknowledged by Kafka, when the call returns."""

from collections.abc import Sequence
from typing import Any

from analytics.event_log import LogFull, open_log
from analytics.events import Event, encode
from analytics.settings import EventsSettings

AT_ONCE = 2_000
SEND_SECONDS = 120.0


def append_events(settings: EventsSettings, events: Sequence[Event]) -> None:
    """Append, in order. The same event_id twice is one event, so a call that failed may be repeated. Blocks. Raises OSError."""
    for start in range(0, len(events), AT_ONCE):
        part = events[start : start + AT_ONCE]
        if settings.kafka is None:
            _to_disk(settings.log, part)
        else:
            _to_kafka(settings.kafka, part)


def _to_disk(url: str, events: Sequence[Event]) -> None:
    log = open_log(url)
    try:
        log.submit(events).result()
    except LogFull as error:
        raise OSError(f"{error}; try again in {error.retry_after_seconds:.0f} s") from None
    finally:
        log.close()


def _to_kafka(address: Any, events: Sequence[Event]) -> None:
    # Here, so that whoever has a local log loads no client of Kafka.
    from kafka.errors import KafkaError

    from analytics.kafka.clients import open_producer, unreachable
    from analytics.kafka.messages import message_key, message_value

    producer = open_producer(address)
    try:
        futures = [producer.send(address.topic, key=message_key(e.unit), value=message_value([encode(e)])) for e in events]
        for future in futures:
            future.get(timeout=SEND_SECONDS)
    except KafkaError as error:
        raise unreachable(address, error) from error
    finally:
        producer.close(timeout=5)
