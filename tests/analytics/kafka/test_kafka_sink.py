"""One Kafka sink: every record once through crashes at each point, odd messages, erasure, retention, a topic made again."""

import json
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from kafka_sink_cases import FAST, drain_all, ids, likes, produce, produce_raw, raw_ids, stop_merges, topics, until

from analytics.events import encode
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin, open_consumer, open_producer
from analytics.kafka.dead_letters import read_dead_letters
from analytics.kafka.membership import Membership
from analytics.kafka.messages import message_value
from analytics.kafka.sink import KafkaSink
from analytics.kafka.sink_thread import KafkaSinkThread
from analytics.kafka.topics import TopicMissing, ensure_topics
from analytics.warehouse.client import Warehouse


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    opened = Warehouse.open(f"chdb://{tmp_path_factory.mktemp('warehouse')}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def unmerged(warehouse: Warehouse) -> Iterator[Warehouse]:
    stop_merges(warehouse)
    yield warehouse
    with warehouse.connections.client() as client:
        client.command("SYSTEM START MERGES events")


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return topics(kafka_url)


@pytest.fixture
def sinks(address: KafkaAddress, warehouse: Warehouse) -> Iterator["Sinks"]:
    made = Sinks(address, warehouse)
    yield made
    for sink in made.all:
        sink.close()


class Sinks:
    def __init__(self, address: KafkaAddress, warehouse: Warehouse) -> None:
        self._address, self._warehouse = address, warehouse
        self.all: list[KafkaSink] = []

    def open(self, **options: Any) -> KafkaSink:
        self.all.append(KafkaSink(self._address, self._warehouse, **{"linger_seconds": 0.05, "consumer_options": FAST, **options}))
        return self.all[-1]


def committed(address: KafkaAddress) -> dict[int, tuple[int, dict[str, Any]]]:
    consumer = open_consumer(address, group=address.group)
    try:
        found = {p: consumer.committed(TopicPartition(address.topic, p), metadata=True) for p in range(address.partitions)}
    finally:
        consumer.close()
    return {p: (at.offset, json.loads(at.metadata or "{}")) for p, at in found.items() if at is not None}


def test_singles_and_envelopes_go_in_once_with_where_they_came_from(address: KafkaAddress, sinks: Sinks, unmerged: Warehouse) -> None:
    made = likes(900)
    produce(address, made[:600])
    produce(address, made[600:], envelope=50)
    sink = sinks.open()
    assert drain_all(sink) == 900
    assert raw_ids(unmerged, address.topic) == ids(made)
    sql = "SELECT log_name, log_partition, count(), uniqExact(log_offset) FROM events WHERE startsWith(log_name, {n:String}) GROUP BY 1, 2"
    rows = unmerged.query(sql, {"n": f"kafka:{address.topic}:"})
    assert sum(messages for *_, messages in rows) == 606 and {p for _, p, _, _ in rows} <= set(range(4))
    # The group's offsets say that all is done, and in which topic.
    (topic_id,) = {name.split(":")[2] for name, *_ in rows}
    assert sum(offset for offset, _ in committed(address).values()) == 606
    assert all(note == {"topic_id": topic_id} for _, note in committed(address).values())
    sink.close()
    produce(address, more := likes(10))
    assert drain_all(sinks.open()) == 10
    assert raw_ids(unmerged, address.topic) == ids(made + more)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["intent", "insert", "done"])
