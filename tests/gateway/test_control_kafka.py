"""The control topic on a real broker: one writer at a time, followers, crashes between topic and spool, topics lost and changed."""

import asyncio
import itertools
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError

from analytics.event_log import LogFull
from analytics.kafka.address import KafkaAddress, parse_kafka
from analytics.kafka.topics import ensure_topics
from analytics.local_log import LocalLog
from analytics.settings import Document
from gateway import changes
from gateway.adopted import AdoptedFile
from gateway.changes import Draft
from gateway.config import Config, load
from gateway.control_kafka import KafkaControl
from gateway.control_log import ControlAway
from gateway.control_topic import CommitUnknown, ControlTopic
from gateway.experiments import Experiments
from gateway.problems import Conflict

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


Make = Callable[[str], Replica]


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    found = parse_kafka(kafka_url, {})
    ensure_topics(found)
    return found


@pytest.fixture
def replicas(tmp_path: Path, address: KafkaAddress) -> Iterator[Make]:
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


def test_a_change_is_seen_by_the_others_within_a_second(replicas: Make) -> None:
    one, two = replicas("one"), replicas("two")
    one.control.change(adopt)
    one.control.change(act("start"))
    for share in (0.1, 0.4, 0.9):
        writer, reader = random.sample([one, two], 2)
        began = time.monotonic()
        writer.control.change(weights(share))
        while reader.control.ledger.lives["colours"].allocation.weights["vivid"] != share:
            assert time.monotonic() - began < 2
            time.sleep(0.005)
        assert reader.control.ledger.lives["colours"].allocation == writer.control.ledger.lives["colours"].allocation
    two.control.change(act("ship"))
    until(lambda: one.control.ledger.shipped.get("hero"))
    assert one.control.ledger.shipped == two.control.ledger.shipped
    assert sorted(action for action, _ in one.events() + two.events()) == ["create", "ship", "start", "weights", "weights", "weights"]


STEP, CHANGES = 0.001, 45


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
    accepted.put((steps, replica.events()))
    replica.close()


def test_two_processes_that_change_the_same_experiment_lose_no_update(tmp_path: Path, address: KafkaAddress, replicas: Make) -> None:
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
    for before, after in itertools.pairwise(records):
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


@pytest.mark.parametrize("written", [True, False])
def test_a_commit_that_gives_no_answer_counts_once(replicas: Make, monkeypatch: pytest.MonkeyPatch, written: bool) -> None:
    replica, other = replicas("one"), replicas("two")
    replica.control.change(adopt)
    replica.control.change(act("start"))
    write, lost = ControlTopic.write, []

    def unanswered(topic: ControlTopic, records: dict[bytes, bytes], seconds: float) -> None:
        if written or lost:
            write(topic, records, seconds)
        if not lost:
            lost.append(records)
            topic.let_go()
            raise CommitUnknown("the connection broke")

    with monkeypatch.context() as patched:
        patched.setattr(ControlTopic, "write", unanswered)
        draft = replica.control.change(act("pause"))
    assert lost and draft.ledger.lives["colours"].state == "paused"
    until(lambda: other.control.ledger.lives["colours"].state == "paused")
    assert [action for action, _ in replica.events()] == ["create", "start", "pause"]
    with pytest.raises(Conflict):
        replica.control.change(act("pause"))


