"""The forwarder on a real broker: everything arrives, in order, once unless something was killed, and nothing is given up."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_kafka import LocalKafka
from topic_reader import Record, delete_topic, ids_in, make_topic, read_topic

from analytics.events import Event, encode, new_id, utc_now
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.local_log import LocalLog, Spooled
from gateway.flight import ENVELOPE_BYTES, messages
from gateway.forwarder import Forwarder


def event(unit: str = "u", **more: object) -> Event:
    now = utc_now()
    return Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, unit=unit, **more)  # type: ignore[arg-type]


def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[LocalLog]:
    log = LocalLog(tmp_path / "spool", reader="Kafka")
    yield log
    log.close()


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return parse_kafka(kafka_url, {})


def by_unit(records: list[Record]) -> dict[str, list[str]]:
    """Event ids in the order of their partition, by unit; and each unit lives in one partition, under its own key."""
    units: dict[str, list[str]] = defaultdict(list)
    homes: dict[str, set[int]] = defaultdict(set)
    for record in records:
        for found in record.events:
            assert record.key == found["unit"].encode()
            units[found["unit"]].append(found["event_id"])
            homes[found["unit"]].add(record.partition)
    assert all(len(home) == 1 for home in homes.values())
    return dict(units)


def in_order(events: list[Event]) -> dict[str, list[str]]:
    units: dict[str, list[str]] = defaultdict(list)
    for sent in events:
        units[sent.unit].append(str(sent.event_id))
    return dict(units)


rows = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1, 2]), st.sampled_from([10, ENVELOPE_BYTES // 3, ENVELOPE_BYTES + 1])),
    max_size=30,
)


@given(rows, st.integers(0, 30))
def test_messages_keep_order_and_join_neighbours_of_one_batch_and_unit(drawn: list[tuple[str, int | None, int]], single: int) -> None:
    spooled = [Spooled(n, b"", unit, bytes(size), batch) for n, (unit, batch, size) in enumerate(drawn, 1)]
    made = list(messages(spooled, single))
    assert [row for message in made for row in message.rows] == spooled
    for message in made:
        assert len({(row.unit, row.batch) for row in message.rows}) == 1
        if len(message.rows) > 1:
            assert message.rows[0].batch is not None
            assert sum(len(row.data) for row in message.rows) <= ENVELOPE_BYTES
            assert all(row.position > single for row in message.rows[1:])


def test_stored_bytes_arrive_under_their_units_key_in_order_and_once(spool: LocalLog, address: KafkaAddress, kafka: str) -> None:
    make_topic(kafka, address.topic)
    singles = [event(f"unit-{n % 7}", value=n / 3) for n in range(500)]
    batch = [event("one") for _ in range(20)] + [event("two") for _ in range(5)] + [event("one")]
    for single in singles:
        spool.submit([single])
    spool.submit(batch, together=True).result(10)
    forwarder = Forwarder(spool, address)
    forwarder.start()
    until(lambda: forwarder.sent == 526)
    forwarder.stop()
    records = read_topic(kafka, address.topic)
    assert by_unit(records) == in_order(singles + batch)
    assert {record.value for record in records} >= {encode(single) for single in singles}
    envelopes = [record for record in records if record.key == b"one"]
    assert [record.value for record in envelopes] == [
        b'{"events":[' + b",".join(encode(e) for e in batch[:20]) + b"]}",
        encode(batch[-1]),
    ]
    assert spool.spool_state().events == 0 and spool.consumed_position() == spool.end()
    assert (forwarder.errors, forwarder.last_error, forwarder.warning) == (0, None, None)
    # The next one goes on behind the mark.
    later = event("one")
    spool.submit([later]).result(10)
    again = Forwarder(spool, address)
    again.start()
    until(lambda: again.sent == 1)
    again.stop()
    assert ids_in(read_topic(kafka, address.topic)).count(str(later.event_id)) == 1
    assert len(ids_in(read_topic(kafka, address.topic))) == 527


def test_an_event_that_is_too_large_is_set_aside_and_stops_nobody(spool: LocalLog, address: KafkaAddress, kafka: str) -> None:
    make_topic(kafka, address.topic, max_message_bytes="20000")
    noise = lambda size: os.urandom(size // 2).hex()  # noqa: E731 — zstd halves it again
    small = [event(f"unit-{n % 5}") for n in range(40)]
    for_broker, for_client = event("unit-1", prompt=noise(60_000)), event("unit-2", prompt=noise(3_000_000))
    batch = [event("unit-3"), event("unit-3", prompt=noise(60_000)), event("unit-3", prompt=noise(8_000)), event("unit-3")]
    for part in (small[:10], [for_broker], small[10:20], [for_client], small[20:]):
        for one in part:
            spool.submit([one])
    spool.submit(batch, together=True).result(10)
    # Together too large, each small enough: no event of it may be given up.
    heavy = [event("unit-4", prompt=noise(12_000)) for _ in range(6)]
    spool.submit(heavy, together=True).result(10)
    forwarder = Forwarder(spool, address)
    forwarder.start()
    until(lambda: spool.consumed_position() == spool.end(), 40)
    forwarder.stop()
    letters = spool.dead_letters()
    assert [letter.event for letter in letters] == [for_broker, for_client, batch[1]]
    assert all("Kafka does not take it" in letter.error for letter in letters)
    assert spool.spool_state().dead_letters == forwarder.set_aside == 3
    taken = [*small, batch[0], batch[2], batch[3], *heavy]
    found = by_unit(read_topic(kafka, address.topic))
    assert {unit: list(dict.fromkeys(ids)) for unit, ids in found.items()} == in_order(taken)


def test_a_topic_that_is_missing_is_named_and_taken_when_it_comes_also_when_it_goes_again(
    spool: LocalLog, address: KafkaAddress, kafka: str
) -> None:
    first, second, third = event(), event(), event()
    spool.submit([first]).result(10)
    forwarder = Forwarder(spool, address)
    forwarder.start()
    until(lambda: forwarder.last_error)
    assert address.topic in str(forwarder.last_error) and "salon migrate" in str(forwarder.last_error)
    make_topic(kafka, address.topic)
    until(lambda: forwarder.sent == 1)
    assert forwarder.last_error is None
    delete_topic(kafka, address.topic)
    spool.submit([second]).result(10)
    until(lambda: forwarder.last_error)
    assert address.topic in str(forwarder.last_error)
    make_topic(kafka, address.topic)
    until(lambda: forwarder.last_error is None and forwarder.sent >= 2)
    spool.submit([third]).result(10)
    until(lambda: spool.spool_state().events == 0)
    forwarder.stop()
    assert ids_in(read_topic(kafka, address.topic))[-2:] == [str(second.event_id), str(third.event_id)]


def test_other_partitions_than_configured_are_told_and_keep_nothing_back(spool: LocalLog, address: KafkaAddress, kafka: str) -> None:
    from analytics.kafka.topics import ensure_topics

    ensure_topics(address)
    other = parse_kafka(f"kafka://{kafka}/{address.topic}?control_topic={address.control_topic}&partitions=7", {})
    spool.submit([event()]).result(10)
    forwarder = Forwarder(spool, other)
    forwarder.start()
    until(lambda: forwarder.sent == 1)
    forwarder.stop()
    assert forwarder.warning is not None and "4" in forwarder.warning and "partitions=7" in forwarder.warning


def test_a_broker_away_at_the_start_or_stopped_loses_nothing_and_blocks_nobody(spool: LocalLog, kafka_here: None, tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka")
    address = parse_kafka(f"kafka://{broker.bootstrap}/events?partitions=4", {})
    sent = [event(f"unit-{n % 9}") for n in range(2000)]
    forwarder = Forwarder(spool, address)
    try:
        forwarder.start()
        spool.submit(sent[:1000]).result(10)
        until(lambda: forwarder.last_error)
        assert broker.bootstrap in str(forwarder.last_error) and "refuses the connection" in str(forwarder.last_error)
        assert spool.spool_state().events == 1000
        broker.start()
        make_topic(broker.bootstrap, "events")
        until(lambda: forwarder.sent == 1000)
        assert forwarder.last_error is None
        # SIGSTOP: connections stand, nobody answers; stopping does not wait for it.
        broker.pause()
        spool.submit(sent[1000:]).result(10)
        time.sleep(0.3)
        began = time.monotonic()
        forwarder.stop(1.0)
        assert time.monotonic() - began < 3
        broker.resume()
        rest = Forwarder(spool, address)
        rest.start()
        until(lambda: spool.spool_state().events == 0, 40)
        rest.stop()
        found = by_unit(read_topic(broker.bootstrap, "events"))
        assert {unit: list(dict.fromkeys(ids)) for unit, ids in found.items()} == in_order(sent)
    finally:
        forwarder.stop(0.1)
        broker.kill()