def test_a_sink_that_dies_at_any_point_is_followed_exactly(
    point: str, address: KafkaAddress, sinks: Sinks, unmerged: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(address, made := likes(200), partition=2)
    dying = sinks.open(block_rows=60)
    with monkeypatch.context() as patch:
        if point == "insert":
            insert = Warehouse.insert_exact
            patch.setattr(Warehouse, "insert_exact", lambda *a, **k: (insert(*a, **k), _die()))
        else:
            commit = Membership.commit

            def commit_and_die(self: Membership, notes: Any) -> None:
                commit(self, notes)
                if notes and all((n.note.end is not None) == (point == "intent") and n.offset + (n.note.end or 0) for n in notes.values()):
                    _die()

            patch.setattr(Membership, "commit", commit_and_die)
        with pytest.raises(Killed):
            while True:
                dying.drain(0.05)
    dying.close()
    offset, note = committed(address)[2]
    if point != "done":
        assert offset == 0 and note["end"] >= 59
    # What arrives meanwhile must not be drawn into the range that was begun.
    produce(address, more := likes(50), partition=2)
    assert len(raw_ids(unmerged, address.topic)) == {"intent": 0, "insert": note.get("end", 0) + 1, "done": offset}[point]
    follower = sinks.open(block_rows=10_000)
    drain_all(follower)
    assert raw_ids(unmerged, address.topic) == ids(made + more)
    assert follower.state.replays == (point != "done")


def _die() -> None:
    raise Killed


def test_messages_that_cannot_be_read_become_dead_letters_before_the_group_goes_on(
    address: KafkaAddress, sinks: Sinks, unmerged: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = likes(6)
    produce_raw(
        address, [(b"k", encode(good[0])), (b"bad", b"{oops"), (b"gone", None), *((b"k", encode(e)) for e in good[1:])], partition=1
    )
    dying = sinks.open()
    with monkeypatch.context() as patch:
        patch.setattr(Membership, "commit", _dies_at_done(Membership.commit))
        with pytest.raises(Killed):
            while True:
                dying.drain(0.05)
    dying.close()
    first = read_dead_letters(address)
    assert [(x.origin, x.key, x.value, x.attempt) for x in first] == [
        (f"{address.topic}/1/1", b"bad", b"{oops", 1), (f"{address.topic}/1/2", b"gone", None, 1)
    ]  # fmt: skip
    assert "malformed" in first[0].error and "empty" in first[1].error
    drain_all(sinks.open())
    assert raw_ids(unmerged, address.topic) == ids(good)
    # The second attempt wrote them again; read, each is there once.
    assert [x.set_aside_at for x in read_dead_letters(address)] == [x.set_aside_at for x in first]


def _dies_at_done(commit: Any) -> Any:
    def commit_or_die(self: Membership, notes: Any) -> None:
        if notes and all(n.note.end is None and n.offset for n in notes.values()):
            raise Killed
        commit(self, notes)

    return commit_or_die


def test_rows_that_the_warehouse_rejects_are_bisected_out(address: KafkaAddress, sinks: Sinks, unmerged: Warehouse) -> None:
    good, poison = likes(60), likes(3, seed=2**63)
    mixed = [*good[:20], poison[0], *good[20:45], poison[1], *good[45:52]]
    produce(address, mixed, partition=0)
    # In one message with others, only the guilty event goes.
    produce_raw(address, [(b"k", message_value([encode(e) for e in [good[52], poison[2], *good[53:]]]))], partition=0)
    sink = sinks.open()
    assert drain_all(sink) == 63
    assert raw_ids(unmerged, address.topic) == ids(good)
    letters = read_dead_letters(address)
    assert [x.origin.removeprefix(address.topic) for x in letters] == ["/0/20", "/0/46", "/0/54/1"]
    assert [x.value for x in letters] == [encode(e) for e in poison] and all("seed" in x.error for x in letters)
    assert sink.state.dead_letters == 3 and sink.state.rows == 60
    assert committed(address)[0][0] == 55


def test_markers_of_transactions_are_gaps_and_aborted_records_never_go_in(address: KafkaAddress, sinks: Sinks, unmerged: Warehouse) -> None:
    made = likes(30)
    producer = open_producer(address, transactional_id=address.topic)
    producer.init_transactions()
    for start, commit in ((0, True), (10, False), (20, True)):
        producer.begin_transaction()
        for event in made[start : start + 10]:
            producer.send(address.topic, value=encode(event), partition=3)
        # An abort would forget what was not sent yet.
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    sink = sinks.open(block_rows=7)
    drain_all(sink)
    assert raw_ids(unmerged, address.topic) == ids(made[:10] + made[20:])
    # 30 records and 3 markers; the last marker is passed too, so that other tools see no lag.
    until(lambda: sink.drain(0.05) == 0 and committed(address)[3][0] == 33)
    assert sink.state.lag_records() == 0


def test_an_erased_person_does_not_come_back_by_a_late_or_repeated_insert(
    address: KafkaAddress, sinks: Sinks, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    staying = likes(20, unit="stays")
    produce(
        address, [*staying[:10], *likes(5, unit="early"), *likes(5, unit="between"), *likes(5, unit="late"), *staying[10:]], partition=0
    )
    warehouse.erase("early")
    insert = Warehouse.insert_exact

    def erase_around(self: Warehouse, token: str, table: Any, **more: Any) -> None:
        # The deletion runs after the sink asked who is erased, and before its rows land.
        self.erase("between")
        insert(self, token, table, **more)
        raise Killed

    dying = sinks.open()
    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "insert_exact", erase_around)
        with pytest.raises(Killed):
            while True:
                dying.drain(0.05)
    dying.close()
    assert units(warehouse, address) == {"stays": 20, "between": 5, "late": 5}
    # The repeated insert is ignored by the warehouse, rows and all; still nobody erased may stay.
    drain_all(follower := sinks.open())
    assert follower.state.replays == 1
    assert units(warehouse, address) == {"stays": 20, "late": 5}
    warehouse.erase("late")
    assert units(warehouse, address) == {"stays": 20}
    # Who comes back after the erasure is a new person.
    produce(address, likes(2, unit="late"), partition=0)
    drain_all(follower)
    assert units(warehouse, address) == {"stays": 20, "late": 2}


def units(warehouse: Warehouse, address: KafkaAddress) -> dict[str, int]:
    sql = "SELECT unit, count() FROM events WHERE startsWith(log_name, {n:String}) GROUP BY unit"
    return dict(warehouse.query(sql, {"n": f"kafka:{address.topic}:"}))


def test_what_retention_ate_is_counted_and_said(
    address: KafkaAddress, sinks: Sinks, unmerged: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    made = likes(30)
    produce(address, made[:10], partition=0)
    sink = sinks.open()
    drain_all(sink)
    sink.close()
    produce(address, made[10:], partition=0)
    admin = open_admin(address)
    admin.delete_records({TopicPartition(address.topic, 0): 17})
    admin.close()
    with caplog.at_level(logging.ERROR, "analytics.kafka.sink"):
        drain_all(again := sinks.open())
    assert again.state.lost_to_retention == 7
    assert "7 offsets (10 to 16) were removed" in caplog.text and "retention_hours" in caplog.text
    assert raw_ids(unmerged, address.topic) == ids(made[:10] + made[17:])
    assert committed(address)[0][0] == 30


def test_a_topic_deleted_and_made_again_is_another_topic(address: KafkaAddress, sinks: Sinks, unmerged: Warehouse) -> None:
    produce(address, old := likes(40), partition=0)
    sink = sinks.open()
    drain_all(sink)
    admin = open_admin(address)
    admin.delete_topics([address.topic])
    until(lambda: admin.describe_topics([address.topic])[0]["error_code"] != 0)
    ensure_topics(address)
    # As many as before: offsets and ranges are the same as those that the warehouse has seen.
    produce(address, new := likes(40), partition=0)
    until(lambda: _drained(sink) and len(raw_ids(unmerged, address.topic)) >= 80)
    sink.close()
    assert raw_ids(unmerged, address.topic) == ids(old + new)
    # A group whose offsets outlive the topic does not skip the new topic's beginning either.
    consumer = open_consumer(address, group=address.group)
    stale = OffsetAndMetadata(25, '{"topic_id":"another"}', -1)
    consumer.assign([TopicPartition(address.topic, 0)])
    consumer.commit({TopicPartition(address.topic, 0): stale})
    consumer.close()
    admin.delete_topics([address.topic])
    until(lambda: admin.describe_topics([address.topic])[0]["error_code"] != 0)
    admin.close()
    with pytest.raises(TopicMissing, match="salon migrate"):
        sinks.open().drain(0.05)


def _drained(sink: KafkaSink) -> bool:
    try:
        sink.drain(0.05)
    except OSError:
        # The topic is away for a moment.
        sink.rest(0.1)
    return True


def test_a_group_without_its_offsets_reads_again_and_no_report_sees_it(
    address: KafkaAddress, sinks: Sinks, unmerged: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    produce(address, made := likes(25), partition=0)
    first = sinks.open()
    drain_all(first)
    first.close()
    admin = open_admin(address)
    admin.delete_groups([address.group])
    admin.close()
    with caplog.at_level(logging.ERROR, "analytics.kafka.sink"):
        drain_all(sinks.open(block_rows=10))
    assert "offsets.retention.minutes" in caplog.text
    sql = "SELECT count() FROM events FINAL WHERE startsWith(log_name, {n:String})"
    assert unmerged.query(sql, {"n": f"kafka:{address.topic}:"}) == [(25,)]
    assert set(raw_ids(unmerged, address.topic)) == set(ids(made))


def test_a_warehouse_that_is_down_keeps_the_range_and_the_membership(
    address: KafkaAddress, sinks: Sinks, unmerged: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(address, made := likes(300))
    insert, down = Warehouse.insert_exact, [True]

    def refuse(self: Warehouse, token: str, table: Any, **more: Any) -> None:
        if down[0]:
            raise OSError("the warehouse is away")
        insert(self, token, table, **more)

    monkeypatch.setattr(Warehouse, "insert_exact", refuse)
    thread = KafkaSinkThread(sinks.open(block_rows=100), backoff_seconds=0.1, max_backoff_seconds=0.3)
    sinks.all.clear()
    thread.start()
    until(lambda: thread.failures >= 3)
    assert thread.last_error == "the warehouse is away"
    assert any("end" in note for _, note in committed(address).values())
    produce(address, more := likes(300))
    # Longer than a session: it is not thrown out, so nothing is read a second time.
    time.sleep(2 * FAST["session_timeout_ms"] / 1000)
    assert thread.sink.state.assignments == 1 and thread.sink.state.oldest_intent_seconds() > 2
    down[0] = False
    until(lambda: len(raw_ids(unmerged, address.topic)) >= 600)
    until(lambda: thread.last_error is None and thread.moved == 600)
    thread.stop()
    assert raw_ids(unmerged, address.topic) == ids(made + more)
    assert thread.sink.state.assignments == 1 and thread.sink.state.fenced == 0


def test_a_live_member_can_commit_what_it_no_longer_owns_so_the_sink_asks_itself(address: KafkaAddress, sinks: Sinks) -> None:
    """Hole (d) of the notes: Kafka checks the generation of a commit, not who owns the partition."""
    produce(address, likes(10), partition=0)
    one, two = sinks.open(), sinks.open()

    def both_own_two() -> bool:
        return len(one.state.partitions) == len(two.state.partitions) == 2

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda sink: until(lambda: sink.drain(0.02) >= 0 and both_own_two()), (one, two)))
    assert one._member is not None and two._member is not None
    (theirs, *_) = two._member.owned
    before = committed(address)[theirs]
    with pytest.raises(Exception, match="belongs to another sink"):
        one._member.commit({theirs: one._member.committed(theirs)})  # type: ignore[dict-item]
    # Without the sink's own look, the broker takes it.
    one._member._consumer.commit({TopicPartition(address.topic, theirs): OffsetAndMetadata(before[0] + 5, "stolen", -1)})
    assert committed_raw(address, theirs) == (before[0] + 5, "stolen")


def committed_raw(address: KafkaAddress, partition: int) -> tuple[int, str]:
    consumer = open_consumer(address, group=address.group)
    found = consumer.committed(TopicPartition(address.topic, partition), metadata=True)
    consumer.close()
    return found.offset, found.metadata
