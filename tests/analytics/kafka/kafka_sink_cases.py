"""What the tests of the Kafka sink share: topics with events in them, a sink driven until it is through, rows as they lie on disk."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from analytics.events import Event, encode, new_id, utc_now
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.clients import open_producer
from analytics.kafka.messages import message_key, message_value
from analytics.kafka.sink import KafkaSink
from analytics.kafka.topics import ensure_topics
from analytics.warehouse.client import Warehouse

# Quick rebalances: a killed member is missed after a second and a half.
FAST = {"session_timeout_ms": 1_500, "heartbeat_interval_ms": 300, "metadata_max_age_ms": 1_000}


def topics(url: str) -> KafkaAddress:
    address = parse_kafka(url, {})
    ensure_topics(address)
    return address


def likes(count: int, **fields: object) -> list[Event]:
    now = utc_now()
    common: dict[str, Any] = {"kind": "like", "occurred_at": now, "received_at": now, "experiment": "e"} | fields
    return [Event(event_id=new_id(), **({"unit": f"u{random.randrange(50)}"} | common)) for _ in range(count)]


def produce(address: KafkaAddress, events: Sequence[Event], *, partition: int | None = None, envelope: int = 1) -> None:
    values = [message_value([encode(e) for e in events[i : i + envelope]]) for i in range(0, len(events), envelope)]
    keys = [message_key(e.unit) for e in events[::envelope]]
    produce_raw(address, zip(keys, values, strict=True), partition=partition)


def produce_raw(address: KafkaAddress, pairs: Iterable[tuple[bytes | None, bytes | None]], *, partition: int | None = None) -> None:
    producer = open_producer(address)
    try:
        sent = [producer.send(address.topic, key=key, value=value, partition=partition) for key, value in pairs]
        for future in sent:
            future.get(timeout=30)
    finally:
        producer.close()


def drain_all(sink: KafkaSink, seconds: float = 30.0) -> int:
    """Move all that is in the topic now."""
    ends, moved, deadline = sink.ends(), 0, time.monotonic() + seconds
    while not sink.reached(ends):
        assert time.monotonic() < deadline, f"not through after {seconds} s: {sink.state}"
        moved += sink.drain(0.05)
    return moved


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)


def stop_merges(warehouse: Warehouse) -> None:
    """A merge removes rows that are there twice: without merges, all that was ever inserted can be counted."""
    with warehouse.connections.client() as client:
        client.command("SYSTEM STOP MERGES events")


def raw_ids(warehouse: Warehouse, topic: str) -> list[str]:
    """The event ids of a topic's rows as they lie there, a row twice twice."""
    sql = "SELECT toString(event_id) FROM events WHERE startsWith(log_name, {name:String})"
    return sorted(i for (i,) in warehouse.query(sql, {"name": f"kafka:{topic}:"}))


def ids(events: Iterable[Event]) -> list[str]:
    return sorted(str(event.event_id) for event in events)