def test_a_change_that_the_spool_did_not_get_reaches_it_after_a_crash(
    tmp_path: Path, address: KafkaAddress, replicas: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = replicas("one")
    replica.control.change(adopt)
    with monkeypatch.context() as patched:
        patched.setattr(replica.spool, "submit", refuse)
        replica.control.change(act("start"))
        assert "1 control events wait" in (replica.control.problem or "")
        replica.control.keep_up()
        replica.control.close()
    assert [action for action, _ in replica.events()] == ["create"]
    replica.spool.close()
    again = replicas("one")
    assert [action for action, _ in until(lambda: len(again.events()) > 1 and again.events())] == ["create", "start"]
    assert again.control.problem is None and again.control.ledger.lives["colours"].state == "running"
    # Neither the snapshot nor the spool: the topic still knows who has to send what.
    again.close()
    (tmp_path / "one/experiments.json").unlink()
    assert len(until(lambda: replicas("one").events())) == 2


def refuse(*_: object, **__: object) -> Any:
    raise LogFull(1.0, "full")


def test_without_kafka_the_snapshot_is_served_and_nothing_changes(tmp_path: Path, address: KafkaAddress, replicas: Make) -> None:
    replica = replicas("one")
    replica.control.change(adopt)
    replica.control.change(act("start"))
    until(lambda: (tmp_path / "one/experiments.json").exists())
    replica.control.keep_up()
    replica.close()
    away = parse_kafka("kafka://127.0.0.1:1/", {})
    alone = Replica(tmp_path / "one", msgspec.structs.replace(away, control_topic=address.control_topic))
    fresh = Replica(tmp_path / "fresh", msgspec.structs.replace(away, control_topic=address.control_topic))
    try:
        assert alone.control.ledger.lives["colours"].state == "running" and not alone.control.caught_up
        said = until(lambda: "127.0.0.1:1" in (alone.control.problem or "") and alone.control.problem)
        assert "unreachable" in said and "the state of experiments is that of 20" in said and address.control_topic in said
        assert "no experiment is known" in (fresh.control.problem or "") and not fresh.control.ledger.lives
        began = time.monotonic()
        with pytest.raises(ControlAway, match="nothing has changed"):
            alone.control.change(act("pause"))
        assert time.monotonic() - began < 5
        alone.control.keep_up()
    finally:
        alone.close()
        fresh.close()
    back = replicas("one")
    back.control.change(act("pause"))
    assert back.control.ledger.lives["colours"].state == "paused" and back.control.carried == ""


def test_a_topic_deleted_and_made_again_is_filled_from_what_is_known(address: KafkaAddress, replicas: Make) -> None:
    one, two = replicas("one"), replicas("two")
    one.control.change(adopt)
    one.control.change(act("start"))
    one.control.change(weights(0.2))
    one.forgotten["ab" * 32] = datetime.now(UTC)
    until(lambda: two.control.ledger.lives and two.control.ledger.lives["colours"].allocation.weights["vivid"] == 0.2)
    first = one.control.ledger.log
    admin = KafkaAdminClient(**address.arguments)
    admin.delete_topics([address.control_topic])
    until(lambda: one.control.problem and two.control.problem)
    assert one.control.ledger.lives["colours"].state == "running"
    ensure_topics(address)
    admin.close()
    until(lambda: one.control.problem is None and two.control.problem is None, 20)
    assert one.control.ledger.log == two.control.ledger.log != first
    told = [replica.control.carried for replica in (one, two)]
    assert any("new and empty" in text and "1 experiments" in text for text in told)
    assert all(text == "" or "new and empty" in text for text in told)
    two.control.change(act("pause"))
    until(lambda: one.control.ledger.lives["colours"].state == "paused")
    assert one.control.ledger.lives["colours"].allocation.weights["vivid"] == 0.2
    # A gateway that knows nothing learns it from the topic, erasures too when they were known to who filled it.
    three = replicas("three")
    until(lambda: three.control.ledger.lives)
    assert three.control.ledger.lives == one.control.ledger.lives
    assert three.forgotten.keys() <= one.forgotten.keys()


def test_another_topic_with_experiments_rules_and_the_snapshot_is_put_aside(tmp_path: Path, address: KafkaAddress, replicas: Make) -> None:
    elsewhere = msgspec.structs.replace(address, control_topic=f"{address.control_topic}-two")
    ensure_topics(elsewhere)
    replica = replicas("one")
    replica.control.change(adopt)
    replica.control.change(act("start"))
    replica.close()
    before = (tmp_path / "one/experiments.json").read_bytes()
    other = Replica(tmp_path / "other", elsewhere)
    other.control.change(adopt)
    other.close()
    moved = Replica(tmp_path / "one", elsewhere)
    try:
        until(lambda: moved.control.carried)
        assert moved.control.ledger.lives["colours"].state == "draft"
        (aside,) = (tmp_path / "one").glob("experiments.kafka:*.json")
        assert aside.read_bytes() == before and str(aside) in moved.control.carried
    finally:
        moved.close()


def test_what_a_newer_version_wrote_is_neither_guessed_nor_overwritten(address: KafkaAddress, replicas: Make) -> None:
    replica = replicas("one")
    replica.control.change(adopt)
    (record,) = topic_records(address)
    record["life"]["declared"]["allocation_rule"] = "new"
    producer = KafkaProducer(**address.arguments)

    def send(key: bytes, value: bytes) -> None:
        producer.send(address.control_topic, key=key, value=value).get(10)

    send(b"policy:hero", b"of another kind")
    send(b"experiment:colours", msgspec.json.encode(record))
    assert "experiment:colours" in until(lambda: replica.control.problem)
    assert "upgrade" in (replica.control.problem or "") and replica.control.ledger.lives["colours"].state == "draft"
    with pytest.raises(ControlAway, match="upgrade"):
        replica.control.change(act("start"))
    del record["life"]["declared"]["allocation_rule"]
    send(b"experiment:colours", msgspec.json.encode(record))
    until(lambda: replica.control.problem is None)
    replica.control.change(act("start"))
    producer.close()


def test_a_missing_topic_is_named_with_the_fix(tmp_path: Path, kafka_url: str) -> None:
    replica = Replica(tmp_path / "one", parse_kafka(kafka_url, {}))
    try:
        assert "salon migrate" in until(lambda: "no topic" in (replica.control.problem or "") and replica.control.problem)
        with pytest.raises(ControlAway, match="salon migrate"):
            replica.control.change(adopt)
        ensure_topics(parse_kafka(kafka_url, {}))
        until(lambda: replica.control.problem is None)
        replica.control.change(adopt)
    finally:
        replica.close()


def test_a_token_key_is_compared_and_changes_where_a_gateway_was_given_another(tmp_path: Path, replicas: Make) -> None:
    def start(name: str, key: str) -> tuple[Experiments, Replica]:
        replica = replicas(name)
        made = Experiments(replica.control, replica.spool, AdoptedFile(tmp_path / name / "adopted.json"), CONFIG, key)
        until(lambda: replica.control.caught_up)
        asyncio.run(made.adopt(CONFIG))
        return made, replica

    one, _ = start("one", "aaaa")
    two, replica = start("two", "bbbb")
    assert "token key" not in one.problems and "bbbb" in two.problems["token key"] and "aaaa" in two.problems["token key"]
    assert one.lives == two.lives and set(one.lives) == {"colours"}
    # Its file was not the others', and stays so at each start: only a key that changes is meant for all.
    replica.close()
    two, replica = start("two", "bbbb")
    assert "token key" in two.problems
    replica.close()
    two, _ = start("two", "cccc")
    assert "token key" not in two.problems
    until(lambda: "cccc" in one.problems.get("token key", ""))


def test_what_nobody_knows_is_not_called_unchanged(replicas: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit came through, its answer did not, and then the broker was away: 503 must not say that nothing has changed."""
    replica = replicas("one")
    replica.control.change(adopt)
    write = ControlTopic.write

    def unanswered(topic: ControlTopic, records: dict[bytes, bytes], seconds: float) -> None:
        write(topic, records, seconds)
        topic.let_go()
        raise CommitUnknown("the connection broke")

    def away(topic: ControlTopic, seconds: float) -> None:
        if topic._producer is None:
            raise KafkaTimeoutError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(ControlTopic, "write", unanswered)
        patched.setattr(ControlTopic, "begin", away)
        with pytest.raises(ControlAway, match="look at the experiment before you ask again"):
            replica.control.change(act("start"))
    # It had: the follower finds it, and sends its event.
    until(lambda: replica.control.ledger.lives["colours"].state == "running")
    assert [action for action, _ in until(lambda: len(replica.events()) == 2 and replica.events())] == ["create", "start"]
