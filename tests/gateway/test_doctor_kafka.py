"""`salon doctor` with a Kafka log, against a real broker: well, and in each broken state that people meet."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.structs import OffsetAndMetadata, TopicPartition

from analytics.events import Event, control_event, encode, new_id, utc_now
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.clients import open_admin, open_consumer, open_producer
from analytics.kafka.dead_letters import DeadLetterWriter, KafkaDeadLetter
from analytics.kafka.group_state import GroupState, PartitionReach
from analytics.kafka.intents import Committed, Note, write_note
from analytics.kafka.messages import message_key
from analytics.kafka.sink import KafkaSink
from analytics.kafka.topics import ensure_topics
from analytics.local_log import LocalLog
from analytics.settings import Document, analytics_settings
from analytics.warehouse.client import Warehouse
from gateway.control_records import TOKEN_KEY, TokenKeyRecord
from gateway.doctor import examine
from gateway.doctor_kafka import group_line, kafka_findings, topic_troubles
from gateway.doctor_spool import spool_line
from gateway.doctor_warehouse import warehouse_findings
from gateway.findings import Finding, Wrong, check, for_how_long
from gateway.tokens import fingerprint

KEY = b"k" * 32


@pytest.fixture(scope="module")
def warehouse_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"chdb://{tmp_path_factory.mktemp('warehouse')}"
    opened = Warehouse.open(url)
    opened.migrate()
    opened.close()
    return url


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    made = parse_kafka(kafka_url, {})
    ensure_topics(made)
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "token.key"
    path.write_bytes(KEY)
    return path


def kafka_side(address: KafkaAddress, key: Path) -> dict[str, Finding]:
    return {finding.part: finding for finding in kafka_findings(address, key, sink="`salon sink`")}


def wrong(findings: dict[str, Finding]) -> set[str]:
    return {part for part, finding in findings.items() if not finding.ok}


def likes(count: int) -> list[Event]:
    now = utc_now()
    return [Event(event_id=new_id(), kind="like", occurred_at=now, received_at=now, experiment="e", unit=f"u{n}") for n in range(count)]


def produce(address: KafkaAddress, events: list[Event], topic: str = "") -> None:
    producer = open_producer(address)
    for event in events:
        producer.send(topic or address.topic, key=message_key(event.unit), value=encode(event))
    producer.flush(10)
    producer.close()


def sink_all(address: KafkaAddress, url: str) -> None:
    warehouse = Warehouse.open(url)
    sink = KafkaSink(address, warehouse, linger_seconds=0.05)
    try:
        ends, deadline = sink.ends(), time.monotonic() + 30
        while not sink.reached(ends):
            assert time.monotonic() < deadline
            sink.drain(0.05)
    finally:
        sink.close()
        warehouse.close()


@pytest.mark.parametrize(
    ("age", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9000, "2.5 h"), (604_800, "7.0 days")]
)
def test_ages_read_well(age: float, text: str) -> None:
    assert for_how_long(age) == text


def test_a_look_that_does_not_end_is_left_behind() -> None:
    started = time.monotonic()
    found = check("slow", lambda: time.sleep(30) or "", 0.2)
    assert not found.ok and "no answer within" in found.text and time.monotonic() - started < 5
    assert check("well", lambda: "fine", 5) == Finding("well", True, "fine")
    assert check("broken", lambda: {}["x"], 5) == Finding("broken", False, "'x'")


def test_all_is_well_while_a_gateway_and_a_sink_have_worked(
    address: KafkaAddress, kafka_url: str, key: Path, warehouse_url: str, tmp_path: Path, model: Path
) -> None:
    path = tmp_path / "salon.toml"
    path.write_text(
        f'[events]\nlog = "{kafka_url}"\n[warehouse]\nurl = "{warehouse_url}"\n'
        f'[variants.base]\nmodel = "{model}"\nsteps = 2\n[routes.hero]\nserve = "base"\n'
    )
    produce(address, likes(5))
    sink_all(address, warehouse_url)
    findings = {finding.part: finding for finding in examine(path)}
    assert wrong(findings) == set(), findings
    parts = ["config", "keys", "spool", "kafka", "topics", "offsets", "sinks", "dead letters", "control", "warehouse", "rollups"]
    assert list(findings) == [*parts, "dedup window", "reconciliation", "images", "registry", "variant base"]
    assert "salon serve makes it" in findings["spool"].text
    assert "1 broker at" in findings["kafka"].text and "PLAINTEXT" in findings["kafka"].text
    assert "4 partitions x 1, kept for 7.0 days" in findings["topics"].text
    assert "0 sinks, 0 records behind" in findings["sinks"].text and "start `salon serve`" in findings["sinks"].text
    assert "all 5 events are in the warehouse" in findings["reconciliation"].text
    assert "the last 10000 inserts are remembered; no range is begun" in findings["dedup window"].text


def test_a_broker_that_is_down_is_explained_and_the_rest_not_looked_at(key: Path, warehouse_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = parse_kafka(f"kafka://127.0.0.1:{taken.getsockname()[1]}/", {})
        started = time.monotonic()
        findings = kafka_side(address, key)
    assert list(findings) == ["kafka"] and "refuses the connection" in findings["kafka"].text and time.monotonic() - started < 10
    parts = {finding.part: finding for finding in warehouse_findings(warehouse_url, address, kafka_answers=False)}
    assert list(parts) == ["warehouse", "rollups", "dedup window"] and wrong(parts) == set()


def test_topics_that_are_missing_or_have_other_partitions(kafka_url: str, key: Path) -> None:
    missing = kafka_side(parse_kafka(kafka_url, {}), key)
    assert list(missing) == ["kafka", "topics"] and wrong(missing) == {"topics"} and "run `salon migrate`" in missing["topics"].text
    ensure_topics(parse_kafka(kafka_url, {}))
    found = kafka_side(parse_kafka(kafka_url.replace("partitions=4", "partitions=8"), {}), key)
    assert wrong(found) == {"topics"} and "has 4 partitions and the configuration says partitions=8" in found["topics"].text


def test_retention_that_is_shorter_than_configured(address: KafkaAddress, key: Path, kafka_url: str) -> None:
    admin = open_admin(address)
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, address.topic, {"retention.ms": "3600000"})])
    admin.close()
    deadline = time.monotonic() + 10
    while (found := kafka_side(address, key))["topics"].ok and time.monotonic() < deadline:
        time.sleep(0.1)
    assert wrong(found) == {"topics"} and "retention.ms=3600000 (60 min) is less than retention_hours=168" in found["topics"].text
    # More days than the brokers keep the offsets of a group that is away.
    found = kafka_side(parse_kafka(f"{kafka_url}&retention_hours=1000", {}), key)
    assert "offsets" in wrong(found) and "offsets.retention.minutes=10080 (7.0 days)" in found["offsets"].text


TOPIC = {"name": "events", "partitions": [{"partition_index": 0, "leader_id": 1, "replica_nodes": [1, 2, 3], "isr_nodes": [1, 2]}]}


@pytest.mark.parametrize(
    ("settings", "leader", "isr", "told"),
    [
        ({"min.insync.replicas": "2"}, 1, [1, 2], ""),
        ({}, 1, [1], ""),
        ({"min.insync.replicas": "2"}, 1, [1], "partitions [0] have fewer than min.insync.replicas=2"),
        ({"min.insync.replicas": "2"}, -1, [], "no broker leads partitions [0]"),
        ({"min.insync.replicas": "3"}, 1, [1, 2, 3], "one broker that is away stops all writes; set 2"),
        ({"min.insync.replicas": "4"}, 1, [1, 2, 3], "is more than its 3 copies"),
        ({"unclean.leader.election.enable": "true"}, 1, [1, 2], "loses acknowledged events"),
        ({"retention.ms": "-1", "retention.bytes": "-1"}, 1, [1, 2], ""),
        ({"retention.bytes": "1000"}, 1, [1, 2], "retention.bytes=1000 may remove events"),
    ],
)
def test_what_is_wrong_with_a_replicated_topic(settings: dict[str, str], leader: int, isr: list[int], told: str) -> None:
    address = parse_kafka("kafka://h:1/events?replication_factor=3", {})
    topic = {"name": "events", "partitions": [TOPIC["partitions"][0] | {"leader_id": leader, "isr_nodes": isr}]}  # type: ignore[index,operator]
    troubles = "; ".join(topic_troubles(address, topic, settings))
    assert told in troubles and bool(told) == bool(troubles)


def reach(partition: int, end: int, offset: int | None, **fields: object) -> PartitionReach:
    committed = None if offset is None else Committed(offset, Note(topic_id=str(fields.pop("topic_id", "t"))))
    return PartitionReach(**({"partition": partition, "start": 0, "end": end, "committed": committed, "owner": "s at h"} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reaches", "members", "state", "told"),
    [
        ([reach(0, 10, 10)], ["s"], "Stable", "1 sink, 0 records behind"),
        ([reach(0, 10, 8, waiting_since_ms=990_000)], ["s"], "Stable", "2 records behind, the oldest for 10 s (partition 0: 2, 10 s)"),
        ([reach(0, 10, 8, waiting_since_ms=0)], ["s"], "Stable", "WRONG they are slower than what comes"),
        ([reach(0, 10, 8, waiting_since_ms=0)], ["s"], "PreparingRebalance", "WRONG members come and go"),
        ([reach(0, 10, 8, owner=None)], [], "Empty", "WRONG nobody reads: start `salon sink`"),
        ([reach(0, 10, None, owner=None)], [], "Dead", "WRONG 0 sinks, 10 records behind"),
        ([reach(0, 0, None, owner=None)], [], "Dead", "nobody reads, and nothing waits"),
        ([reach(0, 10, 10), reach(1, 10, 10, owner=None)], ["s"], "Stable", "WRONG partitions [1] have no sink"),
        ([reach(0, 10, 10), reach(1, 10, 10, owner=None)], ["s"], "CompletingRebalance", "0 records behind"),
        ([reach(0, 10, 4, start=6)], ["s"], "Stable", "WRONG removed 2 records before they were read"),
        ([reach(0, 10, 4, topic_id="gone")], ["s"], "Stable", "WRONG deleted and made again"),
        ([reach(0, 10, 14)], ["s"], "Stable", "WRONG records that the brokers lost"),
    ],
)
def test_what_the_group_s_state_means(reaches: list[PartitionReach], members: list[str], state: str, told: str) -> None:
    group = GroupState(topic_id="t", state=state, members=members, partitions=reaches)
    address = parse_kafka("kafka://h:1/", {})
    found = check("sinks", lambda: group_line(group, address, "`salon sink`", 1_000_000))
    for part in told.removeprefix("WRONG ").split(" removed "):
        assert part in found.text
    assert found.ok == (not told.startswith("WRONG"))


def test_a_group_that_nobody_is_in_falls_behind(address: KafkaAddress, key: Path, warehouse_url: str) -> None:
    produce(address, likes(3))
    sink_all(address, warehouse_url)
    produce(address, likes(7))
    found = kafka_side(address, key)
    assert wrong(found) == {"sinks"} and "0 sinks, 7 records behind, the oldest for" in found["sinks"].text


def test_a_dead_letter_is_named_until_it_is_sent_again(address: KafkaAddress, key: Path) -> None:
    letter = KafkaDeadLetter(
        origin=f"{address.topic}/2/17",
        topic_id="t",
        error="column seed: too large",
        attempt=1,
        set_aside_at=utc_now(),
        key=b"u",
        value=b"{}",
    )
    writer = DeadLetterWriter(address)
    writer.write([letter])
    found = kafka_side(address, key)
    assert wrong(found) == {"dead letters"}
    assert "1 in " in found["dead letters"].text and f"{address.topic}/2/17" in found["dead letters"].text
    assert "column seed: too large" in found["dead letters"].text and "`salon replay list`" in found["dead letters"].text
    writer.close()


def test_a_token_key_that_is_not_the_other_gateways(address: KafkaAddress, key: Path, tmp_path: Path) -> None:
    producer = open_producer(address)
    record = msgspec.json.encode(TokenKeyRecord(fingerprint=fingerprint(KEY)))
    producer.send(address.control_topic, key=TOKEN_KEY.encode(), value=record, partition=0).get(10)
    producer.close()
    assert f"has their token key ({fingerprint(KEY)})" in kafka_side(address, key)["control"].text
    key.write_bytes(b"x" * 32)
    found = kafka_side(address, key)
    assert wrong(found) == {"control"} and "[gateway] token_key" in found["control"].text
    assert "copy theirs there" in kafka_side(address, tmp_path / "none.key")["control"].text
    # The key itself is in no line.
    assert not [f for f in found.values() if "xxxx" in f.text]


@pytest.fixture
def spool(tmp_path: Path, kafka_url: str) -> Iterator[LocalLog]:
    log = LocalLog(tmp_path / "spool", max_bytes=1 << 20)
    yield log
    log.close()


def test_the_spool_says_what_waits_and_whether_it_is_drained(
    spool: LocalLog, tmp_path: Path, kafka_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = f'[events]\nlog = "{kafka_url}"\nspool = "spool"\nspool_max_bytes = {1 << 20}\nspool_max_age_hours = 1'
    events = analytics_settings(Document(tmp_path / "salon.toml", tables, {})).events
    assert spool_line(events).startswith("0 events (0 bytes) wait in")
    spool.submit(likes(3)).result(10)
    assert "3 events" in spool_line(events) and "the oldest for" in spool_line(events)
    monkeypatch.setattr("gateway.doctor_spool.PROMPT_SECONDS", -1.0)
    monkeypatch.setattr("gateway.doctor_spool.WATCHED_SECONDS", 0.2)
    with pytest.raises(Wrong, match=r"nobody drains it: is salon serve running"):
        spool_line(events)
    spool.set_aside(1, "larger than the broker takes")
    with pytest.raises(Wrong, match=r"1 events that Kafka does not take .* the first: larger than the broker takes; .*salon replay list"):
        spool_line(events)


def test_a_newer_an_older_and_an_empty_warehouse(address: KafkaAddress, tmp_path: Path) -> None:
    def look(url: str) -> Finding:
        first, *rest = warehouse_findings(url, address, kafka_answers=False)
        assert first.part == "warehouse" and (first.ok or not [finding for finding in rest if finding.part == "reconciliation"])
        return first

    assert "run `salon migrate`" in look(f"chdb://{tmp_path}/wh").text
    warehouse = Warehouse.open(f"chdb://{tmp_path}/wh")
    warehouse.migrate()
    warehouse.query("ALTER TABLE schema_migrations DELETE WHERE version > 1 SETTINGS mutations_sync = 2")
    warehouse.close()
    older = look(f"chdb://{tmp_path}/wh")
    assert not older.ok and "has schema version 1, this Salon needs" in older.text and "run `salon migrate`" in older.text
    warehouse = Warehouse.open(f"chdb://{tmp_path}/wh")
    warehouse.query("INSERT INTO schema_migrations SELECT 99, 'from the future', now64(6)")
    warehouse.close()
    newer = look(f"chdb://{tmp_path}/wh")
    assert not newer.ok and "schema version 99" in newer.text and "upgrade Salon here" in newer.text


def test_what_is_missing_and_a_range_that_waits_too_long(address: KafkaAddress, tmp_path: Path) -> None:
    url = f"chdb://{tmp_path}/wh"
    warehouse = Warehouse.open(url)
    warehouse.migrate()
    warehouse.close()
    made = likes(4)
    produce(address, made)
    sink_all(address, url)
    warehouse = Warehouse.open(url)
    warehouse.query("DELETE FROM events WHERE event_id = {id:UUID}", {"id": str(made[2].event_id)})
    warehouse.query("ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 2")
    warehouse.close()
    at = TopicPartition(address.topic, 0)
    consumer = open_consumer(address, group=address.group)
    note = write_note(Note(end=9, at_ms=time.time_ns() // 1_000_000 - 60_000))
    consumer.commit({at: OffsetAndMetadata(consumer.committed(at) or 0, note, -1)})
    consumer.close()
    found = {finding.part: finding for finding in warehouse_findings(url, address, kafka_answers=True)}
    assert wrong(found) == {"dedup window", "reconciliation"}
    assert "% of the window: past it" in found["dedup window"].text and "reports stay right" in found["dedup window"].text
    assert f"1 missing: {made[2].event_id}" in found["reconciliation"].text and "h UTC" in found["reconciliation"].text


def test_a_local_log_says_nothing_of_kafka(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "salon.toml"
    path.write_text(f'[variants.base]\nmodel = "{model}"\nsteps = 2\n[routes.hero]\nserve = "base"\n')
    log = LocalLog(tmp_path / "var/events")
    log.submit([control_event("", "", "configure", "me", "", {})]).result(10)
    log.close()
    assert [finding.part for finding in examine(path)] == ["config", "keys", "events", "warehouse", "images", "registry", "variant base"]


def test_json_has_one_object_per_line_of_text(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from salon.cli import main

    path = tmp_path / "salon.toml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        path.write_text(
            f'[events]\nlog = "kafka://me:secret-word@127.0.0.1:{taken.getsockname()[1]}/?security_protocol=SASL_PLAINTEXT"\n'
            f'[variants.base]\nmodel = "{model}"\nsteps = 2\n[routes.hero]\nserve = "base"\n'
        )
        assert main(["doctor", "--config", str(path), "--format", "json"]) == 1
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert said["ok"] is False and [f["part"] for f in said["findings"] if not f["ok"]] == ["kafka", "warehouse"]
    assert "secret-word" not in captured.out + captured.err
