"""Several sinks share a topic: joins, leaves, kill -9 and SIGSTOP while events arrive, and every row is there once."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka_sink_cases import ids, likes, produce, raw_ids, stop_merges, topics, until

from analytics.events import Event
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import open_admin
from analytics.warehouse.client import Warehouse

PROCESS = Path(__file__).with_name("kafka_sink_process.py")


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


class Processes:
    """Sink processes, ended with the test."""

    def __init__(self, kafka_url: str, clickhouse_url: str) -> None:
        self._urls = (kafka_url, clickhouse_url)
        self.all: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        self.all.append(subprocess.Popen([sys.executable, str(PROCESS), *self._urls, *words], stdout=subprocess.PIPE, text=True))
        return self.all[-1]

    def ready(self, *words: str) -> subprocess.Popen[str]:
        process = self.start(*words)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def end(self) -> None:
        for process in self.all:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


@pytest.fixture
def processes(kafka_url: str, clickhouse_url: str) -> Iterator[Processes]:
    made = Processes(kafka_url, clickhouse_url)
    yield made
    made.end()


class Arrivals:
    """A thread that produces a few events every now and then."""

    def __init__(self, address: KafkaAddress, each: int = 150) -> None:
        self.made: list[Event] = []
        self._address, self._each, self._stopping = address, each, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.03):
            events = likes(self._each)
            produce(self._address, events, envelope=random.choice((1, 1, 10)))
            self.made += events

    def stop(self) -> list[Event]:
        self._stopping.set()
        self._thread.join()
        return self.made


def has_all(warehouse: Warehouse, address: KafkaAddress, count: int) -> bool:
    sql = "SELECT uniqExact(event_id) FROM events WHERE startsWith(log_name, {name:String})"
    return bool(warehouse.query(sql, {"name": f"kafka:{address.topic}:"})[0][0] >= count)


def test_sinks_that_come_and_go_and_die_put_every_row_in_once(address: KafkaAddress, warehouse: Warehouse, processes: Processes) -> None:
    chance = random.Random(4)
    arrivals = Arrivals(address)
    keeps = processes.ready()
    # Each dies at a point of its own; another takes its place and its partitions.
    deaths = [(point, str(chance.randint(1, 5))) for point in ("intent", "send", "insert", "done", "insert", "intent")]
    running = [processes.start(*deaths.pop(0)) for _ in range(3)]
    died = 0
    deadline = time.monotonic() + 40
    while running:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        for process in [p for p in running if p.poll() is not None]:
            assert process.returncode == -signal.SIGKILL
            died += 1
            running.remove(process)
            if deaths:
                running.append(processes.start(*deaths.pop(0)))
    # At any instant, too; and one that leaves in good order.
    extra = processes.ready()
    extra.kill()
    leaving = processes.ready()
    leaving.terminate()
    assert leaving.wait(20) == 0
    made = arrivals.stop()
    assert died == 6 and keeps.poll() is None
    until(lambda: has_all(warehouse, address, len(made)), 30)
    assert raw_ids(warehouse, address.topic) == ids(made)


def test_a_stopped_sink_that_wakes_after_its_partitions_moved_changes_nothing(
    address: KafkaAddress, warehouse: Warehouse, processes: Processes
) -> None:
    produce(address, made := likes(1_000))
    zombie = processes.start("stop-send", "3")
    until(lambda: stopped(zombie.pid))
    # While it holds a range that it has begun and not inserted, another takes over, with more than that range on its way.
    produce(address, more := likes(1_000))
    follower = processes.ready()
    until(lambda: has_all(warehouse, address, 2_000), 20)
    zombie.send_signal(signal.SIGCONT)
    # It inserts late, is refused its commit, joins again and takes its share of what comes.
    produce(address, last := likes(400))
    until(lambda: has_all(warehouse, address, 2_400), 20)
    until(lambda: members(address) == 2)
    time.sleep(0.5)
    assert zombie.poll() is None and follower.poll() is None
    assert raw_ids(warehouse, address.topic) == ids(made + more + last)


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T")


def members(address: KafkaAddress) -> int:
    admin = open_admin(address)
    try:
        return len(admin.describe_groups([address.group])[address.group]["members"])
    finally:
        admin.close()


def test_without_intents_and_tokens_the_same_counter_finds_rows_twice(
    address: KafkaAddress, warehouse: Warehouse, processes: Processes
) -> None:
    """The negative control: the same deaths, unprotected, must be seen."""
    produce(address, made := likes(2_000))
    dying = processes.start("insert", "2", "unprotected")
    assert dying.wait(30) == -signal.SIGKILL
    processes.start("", "1", "unprotected")
    until(lambda: has_all(warehouse, address, len(made)), 30)
    found = Counter(raw_ids(warehouse, address.topic))
    assert set(found) == set(ids(made))
    assert sum(found.values()) > len(made)
    # Reports count an event once all the same: the second layer.
    sql = "SELECT count() FROM events FINAL WHERE startsWith(log_name, {name:String})"
    assert warehouse.query(sql, {"name": f"kafka:{address.topic}:"}) == [(len(made),)]
