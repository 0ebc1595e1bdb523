"""Several real gateways on one control topic, one warehouse and one token key; and gateways whose broker is away."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition
from local_kafka import LocalKafka

from analytics.events import new_id
from analytics.kafka.address import parse_kafka
from analytics.kafka.messages import read_message
from analytics.kafka.topics import ensure_topics
from analytics.local_log import LocalLog
from analytics.warehouse.client import Warehouse

IMAGES = "/v1/images/generations"
UNITS = [f"unit-{number}" for number in range(1000)]
SALON = [sys.executable, "-c", "import sys; from salon.cli import main; sys.exit(main())"]


def until(check: Callable[[], Any], seconds: float = 15.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := check():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come true in time")


def arms_of(client: httpx.Client) -> dict[str, str | None]:
    answer = client.post("/v1/assignments", json={"route": "hero", "units": UNITS})
    assert answer.status_code == 200, answer.text
    return {item["unit"]: item["arm"] for item in answer.json()["assignments"]}


def join(server: Any, kafka_url: str, warehouse_url: str, shared: Path) -> Any:
    """Make a gateway one of several: the same topics, warehouse, pictures and token key."""
    text = server.config.read_text().replace("[gateway]", f'[gateway]\ntoken_key = "file:{shared}/token.key"', 1)
    text += f'\n[events]\nlog = "{kafka_url}"\n[warehouse]\nurl = "{warehouse_url}"\n[images]\nurl = "file://{shared}/images"\n'
    server.config.write_text(text)
    return server


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Runs `salon migrate`, then `salon sink` beside the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(config: Path) -> None:
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (tmp_path / "sink.log").open("ab") as log:
            subprocess.run([*SALON, "migrate", "--config", str(config)], check=True, env=environ, stdout=log, stderr=log)
            processes.append(subprocess.Popen([*SALON, "sink", "--config", str(config)], env=environ, stdout=log, stderr=log))

    yield start
    for process in processes:
        process.terminate()
        process.wait(30)


def test_two_gateways_are_one(make_server: Any, tmp_path: Path, kafka_url: str, clickhouse_url: str, sink: Callable[[Path], None]) -> None:
    """Started at once, each change on one is on the other within a second; a token and an erasure hold on both."""
    shared = tmp_path / "shared"
    shared.mkdir()
    one, two = (join(make_server(), kafka_url, clickhouse_url, shared) for _ in range(2))
    sink(one.config)
    one.start(wait=False)
    two.start(wait=False)
    for server in (one, two):
        server.wait_ready()
    with one.client() as first, two.client() as second:
        before = until(lambda: (found := arms_of(first)) == arms_of(second) and set(found.values()) == {"base", "vivid"} and found)

        def within_a_second(check: Callable[[], bool]) -> None:
            began = time.monotonic()
            while not check():
                assert time.monotonic() - began < 2.0, "not within a second (and one more for a busy machine)"
                time.sleep(0.01)

        changed = second.patch("/v1/experiments/colours", json={"weights": {"base": 0.3, "vivid": 0.7}, "why": "ramp"})
        assert changed.status_code == 200, changed.text
        after = arms_of(second)
        within_a_second(lambda: arms_of(first) == after)
        assert {(before[unit], after[unit]) for unit in UNITS if before[unit] != after[unit]} == {("base", "vivid")}
        assert first.get("/v1/experiments/colours").json() == second.get("/v1/experiments/colours").json()
        assert first.post("/v1/experiments/colours/pause", json={}).status_code == 200
        within_a_second(lambda: set(arms_of(second).values()) == {None})
        assert first.post("/v1/experiments/colours/pause", json={}).status_code == 409
        assert second.post("/v1/experiments/colours/resume", json={}).status_code == 200
        within_a_second(lambda: arms_of(first) == after)

        # What one gateway showed, the other takes feedback on; what one forgets, both have forgotten.
        made = first.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "olga", "n": 2}).json()
        like = {"kind": "like", "feedback_token": made["feedback_token"]}
        for client in (first, second):
            assert client.post("/v1/feedback", json=like).status_code == 202
        keyed = {"Idempotency-Key": str(new_id())}
        assert first.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "olga"}, headers=keyed).status_code == 200
        with contextlib.closing(Warehouse.open(clickhouse_url)) as warehouse:
            rows = "SELECT count() FROM {} WHERE unit = 'olga'"
            until(lambda: warehouse.query(rows.format("events"))[0][0] >= 8, 30)
            receipt = second.delete("/v1/units/olga").json()
            assert receipt["checked"] is True and receipt["erased"]["generations"] == 2 and receipt["erased"]["pictures"] == 3
            assert receipt["places"]["warehouse"]["events"] >= 8 and "exposures" in receipt["places"]["warehouse"]
            assert receipt["kafka_copies_expire_by"] > receipt["at"]
            within_a_second(lambda: first.post("/v1/feedback", json=like).status_code != 202)
            refused = first.post("/v1/feedback", json=like)
            assert refused.status_code == 404 and "erased" in refused.text
            assert first.get(f"/v1/images/{made['data'][0]['image_id']}").status_code == 404
            state = first.get("/health/ready").json()["details"]
            assert "control" not in state and "token key" not in state, state
            forgotten = one.folder / "var/state/erased.jsonl"
            until(lambda: forgotten.exists() and forgotten.read_text().splitlines()[-1].endswith("false]"))
            assert "olga" not in forgotten.read_text()  # no hash in hexadecimal can hold this name by chance
            with contextlib.closing(sqlite3.connect(one.folder / "var/state/answers.sqlite")) as answers:
                assert answers.execute("SELECT count(*) FROM answers").fetchone() == (0,)
            time.sleep(1.0)
            assert warehouse.query(rows.format("events")) == [(0,)] and warehouse.query(rows.format("exposures")) == [(0,)]

        assert first.post("/v1/experiments/colours/ship", json={"arm": "vivid", "why": "won"}).status_code == 200
        within_a_second(lambda: second.get("/v1/experiments").json()["routes"]["hero"]["serve"] == "vivid")
        shown = first.get("/v1/experiments").json()
    one.stop(signal.SIGKILL)
    one.start()
    with one.client() as first:
        assert first.get("/v1/experiments").json() == shown
    assert one.stop() == two.stop() == 0
    for server in (one, two):
        spool = LocalLog(server.folder / "var/spool")
        assert "ada" not in spool.units()
        spool.close()
    actions = controls(kafka_url)
    assert sorted(actions) == ["create", "create", "erase", "pause", "resume", "ship", "start", "weights"]


def controls(kafka_url: str) -> list[str]:
    """The actions of the control events that reached Kafka, each event once, by kafka-python alone."""
    address = parse_kafka(kafka_url, {})
    consumer = KafkaConsumer(**address.arguments, auto_offset_reset="earliest", enable_auto_commit=False)
    partitions = [TopicPartition(address.topic, n) for n in range(address.partitions)]
    consumer.assign(partitions)
    ends = consumer.end_offsets(partitions)
    found = {}
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for batch in consumer.poll(timeout_ms=200).values():
            for event in (event for record in batch for event in read_message(record.value)):
                if event.kind == "control":
                    found[event.event_id] = event
    consumer.close()
    return [event.attributes["action"] for event in sorted(found.values(), key=lambda event: event.occurred_at)]


def test_another_token_key_is_said_by_name(make_server: Any, tmp_path: Path, kafka_url: str, clickhouse_url: str) -> None:
    ensure_topics(parse_kafka(kafka_url, {}))
    one, two = (join(make_server(), kafka_url, clickhouse_url, tmp_path) for _ in range(2))
    two.config.write_text(two.config.read_text().replace("/token.key", "/other.key"))
    one.start()
    until(lambda: "adopting" not in httpx.get(f"{one.url}/health/ready").json()["details"])
    two.start()
    said = until(lambda: httpx.get(f"{two.url}/health/ready").json()["details"].get("token key"))
    assert "[gateway] token_key" in said and "token key" not in httpx.get(f"{one.url}/health/ready").json()["details"]
    keys = [(tmp_path / name).read_bytes() for name in ("token.key", "other.key")]
    assert not any(key.hex() in said for key in keys)


def test_gateways_without_their_broker(make_server: Any, tmp_path: Path, kafka_here: None) -> None:
    """Images go on, the state stays, a change is refused with Retry-After; a new gateway invents nothing and catches up."""
    cluster = LocalKafka(tmp_path / "kafka").start()
    kafka_url, warehouse_url = f"kafka://{cluster.bootstrap}/?partitions=2", f"chdb://{tmp_path}/warehouse"
    ensure_topics(parse_kafka(kafka_url, {}))
    one, late = (join(make_server(), kafka_url, warehouse_url, tmp_path) for _ in range(2))
    late.config.write_text(late.config.read_text().replace(warehouse_url, f"chdb://{tmp_path}/other"))
    try:
        one.start()
        with one.client() as first:
            assert first.patch("/v1/experiments/colours", json={"weights": {"base": 0.1, "vivid": 0.9}}).status_code == 200
            arms = arms_of(first)
            cluster.pause()
            said = until(lambda: first.get("/health/ready").json()["details"].get("control"), 30)
            assert "unreachable" in said and "the state of experiments is that of" in said
            began = time.monotonic()
            refused = first.patch("/v1/experiments/colours", json={"weights": {"base": 0.5, "vivid": 0.5}})
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1 and "nothing has changed" in refused.text
            assert time.monotonic() - began < 13
            assert first.delete("/v1/units/ada").status_code == 503
            assert first.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "u"}).status_code == 200
            assert arms_of(first) == arms
            changed = one.config.read_text().replace("base = 0.8, vivid = 0.2", "base = 0.6, vivid = 0.4")
            one.config.write_text(changed)
            assert "waits" in until(lambda: first.get("/health/ready").json()["details"].get("config"))
            one.stop(signal.SIGKILL)
        one.start()
        late.start()
        with one.client() as first, late.client() as second:
            assert arms_of(first) == arms
            assert set(arms_of(second).values()) == {None}
            assert "not adopted yet" in second.get("/health/ready").json()["details"]["adopting"]
            assert second.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "u"}).status_code == 200
            cluster.resume()
            until(lambda: arms_of(second) == arms, 40)
            until(lambda: "control" not in second.get("/health/ready").json()["details"], 30)
            until(lambda: first.delete("/v1/units/ada").status_code == 200, 40)
            assert second.get("/v1/experiments/colours").json()["weights"] == {"base": 0.1, "vivid": 0.9}
            until(lambda: second.get("/v1/experiments/colours-two").json()["weights"] == {"base": 0.6, "vivid": 0.4})
            assert msgspec.json.decode(second.get("/v1/experiments").content)["routes"]["hero"]["experiment"] == "colours"
    finally:
        for server in (one, late):
            if server.process is not None and server.process.poll() is None:
                server.stop()
        cluster.kill()
