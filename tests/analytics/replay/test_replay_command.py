"""`salon replay` and `salon sink` on Kafka, as commands: dead letters back into the log once, a spool without its gateway, backfill."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka_sink_cases import FAST, drain_all, ids, likes, produce, produce_raw, raw_ids, stop_merges, topics

from analytics.events import decode, encode
from analytics.kafka.address import KafkaAddress
from analytics.kafka.dead_letters import read_dead_letters, read_topic
from analytics.kafka.messages import message_value
from analytics.kafka.sink import KafkaSink
from analytics.local_log import LocalLog
from analytics.sink import Sink
from analytics.warehouse.client import Warehouse
from analytics.warehouse.generations import begin_generation, live_generation, swap_generation
from salon.cli import main


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return topics(kafka_url)


@pytest.fixture
def warehouse(clickhouse_url: str) -> Iterator[Warehouse]:
    opened = Warehouse.open(clickhouse_url)
    opened.migrate()
    stop_merges(opened)
    yield opened
    opened.close()


@pytest.fixture
def config(tmp_path: Path, kafka_url: str, clickhouse_url: str) -> Path:
    path = tmp_path / "salon.toml"
    path.write_text(f'[events]\nlog = "{kafka_url}"\n[warehouse]\nurl = "{clickhouse_url}"\n')
    return path


def salon(capsys: pytest.CaptureFixture[str], config: Path, *words: str) -> tuple[int, Any]:
    """Exit code, and standard output as JSON, or the words on standard error."""
    code = main([words[0], "--config", str(config), *words[1:], "--format", "json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if code == 0 else said.err


def drain(address: KafkaAddress, warehouse: Warehouse) -> KafkaSink:
    sink = KafkaSink(address, warehouse, linger_seconds=0.05, consumer_options=FAST)
    try:
        drain_all(sink)
    finally:
        sink.close()
    return sink


def test_dead_letters_are_listed_shown_and_sent_back_once(
    address: KafkaAddress, warehouse: Warehouse, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, late = likes(3), likes(2, kind="refused")
    with warehouse.connections.client() as client:
        client.command("ALTER TABLE events ADD CONSTRAINT no_refused CHECK kind != 'refused'")
    message = message_value([encode(e) for e in [good[0], late[0], good[1]]])
    produce_raw(address, [(b"k", message), (b"k", encode(late[1])), (b"k", b"{oops"), (b"k", encode(good[2]))], partition=1)
    drain(address, warehouse)
    assert raw_ids(warehouse, address.topic) == ids(good)
    origins = [f"{address.topic}/1/0/1", f"{address.topic}/1/1", f"{address.topic}/1/2"]

    code, said = salon(capsys, config, "replay", "list")
    assert code == 0 and said["total"] == 3
    assert {(x["origin"], x["attempt"], x["sent_at"]) for x in said["dead_letters"]} == {(origin, 1, None) for origin in origins}
    assert len(salon(capsys, config, "replay", "list", "--limit", "1")[1]["dead_letters"]) == 1
    code, shown = salon(capsys, config, "replay", "show", origins[0])
    assert decode(shown["value"].encode()) == late[0] and "no_refused" in shown["error"]

    # The reason is gone; the one that is no event at all stays what it is.
    with warehouse.connections.client() as client:
        client.command("ALTER TABLE events DROP CONSTRAINT no_refused")
    assert salon(capsys, config, "replay", "send", origins[0]) == (0, {"sent": [origins[0]], "left": []})
    assert salon(capsys, config, "replay", "send", origins[0]) == (0, {"sent": [], "left": [origins[0]]})
    assert salon(capsys, config, "replay", "send", "--all") == (0, {"sent": origins[1:], "left": []})
    assert salon(capsys, config, "replay", "send", "--all") == (0, {"sent": [], "left": []})
    drain(address, warehouse)
    assert raw_ids(warehouse, address.topic) == ids(good + late)
    letters = read_dead_letters(address)
    assert [x.sent_at is not None for x in letters[:3]] == [True] * 3
    # The second failure is a new letter, which knows of the first.
    assert (letters[3].value, letters[3].attempt, letters[3].sent_at) == (b"{oops", 2, None)


def test_wrong_words_and_unknown_letters_are_said(address: KafkaAddress, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, text in (
        (("send",), 2, "--all"),
        (("send", "x/0/1", "--all"), 2, "--all"),
        (("send", "x/0/1"), 1, "'x/0/1'"),
        (("show", "x/0/1"), 1, "salon replay list"),
        (("list", "--limit", "0"), 2, "--limit is 0"),
        (("backfill", "--from-offset", "-1"), 2, "-1"),
        (("backfill", "--from-time", "soon"), 2, "'soon'"),
        (("spool",), 1, "no spool"),
    ):
        found, said = salon(capsys, config, "replay", *words)
        assert (found, text in said) == (code, True), said


def test_a_spool_whose_gateway_is_gone_is_emptied_into_kafka(
    address: KafkaAddress, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = LocalLog(config.parent / "var/spool")
    sent, waiting = likes(10), likes(30)
    spool.submit(sent).result(10)
    spool.consumed(spool.end())
    spool.submit(waiting[:15]).result(10)
    spool.submit(huge := likes(1, attributes={"a": "x" * 2_000_000})).result(10)
    spool.submit(waiting[15:]).result(10)
    spool.close()
    assert salon(capsys, config, "replay", "spool") == (0, {"sent": 30, "set_aside": 1})
    assert salon(capsys, config, "replay", "spool") == (0, {"sent": 0, "set_aside": 0})
    found = [(record.key, decode(record.value)) for record in read_topic(address, address.topic)]
    assert sorted(str(event.event_id) for _, event in found) == ids(waiting)
    assert all(key == event.unit.encode() for key, event in found)
    said = salon(capsys, config, "replay", "list")[1]
    assert [x["origin"] for x in said["dead_letters"]] == ["spool/26"] and "MessageSizeTooLarge" in said["dead_letters"][0]["error"]
    assert decode(salon(capsys, config, "replay", "show", "spool/26")[1]["value"].encode()) == huge[0]


def test_letters_of_a_local_log_go_back_to_its_end(tmp_path: Path, clickhouse_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "salon.toml"
    config.write_text(f'[events]\nlog = "local:log"\n[warehouse]\nurl = "{clickhouse_url}"\n')
    warehouse = Warehouse.open(clickhouse_url)
    warehouse.migrate()
    log = LocalLog(tmp_path / "log")
    made = likes(5)
    log.submit(made).result(10)
    sink = Sink(log, warehouse)
    while sink.drain():
        pass
    log.set_aside(2, "refused")
    log.set_aside(4, "refused")
    assert [x["origin"] for x in salon(capsys, config, "replay", "list")[1]["dead_letters"]] == ["local/2", "local/4"]
    assert salon(capsys, config, "replay", "send", "local/2") == (0, {"sent": ["local/2"], "left": []})
    assert [position for position, _ in log.read(0, 10)] == [1, 3, 4, 5, 6]
    assert log.read(5, 10) == [(6, made[1])]
    assert salon(capsys, config, "replay", "send", "local/2")[0] == 1
    assert salon(capsys, config, "replay", "send", "--all")[1]["sent"] == ["local/4"]
    assert log.dead_letters() == [] and Sink(log, warehouse).drain() == 2
    # Backfill: what the log still has is read again, what it has no longer is kept.
    log.erase("nobody")
    code, done = salon(capsys, config, "replay", "backfill", "--from-offset", "5")
    assert (code, done["rows"], done["generation"]) == (0, 3, 2)
    sql = "SELECT toString(event_id) FROM events FINAL ORDER BY 1"
    assert [i for (i,) in warehouse.query(sql)] == ids(made)
    log.close()
    warehouse.close()


def test_backfill_reads_again_keeps_what_it_must_and_swaps_under_a_running_sink(
    address: KafkaAddress, warehouse: Warehouse, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, again = likes(300), likes(900)
    produce(address, old, partition=0)
    produce(address, again[:500], partition=1)
    produce(address, again[500:], partition=0, envelope=20)
    drain(address, warehouse)
    with warehouse.connections.client() as client:
        client.command("SYSTEM START MERGES events")
        warehouse.erase("u1")
        # Somebody's mistake: this is what a backfill is for.
        client.command("ALTER TABLE events DELETE WHERE unit = 'u2'", settings={"mutations_sync": 2})
        client.command("SYSTEM STOP MERGES events")
    stopping, live, late = threading.Event(), KafkaSink(address, warehouse, linger_seconds=0.05, consumer_options=FAST), likes(0)

    def run() -> None:
        while not stopping.is_set():
            produce(address, events := likes(40))
            late.extend(events)
            live.drain(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        code, done = salon(capsys, config, "replay", "backfill", "--from-offset", "100")
    finally:
        stopping.set()
        thread.join()
    drain_all(live)
    live.close()
    assert code == 0 and done["generation"] == 2 == live_generation(warehouse)
    # The first hundred of each partition were not read again, so what was deleted of them stays away.
    unread = {e.event_id for e in old[:100] + again[:100]}
    wanted = [e for e in old + again + late if (e.unit != "u1" or e in late) and not (e.unit == "u2" and e.event_id in unread)]
    assert raw_ids(warehouse, address.topic) == ids(wanted)
    assert not warehouse.query("EXISTS TABLE events_next")[0][0]


def test_a_backfill_that_was_cut_is_begun_anew_or_finished(
    address: KafkaAddress, warehouse: Warehouse, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(address, made := likes(60))
    drain(address, warehouse)
    # Cut while it read, with half of it in the new tables.
    begin_generation(warehouse)
    with warehouse.connections.client() as client:
        client.command("INSERT INTO events_next SELECT * FROM events LIMIT 20")
    assert salon(capsys, config, "replay", "backfill")[1]["rows"] == 60
    assert raw_ids(warehouse, address.topic) == ids(made)
    # Cut after the swap: what the new tables lack is still in the old ones.
    generation = begin_generation(warehouse)
    swap_generation(warehouse, generation)
    assert raw_ids(warehouse, address.topic) == []
    code, done = salon(capsys, config, "replay", "backfill", "--from-time", "2999-01-01")
    assert (code, done["rows"], done["kept"]) == (0, 0, 60)
    assert raw_ids(warehouse, address.topic) == ids(made)


def test_salon_sink_drains_once_and_names_what_is_wrong(
    address: KafkaAddress, warehouse: Warehouse, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(address, made := likes(500))
    code, said = salon(capsys, config, "sink", "--once")
    assert (code, said["moved"], said["lag_records"], said["error"]) == (0, 500, 0, None)
    assert raw_ids(warehouse, address.topic) == ids(made)
    assert salon(capsys, config, "sink", "--once")[1]["moved"] == 0
    text = config.read_text()
    for change, reason in (
        (("partitions=4", "partitions=7"), "has 4 partitions"),
        (("events?", "nothing?"), "salon migrate"),
    ):
        config.write_text(text.replace(*change))
        code, said = salon(capsys, config, "sink", "--once")
        assert code == 1 and reason in said, said
    config.write_text(text)
    assert salon(capsys, config, "sink", "--metrics", "9464")[0] == 2
    with warehouse.connections.client() as client:
        client.command("INSERT INTO schema_migrations VALUES (999, 'of the future', now())")
    code, said = salon(capsys, config, "sink", "--once")
    assert code == 1 and "999" in said
