"""Reconciliation of a real topic with a real warehouse: what is rightly different is not told, what is missing is named."""

import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import reduce as fold
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_sink_cases import FAST, drain_all, likes, produce, produce_raw, topics

from analytics.events import Event, derived_id, encode, new_id, utc_now
from analytics.kafka import reconcile as module
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_producer
from analytics.kafka.committed_part import BLOCK, Block, look_into
from analytics.kafka.dead_letters import read_dead_letters
from analytics.kafka.group_state import look_at_group
from analytics.kafka.reconcile import Reconciliation, reconcile
from analytics.kafka.sink import KafkaSink
from analytics.kafka.warehouse_side import days_of
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import to_arrow

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    opened = Warehouse.open(f"chdb://{tmp_path_factory.mktemp('warehouse')}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing changes between two looks here."""
    monkeypatch.setattr("analytics.kafka.difference.PAUSE_SECONDS", 0)


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return topics(kafka_url)


@pytest.fixture
def sink(address: KafkaAddress, warehouse: Warehouse) -> Iterator[KafkaSink]:
    opened = KafkaSink(address, warehouse, linger_seconds=0.05, consumer_options=FAST)
    yield opened
    opened.close()


def look(address: KafkaAddress, warehouse: Warehouse, **options: int) -> Reconciliation:
    return reconcile(address, warehouse, since=utc_now() - HOUR, **options)


def xor(events: list[Event]) -> str:
    return f"{fold(lambda a, b: a ^ b.event_id.int, events, 0):032x}"


def total(found: Reconciliation, name: str) -> str:
    return f"{fold(lambda a, b: a ^ int(getattr(b, name), 16), found.buckets, 0):032x}"


def delete(warehouse: Warehouse, event: Event) -> None:
    warehouse.query("DELETE FROM events WHERE event_id = {id:UUID}", {"id": str(event.event_id)})


def test_both_sides_agree_by_python_s_own_reading_of_the_ids(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    first = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
    made = [event for hours in range(3) for event in likes(40, received_at=first + hours * HOUR)]
    produce(address, made[:100])
    produce(address, made[100:], envelope=5)
    drain_all(sink)
    found = look(address, warehouse)
    assert found.ok and found.events == 120 and (found.missing, found.extra) == (0, 0)
    assert total(found, "kafka_xor") == total(found, "warehouse_xor") == xor(made)
    assert {bucket.hour for bucket in found.buckets} == {datetime(2026, 11, 23, 9 + n, tzinfo=UTC) for n in range(3)}
    assert sum(end - start for start, end in found.offsets.values()) == 104 and found.not_committed == 0
    assert found.left_out == module.LeftOut()
    # Bounded: of each partition the last three records only.
    few = look(address, warehouse, most_records=3)
    assert few.ok and all(end - start <= 3 for start, end in few.offsets.values()) and 0 < few.events < 120
    # What was written before `since` is no concern.
    assert reconcile(address, warehouse, since=utc_now() + HOUR).events == 0


def test_a_row_that_was_lost_is_named_with_partition_and_hour(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made = likes(30, received_at=datetime(2026, 11, 23, 11, 59, 59, 999_999, tzinfo=UTC))
    produce(address, made, partition=2)
    drain_all(sink)
    delete(warehouse, made[7])
    found = look(address, warehouse)
    (bucket,) = found.buckets
    assert not found.ok and (found.missing, found.extra) == (1, 0)
    assert (bucket.partition, bucket.hour) == (2, datetime(2026, 11, 23, 11, tzinfo=UTC))
    assert (bucket.missing_ids, bucket.extra_ids) == ([made[7].event_id], [])
    assert (bucket.kafka_events, bucket.warehouse_events) == (30, 29)
    assert int(bucket.kafka_xor, 16) ^ int(bucket.warehouse_xor, 16) == made[7].event_id.int


def test_a_row_that_kafka_never_had_is_named(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made, (forged,) = likes(5), likes(1)
    produce(address, made, partition=1)
    drain_all(sink)
    name = look(address, warehouse).log_name
    warehouse.insert_exact("forged", to_arrow([forged], log_name=name, partition=1, offsets=[3]))
    found = look(address, warehouse)
    assert (found.missing, found.extra) == (0, 1)
    assert [each for bucket in found.buckets for each in bucket.extra_ids] == [forged.event_id]


def test_repeats_are_no_difference_wherever_they_lie(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made = likes(20)
    later = [msgspec.structs.replace(event, received_at=event.received_at + 3 * HOUR) for event in made[:4]]
    conflicting = [msgspec.structs.replace(event, kind="share") for event in made[4:6]]
    produce(address, [*made, *made[10:15], *conflicting], partition=0)
    produce(address, later, partition=0)
    # Another partition: what a producer does once partitions were added.
    produce(address, made[:2], partition=3)
    drain_all(sink)
    found = look(address, warehouse)
    assert found.ok and found.events == 20 and total(found, "kafka_xor") == total(found, "warehouse_xor") == xor(made)
    assert (found.left_out.conflicting, found.left_out.repeated) == (2, 2)
    # In the same partition, but out of sight of the first copy.
    last = look(address, warehouse, most_records=4)
    assert last.ok and last.left_out.repeated >= 4


def test_transactions_and_their_markers(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made = likes(9)
    producer = open_producer(address, transactional_id=address.group)
    producer.init_transactions()
    for number, finish in enumerate((producer.commit_transaction, producer.abort_transaction, producer.commit_transaction)):
        producer.begin_transaction()
        for event in made[3 * number : 3 * number + 3]:
            producer.send(address.topic, value=encode(event), partition=0).get(10)
        finish()
    producer.close()
    drain_all(sink)
    found = look(address, warehouse)
    assert found.ok and found.events == 6 and found.offsets[0][1] >= 11
    # The last marker is no record that waits.
    assert [each.lag_records for each in look_at_group(address).partitions] == [0] * 4


def test_an_erased_unit_is_in_neither_count(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made = [*likes(6, unit="ada"), *likes(6, unit="bob")]
    produce(address, made)
    drain_all(sink)
    warehouse.erase("ada")
    found = look(address, warehouse)
    assert found.ok and found.events == 6 and found.left_out.erased == 6
    # A late copy is left out by the sink as well; what the unit does later counts again.
    produce(address, made[:2])
    produce(address, likes(3, unit="ada", received_at=utc_now() + HOUR))
    drain_all(sink)
    found = look(address, warehouse)
    assert found.ok and found.events == 9 and found.left_out.erased == 8


def test_what_no_sink_has_finished_is_not_counted(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    assert look(address, warehouse).offsets == {}, "nothing is committed"
    produce(address, likes(10), partition=0)
    drain_all(sink)
    sink.close()
    produce(address, likes(7), partition=0)
    found = look(address, warehouse)
    assert found.ok and found.events == 10 and found.not_committed == 7


def test_dead_letters_are_not_missing(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    made = likes(6)
    # No event of this version, yet its id can be read; and one that ClickHouse has no column for; and garbage.
    without_kind = b'{"event_id":"%s","received_at":"2026-11-23T10:00:00Z"}' % str(new_id()).encode()
    too_far = encode(msgspec.structs.replace(made[0], event_id=new_id(), seed=1)).replace(b'"seed":1', b'"seed":9223372036854775808')
    produce_raw(address, [(b"u", value) for value in [*map(encode, made), without_kind, too_far, b"garbage"]], partition=0)
    drain_all(sink)
    assert len(read_dead_letters(address)) == 3
    found = look(address, warehouse)
    assert found.ok and found.events == 6
    assert (found.left_out.set_aside, found.left_out.unreadable) == (2, 1)


def test_events_older_than_the_warehouse_keeps_are_not_missing(address: KafkaAddress, sink: KafkaSink, warehouse: Warehouse) -> None:
    old = derived_id(utc_now() - timedelta(days=900), "long ago")
    made = [*likes(3), msgspec.structs.replace(likes(1)[0], event_id=old)]
    produce(address, made, partition=0)
    drain_all(sink)
    delete(warehouse, made[-1])
    assert look(address, warehouse).missing == 1, "nothing is deleted for its age here"
    warehouse.query("ALTER TABLE events MODIFY TTL day + toIntervalDay(365)")
    try:
        found = look(address, warehouse)
    finally:
        warehouse.query("ALTER TABLE events REMOVE TTL")
    assert found.ok and found.left_out.expired == 1


def test_many_blocks_and_more_differences_than_are_looked_into(
    address: KafkaAddress, clickhouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, where neither an address nor a statement may grow without bound."""
    warehouse = Warehouse.open(clickhouse_url)
    warehouse.migrate()
    sink = KafkaSink(address, warehouse, linger_seconds=0.05, consumer_options=FAST)
    try:
        made = likes(BLOCK + 100)
        produce(address, made, partition=0)
        drain_all(sink)
        found = look(address, warehouse)
        assert found.ok and found.events == len(made) and total(found, "warehouse_xor") == xor(made)
        for event in (made[0], made[BLOCK]):
            delete(warehouse, event)
        monkeypatch.setattr(module, "LOOKED_INTO", 1)
        found = look(address, warehouse)
        assert found.missing == 2 and [each for bucket in found.buckets for each in bucket.missing_ids] == [made[0].event_id]
        warehouse.query("TRUNCATE TABLE events")
        found = look(address, warehouse)
        assert found.missing == len(made) and sum(len(bucket.missing_ids) for bucket in found.buckets) == 20
        with pytest.raises(InterruptedError):
            reconcile(address, warehouse, since=utc_now() - HOUR, stopping=lambda: True)
    finally:
        sink.close()
        warehouse.close()


def test_the_group_s_state_says_who_reads_and_what_waits(address: KafkaAddress, sink: KafkaSink) -> None:
    state = look_at_group(address)
    assert (state.members, [each.committed for each in state.partitions]) == ([], [None] * 4)
    produce(address, likes(9), partition=1)
    drain_all(sink)
    state = look_at_group(address)
    assert len(state.members) == 1 and all(each.owner == state.members[0] for each in state.partitions)
    assert [each.lag_records for each in state.partitions] == [0] * 4
    sink.close()
    produce(address, likes(5), partition=1)
    time.sleep(0.2)
    reach = look_at_group(address).partitions[1]
    assert reach.owner is None and reach.lag_records == 5 and reach.committed is not None and reach.committed.offset == 9
    assert 0.1 < reach.lag_seconds(time.time_ns() // 1_000_000) < 20


@given(st.lists(st.binary(max_size=60) | st.just(b'{"events":[]}')))
def test_no_message_stops_the_count(values: list[bytes]) -> None:
    assert all(look_into(value) in (None, []) for value in values)


@given(st.datetimes(datetime(1980, 1, 1), datetime(2149, 6, 6)), st.uuids(version=4))
def test_days_are_those_of_the_table(at: datetime, other: UUID) -> None:
    minted = derived_id(at.replace(tzinfo=UTC), "x")
    # 1970-01-01 is the day of ids without a time, and always among them.
    assert days_of([minted.int, other.int]) == {at.date(), datetime(1970, 1, 1).date()}


def test_an_id_takes_as_much_memory_as_is_said() -> None:
    tracemalloc.start()
    block = Block(0, 0, BLOCK)
    for n in range(20_000):
        block.received[new_id().int] = 1_764_000_000_000_000 + n
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / 20_000 < 200
