"""Apache Kafka on this machine: starts, keeps its data over a kill -9, refuses what it cannot do."""

import shutil
import subprocess
import sys
from pathlib import Path

import kafka_jars
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from local_kafka import LocalKafka

BROKER = Path(kafka_jars.__file__).with_name("broker.py")


def test_what_was_acknowledged_is_there_after_kill_9_and_the_port_is_the_same(kafka_here: None, tmp_path: Path) -> None:
    cluster = LocalKafka(tmp_path / "cluster")
    try:
        where = cluster.start().bootstrap
        KafkaAdminClient(bootstrap_servers=where).create_topics([NewTopic("kept", 1, 1)])
        producer = KafkaProducer(bootstrap_servers=where)
        producer.send("kept", b"before").get(10)
        cluster.kill()
        assert not cluster.running()
        cluster.start_one(1)
        producer.send("kept", b"after").get(30)
        producer.close()
        consumer = KafkaConsumer(bootstrap_servers=where, auto_offset_reset="earliest", consumer_timeout_ms=10_000)
        consumer.assign([TopicPartition("kept", 0)])
        assert [next(consumer).value, next(consumer).value] == [b"before", b"after"]
        consumer.close()
    finally:
        cluster.kill()
    assert LocalKafka(tmp_path / "cluster").bootstrap == where
    with pytest.raises(ValueError, match="other listeners or ports"):
        LocalKafka(tmp_path / "cluster", brokers=3)


def test_one_command_each_way(kafka_here: None, tmp_path: Path) -> None:
    port = LocalKafka(tmp_path / "free").bootstrap.rpartition(":")[2]
    words = ["--port", port, "--dir", str(tmp_path / "cluster")]
    try:
        up = subprocess.run([sys.executable, BROKER, "up", *words], capture_output=True, text=True, check=False)
        assert f"Kafka serves at 127.0.0.1:{port}" in up.stdout, up.stderr
        again = subprocess.run([sys.executable, BROKER, "up", *words], capture_output=True, text=True, check=False)
        assert f"Kafka serves at 127.0.0.1:{port}" in again.stdout, again.stderr
        other = ["--port", port, "--dir", str(tmp_path / "other")]
        refused = subprocess.run([sys.executable, BROKER, "up", *other], capture_output=True, text=True, check=False)
        assert refused.returncode == 1 and f"port {port} of Kafka broker 1 (client) is taken by another program" in refused.stderr
        admin = KafkaAdminClient(bootstrap_servers=f"127.0.0.1:{port}")
        assert len(admin.describe_cluster()["brokers"]) == 1
        admin.close()
    finally:
        subprocess.run([sys.executable, BROKER, "down", "--dir", words[-1]], capture_output=True, text=True, check=True)
    assert not LocalKafka(tmp_path / "cluster").running()


def test_a_machine_without_java_or_maven_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kafka_jars.KafkaMissing, match="`java` is not on the PATH: install a Java 17 runtime"):
        kafka_jars.command("kafka.Kafka")


def test_a_machine_without_maven_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "java").symlink_to(shutil.which("java") or pytest.skip("no java here"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(kafka_jars.KafkaMissing, match="`mvn` is not on the PATH: install Maven"):
        kafka_jars.command("kafka.Kafka")
