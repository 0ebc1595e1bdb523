"""A real gateway in front of a real broker: what was acknowledged is in the topic, whoever is killed, and images never wait."""

import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from local_kafka import LocalKafka
from topic_reader import ids_in, read_topic

from analytics.events import new_id
from analytics.kafka.address import parse_kafka
from analytics.kafka.topics import ensure_topics
from analytics.local_log import LocalLog

# The class is the conftest's, and a module of that name can be another folder's.
Server = Any
IMAGES, FEEDBACK = "/v1/images/generations", "/v1/feedback"
NO_WAREHOUSE = "clickhouse://127.0.0.1:1/salon"


def until(true: Callable[[], object], seconds: float = 30.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def configure(server: Server, log: str, warehouse: str = NO_WAREHOUSE, **events: object) -> None:
    text = server.config.read_text().partition("[events]")[0]
    settings = "".join(f"{name} = {value}\n" for name, value in events.items())
    server.config.write_text(f'{text}[events]\nlog = "{log}"\n{settings}[warehouse]\nurl = "{warehouse}"\n')


def draw(server: Server, unit: str) -> dict[str, Any]:
    answer = httpx.post(
        server.url + IMAGES,
        json={"model": "hero", "prompt": "a", "user": unit},
        headers={"Authorization": f"Bearer {server.key}"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def details(server: Server) -> dict[str, str]:
    found: dict[str, str] = httpx.get(server.url + "/health/ready").json()["details"]
    return found


def metric(server: Server, name: str) -> float:
    (line,) = (line for line in httpx.get(server.url + "/metrics").text.splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def waiting(server: Server) -> int:
    """Events in the spool that are not in Kafka, by a look from outside."""
    log = LocalLog(server.folder / "var/spool")
    try:
        return log.spool_state().events
    finally:
        log.close()


class Senders:
    """Clients with a retry queue: each sends its units' feedback in order, alone or in batches, until it is acknowledged."""

    def __init__(self, server: Server, tokens: dict[str, str], events: int) -> None:
        self.acknowledged: dict[str, list[str]] = defaultdict(list)
        self.problems: list[str] = []
        self._server, self._tokens, self._events = server, tokens, events
        self._threads = [threading.Thread(target=self._send, args=(unit,), daemon=True) for unit in tokens]
        for thread in self._threads:
            thread.start()

    @property
    def count(self) -> int:
        return sum(map(len, list(self.acknowledged.values())))

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        assert self.problems == []

    def _send(self, unit: str) -> None:
        chance, left = random.Random(unit), self._events
        client = httpx.Client(base_url=self._server.url, timeout=10)
        while left > 0:
            size = min(left, chance.choice((1, 1, 1, 7)))
            left -= size
            batch = [{"kind": "like", "event_id": str(new_id()), "feedback_token": self._tokens[unit]} for _ in range(size)]
            while True:
                try:
                    answer = client.post(FEEDBACK, json=batch[0] if size == 1 else {"events": batch})
                except httpx.TransportError:
                    time.sleep(0.05)
                    continue
                if answer.status_code == 202:
                    results = answer.json()["results"]
                    if any(result["status"] == "rejected" for result in results):
                        self.problems.append(answer.text)
                    self.acknowledged[unit] += [event["event_id"] for event in batch]
                    break
                if answer.status_code != 503:
                    self.problems.append(answer.text)
                    return
                time.sleep(0.05)
            time.sleep(chance.uniform(0, 0.004))
        client.close()


def likes_of(broker: LocalKafka, units: Iterable[str]) -> dict[str, list[str]]:
    """Ids of the likes in the topic by unit, in the order of their first arrival; each under its unit's key."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in read_topic(broker.bootstrap, "salon.events"):
        for event in record.events:
            if event["kind"] == "like" and event["unit"] in units:
                assert record.key == event["unit"].encode()
                found[event["unit"]].append(event["event_id"])
    return {unit: list(dict.fromkeys(ids)) for unit, ids in found.items()}


@pytest.fixture(scope="module")
def broker(kafka_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker of this file's own, to be killed; the first test starts it."""
    cluster = LocalKafka(tmp_path_factory.mktemp("broker"))
    yield cluster
    cluster.resume()
    cluster.kill()


@pytest.fixture(scope="module")
def server(broker: LocalKafka, tmp_path_factory: pytest.TempPathFactory, server_in: Callable[[Path], Server]) -> Iterator[Server]:
    server = server_in(tmp_path_factory.mktemp("kafka-gateway"))
    configure(server, f"kafka://{broker.bootstrap}/?partitions=4")
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop(signal.SIGKILL)


def test_without_kafka_and_warehouse_at_the_start_it_serves_and_spools_and_catches_up(server: Server, broker: LocalKafka) -> None:
    server.start()
    shown = draw(server, "ann")
    event_id = str(new_id())
    answer = httpx.post(server.url + FEEDBACK, json={"kind": "like", "event_id": event_id, "feedback_token": shown["feedback_token"]})
    assert answer.status_code == 202
    until(lambda: metric(server, "salon_spool_events") >= 3)
    assert metric(server, "salon_spool_bytes") > 300 and metric(server, "salon_forwarded_events_total") == 0
    assert metric(server, "salon_produce_errors_total") > 0
    said = details(server)
    assert f"{broker.bootstrap}: refuses the connection" in said["kafka"] and "events wait in the spool" in said["kafka"]
    assert "127.0.0.1" in said["warehouse"]
    broker.start()
    ensure_topics(parse_kafka(f"kafka://{broker.bootstrap}/?partitions=4", {}))
    until(lambda: "kafka" not in details(server) and metric(server, "salon_spool_events") == 0)
    assert metric(server, "salon_spool_oldest_seconds") == 0
    records = read_topic(broker.bootstrap, "salon.events")
    found = {event["event_id"]: event for record in records for event in record.events}
    assert len(found) == len(ids_in(records)) >= 3
    # What a request left behind is one message: exposures, generation, images.
    (request,) = (record for record in records if any(event["kind"] == "generation" for event in record.events))
    assert {event["kind"] for event in request.events} >= {"generation", "image"} and request.key == b"ann"
    (like,) = (event for event in found.values() if event["kind"] == "like")
    assert (like["event_id"], like["unit"], like["route"]) == (event_id, "ann", "hero")


def test_the_gateway_killed_in_mid_stream_loses_nothing_and_keeps_order(server: Server, broker: LocalKafka) -> None:
    until(lambda: "control" not in str(details(server)))
    tokens = {unit: draw(server, unit)["feedback_token"] for unit in ("bob", "cleo", "dan")}
    senders = Senders(server, tokens, 500)
    for share in (0.2, 0.5, 0.8):
        until(lambda share=share: senders.count >= share * 1500)  # type: ignore[misc]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        server.start()
    senders.join()
    until(lambda: waiting(server) == 0)
    assert likes_of(broker, tokens) == dict(senders.acknowledged)


def test_the_broker_killed_in_mid_stream_loses_nothing_and_keeps_order(server: Server, broker: LocalKafka) -> None:
    tokens = {unit: draw(server, unit)["feedback_token"] for unit in ("eve", "fay", "gil")}
    until(lambda: waiting(server) == 0)
    senders = Senders(server, tokens, 500)
    until(lambda: senders.count > 300)
    broker.kill()
    senders.join()
    assert waiting(server) > 500
    draw(server, "gil")
    broker.start()
    until(lambda: waiting(server) == 0)
    assert likes_of(broker, tokens) == dict(senders.acknowledged)


def test_a_full_or_too_old_spool_refuses_feedback_and_nothing_else(server: Server, broker: LocalKafka) -> None:
    broker.pause()
    server.stop(signal.SIGKILL)
    configure(server, f"kafka://{broker.bootstrap}/?partitions=4", spool_max_bytes=2_000_000)
    server.start()
    shown = draw(server, "hal")
    batch = [{"kind": "like", "feedback_token": shown["feedback_token"], "attributes": {"x": "y" * 400}}] * 300
    accepted = refused = 0
    # The first refusals make room: what was forwarded before goes.
    while refused < 10:
        answer = httpx.post(server.url + FEEDBACK, json={"events": batch}, timeout=30)
        if answer.status_code == 202:
            accepted += len(answer.json()["results"])
            continue
        refused += 1
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
    assert accepted * 900 > 1_200_000
    dropped = metric(server, "salon_events_dropped")
    for _ in range(20):
        draw(server, "hal")
    assert metric(server, "salon_events_dropped") == dropped == metric(server, "salon_events_held") == 0
    until(lambda: "feedback is refused" in details(server).get("spool", ""))
    # The events of those images went to disk: they survive a kill.
    server.stop(signal.SIGKILL)
    kept = LocalLog(server.folder / "var/spool")
    kinds = [event.kind for _, event in kept.read(kept.consumed_position(), 10_000)]
    kept.close()
    assert kinds.count("generation") >= 21 and kinds.count("like") == accepted
    configure(server, f"kafka://{broker.bootstrap}/?partitions=4", spool_max_age_hours=0.0005)
    server.start()
    old = httpx.post(server.url + FEEDBACK, json={"kind": "like", "feedback_token": shown["feedback_token"]}, timeout=30)
    assert old.status_code == 503 and int(old.headers["retry-after"]) >= 1
    draw(server, "hal")
    broker.resume()
    until(lambda: httpx.post(server.url + FEEDBACK, json={"kind": "like", "feedback_token": shown["feedback_token"]}).status_code == 202)
    until(lambda: waiting(server) == 0)
    assert server.stop() == 0
    assert len(likes_of(broker, ["hal"])["hal"]) == accepted + 1


def test_an_embedded_warehouse_is_filled_through_kafka_and_forgets(kafka: str, kafka_url: str, make_server: Callable[[], Server]) -> None:
    ensure_topics(parse_kafka(kafka_url, {}))
    server = make_server()
    configure(server, kafka_url, f"chdb://{server.folder}/var/warehouse")
    server.start()
    until(lambda: "colours" in httpx.get(server.url + "/v1/experiments", headers={"Authorization": f"Bearer {server.key}"}).text)
    with server.client() as http:
        until(lambda: not details(server))
        tokens = {unit: draw(server, unit)["feedback_token"] for unit in ("ida", "jon")}
        batch = [{"kind": "like", "event_id": str(new_id()), "feedback_token": token} for token in tokens.values() for _ in range(3)]
        for _ in range(2):
            assert http.post(FEEDBACK, json={"events": batch}).status_code == 202

        def likes() -> int:
            answer = http.get("/v1/experiments/colours/report")
            assert answer.status_code == 200, answer.text
            return int(answer.json()["events_read"])

        until(lambda: likes() >= 12)
        counted = likes()
        receipt = http.delete("/v1/units/ida").json()
        assert receipt["erased"]["event_rows"] >= 6 and "kafka_copies_expire_by" in receipt
        until(lambda: likes() < counted)
    assert server.stop() == 0
    stored = [event.get("unit") for record in read_topic(kafka, parse_kafka(kafka_url, {}).topic) for event in record.events]
    assert stored.count("jon") >= 6
