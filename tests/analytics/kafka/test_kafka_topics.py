"""Topics on a real broker: made once, compared by number, known again by id; Kafka's own tools read what our producer wrote."""

import contextlib
import itertools
import json
from pathlib import Path

import kafka_jars
import msgspec
import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import NoOffsetForPartitionError
from local_kafka import LocalKafka

from analytics import migrate
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.clients import open_admin, open_consumer, open_producer
from analytics.kafka.topics import TopicDiffers, TopicMissing, check_topics, ensure_topics, topic_id
from salon.cli import main


def changed(address: KafkaAddress, **fields: object) -> KafkaAddress:
    return msgspec.structs.replace(address, **fields)


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return parse_kafka(kafka_url, {})


def test_missing_topics_are_named_then_made_once(address: KafkaAddress) -> None:
    with pytest.raises(TopicMissing, match=rf"no topic '{address.topic}'; run `salon migrate`"):
        check_topics(address)
    assert ensure_topics(address) == [address.topic, address.dead_letter_topic, address.control_topic]
    facts = check_topics(address)
    assert {name: fact.partitions for name, fact in facts.items()} == {
        address.topic: 4,
        address.dead_letter_topic: 1,
        address.control_topic: 1,
    }
    assert ensure_topics(address) == []
    assert check_topics(address) == facts
    with contextlib.closing(open_admin(address)) as admin:
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in facts]
        configs = admin.describe_configs(asked, config_filter="all")["topic"]
    values = {name: {key: entry["value"] for key, entry in config.items()} for name, config in configs.items()}
    assert values[address.control_topic]["cleanup.policy"] == "compact"
    for name in (address.topic, address.dead_letter_topic):
        assert (values[name]["cleanup.policy"], values[name]["retention.ms"]) == ("delete", str(168 * 3600 * 1000))


def test_other_partitions_are_refused_with_both_numbers_and_nothing_is_changed(address: KafkaAddress) -> None:
    ensure_topics(address)
    with pytest.raises(TopicDiffers, match=r"has 4 partitions and .* partitions=6; set partitions=4 in .*, or add some .*--partitions 6"):
        ensure_topics(changed(address, partitions=6))
    with pytest.raises(
        TopicDiffers, match=r"has 4 partitions and the configuration says partitions=3; set partitions=4 in \[events\] log$"
    ):
        check_topics(changed(address, partitions=3))
    assert check_topics(address)[address.topic].partitions == 4


def test_a_control_topic_must_keep_one_order_and_the_last_word(address: KafkaAddress) -> None:
    with contextlib.closing(open_admin(address)) as admin:
        admin.create_topics({f"{address.topic}.two": {"num_partitions": 2, "replication_factor": 1}})
        admin.create_topics({f"{address.topic}.plain": {"num_partitions": 1, "replication_factor": 1}})
    with pytest.raises(TopicDiffers, match=r"has 2 partitions and needs exactly 1.*control_topic="):
        ensure_topics(changed(address, control_topic=f"{address.topic}.two"))
    with pytest.raises(TopicDiffers, match=r"has cleanup.policy=delete and needs compact.*run kafka-configs.sh --alter"):
        ensure_topics(changed(address, control_topic=f"{address.topic}.plain"))


def test_more_copies_than_brokers_are_refused_with_the_number(address: KafkaAddress) -> None:
    with pytest.raises(OSError, match=rf"refuses to create topic '{address.topic}': replication_factor=15 needs as many brokers"):
        ensure_topics(changed(address, replication_factor=15))


def test_a_topic_made_again_is_another_one(address: KafkaAddress) -> None:
    ensure_topics(address)
    before = check_topics(address)
    assert topic_id(address, address.topic) == before[address.topic].topic_id
    with contextlib.closing(open_admin(address)) as admin:
        admin.delete_topics([address.topic])
    with pytest.raises(TopicMissing, match=address.topic):
        topic_id(address, address.topic)
    assert ensure_topics(address) == [address.topic]
    after = check_topics(address)
    assert after[address.topic].topic_id != before[address.topic].topic_id
    assert after[address.control_topic] == before[address.control_topic]


@pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip", "none"])
def test_kafkas_own_consumer_reads_what_we_wrote(address: KafkaAddress, compression: str) -> None:
    address = changed(address, compression=compression)
    ensure_topics(address)
    producer = open_producer(address)
    wrote = [(f"unit-{i}", f'{{"event_id": "{i}", "text": "größe ✓ {"x" * 200}"}}') for i in range(50)]
    sent = [producer.send(address.topic, key=key.encode(), value=value.encode()) for key, value in wrote]
    producer.flush(10)
    assert {record.get(1).partition for record in sent} == {0, 1, 2, 3}
    producer.close()
    if compression != "zstd":
        # One run of Java's tools is enough; the other codecs are read back by our own consumer.
        assert sorted(read(address, 50)) == sorted((key.encode(), value.encode()) for key, value in wrote)
        return
    words = ["--bootstrap-server", address.brokers[0], "--topic", address.topic]
    told = kafka_jars.run(
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *words, "--from-beginning", "--max-messages", "50", "--timeout-ms", "20000", "--formatter-property", "print.key=true",
    )  # fmt: skip
    assert sorted(tuple(line.split("\t")) for line in told.stdout.splitlines()) == sorted(wrote), told.stderr
    offsets = kafka_jars.run("org.apache.kafka.tools.GetOffsetShell", *words)
    assert sum(int(line.rpartition(":")[2]) for line in offsets.stdout.split()) == 50


def read(address: KafkaAddress, count: int) -> list[tuple[bytes, bytes]]:
    consumer = open_consumer(address, group=None, auto_offset_reset="earliest", consumer_timeout_ms=15_000)
    consumer.assign([TopicPartition(address.topic, partition) for partition in range(address.partitions)])
    with contextlib.closing(consumer):
        return [(record.key, record.value) for record in itertools.islice(consumer, count)]


def test_a_consumer_never_jumps_and_never_commits_by_itself(address: KafkaAddress) -> None:
    ensure_topics(address)
    with contextlib.closing(open_producer(address)) as producer:
        producer.send(address.topic, b"one", partition=0).get(10)
    at = TopicPartition(address.topic, 0)
    with contextlib.closing(open_consumer(address, group=address.group)) as consumer:
        consumer.assign([at])
        with pytest.raises(NoOffsetForPartitionError):
            for _ in range(20):
                consumer.poll(500)
        consumer.seek(at, 0)
        while not consumer.poll(500):
            pass
    with contextlib.closing(open_consumer(address, group=address.group)) as consumer:
        assert consumer.committed(at) is None


def configured(folder: Path, log: str) -> list[str]:
    (folder / "salon.toml").write_text(f'[events]\nlog = "{log}"\n[warehouse]\nurl = "chdb://warehouse"\n', "utf-8")
    return ["migrate", "--config", str(folder / "salon.toml")]


def test_salon_migrate_makes_the_topics_and_says_so(kafka_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = parse_kafka(kafka_url, {})
    words = configured(tmp_path, kafka_url)
    assert main(words) == 0
    told = capsys.readouterr().out
    for name in (address.topic, address.dead_letter_topic, address.control_topic):
        assert f"created topic {name}\n" in told
    assert f"{address.shown} has its topics\n" in told
    assert main([*words, "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["log"], again["created"], again["applied"]) == (address.shown, [], [])
    assert main(configured(tmp_path, kafka_url.replace("partitions=4", "partitions=5"))) == 1
    assert "has 4 partitions and the configuration says partitions=5" in capsys.readouterr().err
    assert migrate.COMMAND.example == "salon migrate"


def test_salon_migrate_says_why_kafka_is_out_of_reach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = LocalKafka(tmp_path / "never-started").bootstrap
    assert main(configured(tmp_path, f"kafka://{dead}/")) == 1
    assert f"Kafka broker {dead}: refuses the connection: nothing listens on that port" in capsys.readouterr().err


def test_three_brokers_acknowledge_with_one_of_them_dead(kafka_here: None, tmp_path: Path) -> None:
    cluster = LocalKafka(tmp_path / "three", brokers=3)
    try:
        address = parse_kafka(f"kafka://{cluster.start().bootstrap}/?partitions=3&replication_factor=3", {})
        assert len(ensure_topics(address)) == 3
        producer = open_producer(address, delivery_timeout_ms=30_000)
        first = [producer.send(address.topic, b"all there", partition=n) for n in range(3)]
        assert [sent.get(20).offset for sent in first] == [0, 0, 0]
        cluster.kill(2)
        second = [producer.send(address.topic, b"one is dead", partition=n) for n in range(3)]
        assert [sent.get(30).offset for sent in second] == [1, 1, 1]
        producer.close()
        assert sorted(read(address, 6)) == sorted([(None, b"all there")] * 3 + [(None, b"one is dead")] * 3)
    finally:
        for n in (1, 2, 3):
            cluster.kill(n)
