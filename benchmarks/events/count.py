"""What is in each place, read by other code than Salon's: Kafka by librdkafka, the warehouse by bare HTTP, the report by a recount."""

import json
import sys
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

FEEDBACK = frozenset({"view", "like", "score"})
KEPT = ("event_id", "kind", "unit", "arm", "experiment", "value", "flags", "occurred_at", "received_at")


@dataclass
class Verdict:
    """Figures by name, and what is wrong in words; `wrong` is empty when nothing was lost and nothing counted twice."""

    figures: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def expect(self, name: str, found: int, wanted: int = 0) -> None:
        """Note a figure; it is wrong unless it is as wanted."""
        self.figures[name] = found
        if found != wanted:
            self.wrong.append(f"{name}: {found}, expected {wanted}")


def acknowledged(ledgers: Sequence[Path]) -> dict[str, tuple[str, str, float | None]]:
    """event_id → (unit, kind, value) of what the clients were told is safe."""
    told = {}
    for ledger in ledgers:
        for line in ledger.read_text().splitlines():
            event_id, unit, kind, value = json.loads(line)
            told[event_id] = (unit, sys.intern(kind), value)
    return told


def in_kafka(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    """Every event of the topic from its beginning to its end, duplicates too, as the JSON that lies there."""
    return [slim(event) for value in messages(bootstrap, topic) for event in unpacked(value)]


def messages(bootstrap: str, topic: str) -> Iterator[bytes]:
    """The committed messages' values, in no order between partitions."""
    options = {
        "bootstrap.servers": bootstrap,
        "group.id": "salon-recount",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    }
    consumer = Consumer({**options, "enable.partition.eof": True})
    try:
        partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        open_ends = set(partitions)
        while open_ends:
            for message in consumer.consume(10_000, timeout=10):
                if message.error():
                    if message.error().name() != "_PARTITION_EOF":
                        raise RuntimeError(str(message.error()))
                    open_ends.discard(message.partition())
                else:
                    yield message.value()
    finally:
        consumer.close()


def unpacked(value: bytes) -> list[dict[str, Any]]:
    """The events of one message."""
    read = json.loads(value)
    return list(read.get("events", [read]))


def slim(event: Mapping[str, Any]) -> dict[str, Any]:
    """Only what the recount needs: a million whole events would fill the memory."""
    return {
        key: sys.intern(value) if type(value) is str and key != "event_id" else value
        for key in KEPT
        if (value := event.get(key)) is not None
    }


class Warehouse:
    """ClickHouse's HTTP interface, and nothing of ours between."""

    def __init__(self, port: int, database: str) -> None:
        self._url = f"http://127.0.0.1:{port}/?{urllib.parse.urlencode({'database': database})}"

    def rows(self, sql: str) -> list[list[str]]:
        """Tab-separated rows. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(self._url, data=f"{sql} FORMAT TSV".encode(), method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return [line.split("\t") for line in answer.read().decode().splitlines()]

    def command(self, sql: str) -> None:
        """A statement without rows. Raises urllib.error.URLError."""
        with urllib.request.urlopen(urllib.request.Request(self._url, data=sql.encode(), method="POST"), timeout=60):
            pass

    def number(self, sql: str) -> int:
        """The one number of a query."""
        return int(self.rows(sql)[0][0])


def compare(told: Mapping[str, tuple[str, str, float | None]], kafka: Sequence[Mapping[str, Any]], warehouse: Warehouse) -> Verdict:
    """Acknowledged against Kafka against the warehouse's raw rows, by event_id and by record."""
    verdict = Verdict()
    copies = Counter(event["event_id"] for event in kafka)
    verdict.figures["acknowledged"] = len(told)
    verdict.figures["events in Kafka"] = len(kafka)
    verdict.figures["of them copies (made by retries, harmless)"] = len(kafka) - len(copies)
    verdict.expect("acknowledged, but not in Kafka", sum(event_id not in copies for event_id in told))
    stored = {
        row[0]: (row[1], row[2], float(row[3]) if row[3] != "\\N" else None)
        for row in warehouse.rows("SELECT event_id, unit, kind, value FROM events")
    }
    rows = warehouse.number("SELECT count() FROM events")
    records = warehouse.number("SELECT uniqExact((log_name, log_partition, log_offset, event_id)) FROM events")
    verdict.figures["rows in the warehouse"] = rows
    verdict.expect("acknowledged, but not in the warehouse", sum(event_id not in stored for event_id in told))
    verdict.expect("Kafka records put in twice", rows - records)
    verdict.expect("in Kafka, but not in the warehouse", len(copies.keys() - stored.keys()))
    verdict.expect("in the warehouse, but not in Kafka", len(stored.keys() - copies.keys()))
    verdict.expect(
        "feedback that nobody was told is safe", sum(kind in FEEDBACK and key not in told for key, (_, kind, _) in stored.items())
    )
    verdict.expect("acknowledged, but stored with another content", sum(stored[key] != fact for key, fact in told.items() if key in stored))
    return verdict
