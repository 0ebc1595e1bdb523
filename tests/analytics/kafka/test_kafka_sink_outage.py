"""A sink without its broker: started before it, bereft of it in mid-stream, and exact when it is back."""

import time
from pathlib import Path

import pytest
from kafka_sink_cases import FAST, ids, likes, produce, raw_ids, stop_merges, topics, until
from local_kafka import LocalKafka

from analytics.kafka.address import parse_kafka
from analytics.kafka.sink import KafkaSink
from analytics.kafka.sink_thread import KafkaSinkThread
from analytics.warehouse.client import Warehouse


@pytest.mark.usefixtures("kafka_here")
def test_a_sink_waits_for_a_broker_that_is_away_and_says_why(tmp_path: Path) -> None:
    cluster = LocalKafka(tmp_path / "kafka")
    url = f"kafka://{cluster.bootstrap}/events?partitions=4"
    warehouse = Warehouse.open(f"chdb://{tmp_path / 'warehouse'}")
    warehouse.migrate()
    stop_merges(warehouse)
    sink = KafkaSink(parse_kafka(url, {}), warehouse, linger_seconds=0.02, consumer_options=FAST)
    thread = KafkaSinkThread(sink, max_backoff_seconds=0.5)
    try:
        thread.start()
        until(lambda: thread.last_error is not None)
        assert "refuses the connection" in str(thread.last_error)
        cluster.start()
        address = topics(url)
        produce(address, first := likes(500))
        until(lambda: len(raw_ids(warehouse, "events")) == 500 and thread.last_error is None)
        cluster.kill()
        # Not at once, and not only when something is to be moved.
        until(lambda: "refuses the connection" in str(thread.last_error), 30)
        failures = thread.failures
        time.sleep(1)
        assert thread.failures > failures
        cluster.start()
        produce(address, second := likes(500))
        until(lambda: len(raw_ids(warehouse, "events")) >= 1000 and thread.last_error is None, 30)
    finally:
        thread.stop()
        warehouse_ids = raw_ids(warehouse, "events")
        warehouse.close()
        cluster.kill()
    assert warehouse_ids == ids(first + second)
