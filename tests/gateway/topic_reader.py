"""What is in a topic, read with librdkafka: another client than the one that wrote it."""

import json
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from kafka.admin import KafkaAdminClient


class Record(NamedTuple):
    partition: int
    offset: int
    key: bytes | None
    value: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        body: dict[str, Any] = json.loads(self.value)
        return body.get("events", [body])


def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Every record that is there now, partition by partition, in order."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "topic-reader", "enable.auto.commit": False})
    try:
        partitions = [
            TopicPartition(topic, number, OFFSET_BEGINNING) for number in consumer.list_topics(topic, 10).topics[topic].partitions
        ]
        ends = {part.partition: consumer.get_watermark_offsets(part, timeout=10) for part in partitions}
        left = sum(high - low for low, high in ends.values())
        consumer.assign(partitions)
        records = []
        while left > 0:
            message = consumer.poll(10)
            assert message is not None, f"{topic} says that it holds {left} more records, and none comes"
            assert message.error() is None, message.error()
            # What came after the ends were asked for does not count towards them.
            if message.offset() < ends[message.partition()][1]:
                records.append(Record(message.partition(), message.offset(), message.key(), message.value()))
                left -= 1
        return sorted(records, key=lambda record: record[:2])
    finally:
        consumer.close()


def ids_in(records: list[Record]) -> list[str]:
    return [event["event_id"] for record in records for event in record.events]


def make_topic(bootstrap: str, topic: str, **configs: str) -> None:
    """A topic of four partitions."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        shape = {"num_partitions": 4, "replication_factor": 1, "configs": named}
        admin.create_topics({topic: shape}, wait_for_metadata=True)
    finally:
        admin.close()


def delete_topic(bootstrap: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics([topic])
    finally:
        admin.close()
