"""The control topic on a real broker: one writer at a time, followers, crashes between topic and spool, topics lost and changed."""

import functools
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.topics import ensure_topics
from analytics.local_log import LocalLog
from analytics.settings import Document
from gateway import changes
from gateway.changes import Draft
from gateway.config import Config, load
from gateway.control_kafka import KafkaControl
from gateway.control_log import ControlAway
from gateway.problems import Conflict, Problem

FILE = """
[variants.base]
model = "salon/emoji-64"
[variants.vivid]
extends = "base"
guidance = 4.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
"""
CONFIG = load(Document(None, FILE, {}))


class Replica:
    """A control log as a gateway has it, with a spool of its own."""

    def __init__(self, folder: Path, address: KafkaAddress) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.spool = LocalLog(folder / "spool")
        self.forgotten: dict[str, datetime] = {}
        self.control = KafkaControl(address, self.spool, folder / "experiments.json", self.forgotten.__setitem__, lambda: self.forgotten)
        self.control.start(lambda: None)

    def events(self) -> list[tuple[str, str]]:
        """Action and event id of what the spool has, in order."""
        return [(event.attributes["action"], str(event.event_id)) for _, event in self.spool.read(0, 10_000)]

    def close(self) -> None:
        self.control.close()
        self.spool.close()


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    found = parse_kafka(kafka_url, {})
    ensure_topics(found)
    return found


@pytest.fixture
def replicas(tmp_path: Path, address: KafkaAddress) -> Iterator[Callable[[str], Replica]]:
    made: list[Replica] = []

    def make(name: str) -> Replica:
        made.append(Replica(tmp_path / name, address))
        return made[-1]

    yield make
    for replica in made:
        replica.close()


def until(check: Callable[[], Any], seconds: float = 10.0) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := check():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


def adopt(draft: Draft, config: Config = CONFIG) -> None:
    changes.adopt(draft, config, "config", {}, first=True)


def act(action: str, config: Config = CONFIG) -> Callable[[Draft], None]:
    return lambda draft: changes.act(draft, config, "colours", action, "me", "", "vivid")


def weights(share: float, why: str = "") -> Callable[[Draft], None]:
    return lambda draft: changes.reweigh(draft, "colours", {"base": 1 - share, "vivid": share}, "me", why)


def topic_records(address: KafkaAddress) -> list[dict[str, Any]]:
    """What the control topic holds of experiments, by kafka-python alone."""
    partition = TopicPartition(address.control_topic, 0)
    consumer = KafkaConsumer(**address.arguments, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([partition])
    (end,) = consumer.end_offsets([partition]).values()
    found = []
    while consumer.position(partition) < end:
        for batch in consumer.poll(timeout_ms=200).values():
            found += [msgspec.json.decode(record.value) for record in batch if record.key.startswith(b"experiment:")]
    consumer.close()
    return found


def test_a_change_is_seen_by_the_others_within_a_second(replicas: Callable[[str], Replica]) -> None:
    one, two = replicas("one"), replicas("two")
    one.control.change(adopt)
    one.control.change(act("start"))
    for share in (0.1, 0.4, 0.9):
        writer, reader = random.sample([one, two], 2)
        began = time.monotonic()
        writer.control.change(weights(share))
        until(lambda: reader.control.ledger.lives["colours"].allocation.weights["vivid"] == share)
        assert time.monotonic() - began < 2
        assert reader.control.ledger.lives["colours"].allocation == writer.control.ledger.lives["colours"].allocation
    two.control.change(act("ship"))
    until(lambda: one.control.ledger.shipped.get("hero"))
    assert one.control.ledger.shipped == two.control.ledger.shipped
    assert sorted(action for action, _ in one.events() + two.events()) == ["create", "ship", "start", "weights", "weights", "weights"]


STEP, CHANGES = 0.001, 60


def race(folder: Path, address: KafkaAddress, seed: int, accepted: Any) -> None:
    """One process: small steps of the weights upon what is there, pauses and resumptions where the state allows them."""
    replica, chance = Replica(folder, address), random.Random(seed)

    def step(draft: Draft) -> None:
        share = draft.ledger.lives["colours"].allocation.weights["vivid"] + STEP
        changes.reweigh(draft, "colours", {"base": 1 - share, "vivid": share}, "me", "")

    steps = 0
    while steps < CHANGES:
        action = chance.choice(["weights", "weights", "weights", "pause", "resume"])
        try:
            replica.control.change(step if action == "weights" else act(action))
        except Conflict:
            continue
        steps += action == "weights"
    accepted.put((steps, [event for event in replica.events()]))
    replica.close()


def test_two_processes_that_change_the_same_experiment_lose_no_update(
    tmp_path: Path, address: KafkaAddress, replicas: Callable[[str], Replica]
) -> None:
    watcher = replicas("watcher")
    watcher.control.change(adopt)
    watcher.control.change(act("start"))
    watcher.control.change(weights(0.1))
    spawn = multiprocessing.get_context("spawn")
    accepted = spawn.Queue()
    processes = [spawn.Process(target=race, args=(tmp_path / f"racer-{n}", address, n, accepted)) for n in range(2)]
    for process in processes:
        process.start()
    results = [accepted.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]

    share = 0.1 + 2 * CHANGES * STEP
    until(lambda: watcher.control.ledger.lives["colours"].allocation.weights["vivid"] == pytest.approx(share, abs=1e-9))
    # The topic's own story: each record follows from the one before it, and no two follow from the same one.
    records = topic_records(address)
    assert len(records) >= 2 * CHANGES + 3
    for before, after in zip(records, records[1:], strict=False):
        (event,) = after["events"]
        was, now = before["life"], after["life"]
        if event["attributes"]["action"] == "weights":
            assert now["allocation"]["weights"]["vivid"] - was["allocation"]["weights"]["vivid"] == pytest.approx(STEP, abs=1e-9) or (
                was["allocation"]["weights"]["vivid"] == 0.5
            )
        else:
            assert now["allocation"] == was["allocation"]
            assert (was["state"], event["attributes"]["action"]) in {("draft", "start"), ("running", "pause"), ("paused", "resume")}
    # Every accepted change is in the spool of the one who made it, once, and nobody else's.
    spooled = [event_id for _, events in results for _, event_id in events] + [event_id for _, event_id in watcher.events()]
    assert sorted(spooled) == sorted(event["event_id"] for record in records for event in record["events"])
