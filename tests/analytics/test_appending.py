"""Events of a command into the configured log: acknowledged when the call returns, the same ones twice are one, refusals are told."""

import msgspec
import pytest

from analytics.appending import append_events
from analytics.event_log import open_log
from analytics.events import Event, derived_id, utc_now
from analytics.kafka.address import parse_kafka
from analytics.kafka.clients import open_consumer
from analytics.kafka.messages import read_message
from analytics.kafka.topics import ensure_topics
from analytics.settings import EventsSettings

NOW = utc_now()


def events(count: int) -> list[Event]:
    return [
        Event(
            event_id=derived_id(NOW, str(i)), kind="trained", occurred_at=NOW, received_at=NOW, route="hero", unit=f"u{i}",
            variant_digest="sha256:1", attributes={"round": "hero-r1"},
        )
        for i in range(count)
    ]  # fmt: skip


def on_disk(tmp_path, **options: int) -> EventsSettings:
    query = "?" + "&".join(f"{key}={value}" for key, value in options.items()) if options else ""
    return EventsSettings(log=f"local:{tmp_path}/events{query}", spool=tmp_path / "spool", spool_max_bytes=1 << 20, spool_max_age_hours=1)


def test_beside_a_log_that_is_open_and_more_than_one_batch(tmp_path):
    """A running gateway has the log open, and sees what the command wrote."""
    gateway = open_log(f"local:{tmp_path}/events")
    given = events(2_345)
    append_events(on_disk(tmp_path), given)
    append_events(on_disk(tmp_path), given[:10])
    append_events(on_disk(tmp_path), [])
    assert [event for _, event in gateway.read(0, 10_000)] == given
    gateway.close()


def test_a_full_log_is_told_with_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"has yet to take them; is it running\?; try again in \d+ s"):
        append_events(on_disk(tmp_path, max_bytes=262_144), events(2_000))


def test_kafka_has_every_event_under_its_unit(kafka_url, tmp_path):
    address = parse_kafka(kafka_url, {})
    ensure_topics(address)
    given = events(50)
    append_events(msgspec.structs.replace(on_disk(tmp_path), kafka=address), given)
    consumer = open_consumer(address, group=None, auto_offset_reset="earliest")
    consumer.subscribe([address.topic])
    found = {}
    while len(found) < 50:
        polled = consumer.poll(timeout_ms=5_000)
        assert polled
        for records in polled.values():
            for record in records:
                (event,) = read_message(record.value)
                assert record.key == event.unit.encode()
                found[event.unit] = event
    consumer.close()
    assert sorted(found.values(), key=lambda e: int(e.unit[1:])) == given
