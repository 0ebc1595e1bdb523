"""Watching a sink: the deduplication window as ClickHouse counts it, metrics as Prometheus reads them, the hourly reconciliation."""

import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta

import pytest
from kafka_sink_cases import FAST, likes, produce, topics, until
from prometheus_client.parser import text_string_to_metric_families

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.dedup_window import DedupWindow, dedup_window, inserts_since
from analytics.kafka.sink import KafkaSink
from analytics.kafka.sink_metrics import SinkMetrics, serve_metrics
from analytics.kafka.sink_state import PartitionState, SinkState, now_ms
from analytics.kafka.sink_thread import KafkaSinkThread
from analytics.kafka.watch import SinkWatch
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import to_arrow


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    opened = Warehouse.open(f"chdb://{tmp_path_factory.mktemp('warehouse')}")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def address(kafka_url: str) -> KafkaAddress:
    return topics(kafka_url)


def read(port: int) -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(each.name, each.labels.get("partition", "")): each.value for family in families for each in family.samples}


def test_inserts_since_a_moment_are_counted_by_all_who_insert(warehouse: Warehouse) -> None:
    window = dedup_window(warehouse)
    assert (window.table, window.inserts, window.seconds) == ("events", 10_000, None)
    for number in range(3):
        warehouse.insert_exact(f"before-{number}", to_arrow(likes(2)))
    time.sleep(1.1)
    middle = utc_now()
    # Modification times of parts are whole seconds.
    time.sleep(1.1)
    for number in range(7):
        warehouse.insert_exact(f"since-{number}", to_arrow(likes(2)))
    assert inserts_since(warehouse, "events", middle) == 7
    warehouse.insert_exact("since-0", to_arrow(likes(2)))
    assert inserts_since(warehouse, "events", middle) == 7, "a token that is known takes no place"
    assert inserts_since(warehouse, "events", utc_now() - timedelta(days=1)) == 10
    warehouse.query("OPTIMIZE TABLE events FINAL")
    assert 7 <= inserts_since(warehouse, "events", middle) <= 12, "after a merge the parts of before are still listed for a while"


def test_the_window_is_used_up_by_inserts_or_by_age() -> None:
    plain, replicated, none = DedupWindow("events", 100, None), DedupWindow("events", 100, 1000), DedupWindow("events", 0, None)
    assert [plain.used_ratio(n, 1e9) for n in (0, 50, 100)] == [0, 0.5, 1]
    assert [replicated.used_ratio(10, age) for age in (0, 500, 2000)] == [0.1, 0.5, 2]
    assert none.used_ratio(0, 0) == 1, "a table without a window forgets at once"


def test_an_open_intent_shows_in_the_sample(address: KafkaAddress, warehouse: Warehouse) -> None:
    state = SinkState(partitions={0: PartitionState(intent_since_ms=now_ms() - 60_000)})
    watch = SinkWatch(address, warehouse, state, reconcile_seconds=None)
    watch.sample()
    assert watch.seen.window_used_ratio is not None and watch.seen.dirty_days is not None
    before = watch.seen.window_used_ratio
    for _ in range(20):
        warehouse.insert_exact(f"{utc_now()}", to_arrow(likes(1)))
    watch.sample()
    # A repeated insert that was dropped took a number too.
    assert before + 20 / 10_000 <= watch.seen.window_used_ratio <= before + 22 / 10_000
    state.partitions.clear()
    watch.sample()
    assert watch.seen.window_used_ratio == 0


def test_a_sink_shows_what_it_does_and_what_is_missing(address: KafkaAddress, warehouse: Warehouse) -> None:
    made = likes(50)
    produce(address, made, partition=1)
    sink = KafkaSink(address, warehouse, linger_seconds=0.05, consumer_options=FAST)
    thread = KafkaSinkThread(sink)
    watch = SinkWatch(address, warehouse, sink.state, reconcile_seconds=0.2, sample_seconds=0.1)
    server = serve_metrics(SinkMetrics(thread, watch), "127.0.0.1", 0)
    port = server.server_port
    try:
        thread.start()
        watch.start()
        until(lambda: read(port).get(("salon_reconcile_compared_events", "")) == 50 or watch.seen.last_error is not None)
        values = read(port)
        assert watch.seen.last_error is None
        assert values["salon_sink_rows_total", ""] == 50 and values["salon_sink_up", ""] == 1
        assert {p for name, p in values if name == "salon_sink_lag_events"} == {"0", "1", "2", "3"}
        for name in ("failures", "replayed_ranges", "dead_letters", "lost_to_retention"):
            assert values[f"salon_sink_{name}_total", ""] == 0
        assert values["salon_reconcile_missing_events", ""] == values["salon_reconcile_extra_events", ""] == 0
        assert abs(values["salon_reconcile_last_success_timestamp_seconds", ""] - time.time()) < 30
        assert values["salon_rollup_dirty_days", ""] >= 0 and values["salon_dedup_window_used_ratio", ""] >= 0
        # The next run begins where this one ended: nothing new, nothing compared.
        until(lambda: read(port)["salon_reconcile_compared_events", ""] == 0)
        more = likes(10)
        produce(address, more, partition=1)
        until(lambda: sink.state.rows == 60)
        watch.stop()
        warehouse.query("DELETE FROM events WHERE event_id = {id:UUID}", {"id": str(more[0].event_id)})
        # What is missing stays on show until it is there.
        later = SinkWatch(address, warehouse, sink.state, reconcile_seconds=None)
        assert [later.reconcile().missing for _ in range(2)] == [1, 1]
        shown = {each.name: each.value for family in SinkMetrics(thread, later).collect() for each in family.samples}
        assert shown["salon_reconcile_missing_events"] == 1
        assert later.seen.reconciliation is not None
        name = later.seen.reconciliation.log_name
        warehouse.insert_exact("again", to_arrow(more[:1], log_name=name, partition=1, offsets=[50]))
        assert [(each.missing, each.events) for each in (later.reconcile(), later.reconcile())] == [(0, 60), (0, 0)]
    finally:
        watch.stop()
        thread.stop()
        server.shutdown()
        server.server_close()


def test_a_warehouse_that_is_away_stops_no_watching(address: KafkaAddress, warehouse: Warehouse) -> None:
    away = Warehouse.open(warehouse.shown)
    away.close()
    sink = KafkaSink(address, away)
    watch = SinkWatch(address, away, sink.state, reconcile_seconds=None, sample_seconds=0.05)
    watch.start()
    until(lambda: watch.seen.failures > 2)
    watch.stop()
    assert "closed" in (watch.seen.last_error or "") and watch.seen.dirty_days is None
    values = {sample.name: sample.value for family in SinkMetrics(KafkaSinkThread(sink), watch).collect() for sample in family.samples}
    assert "salon_rollup_dirty_days" not in values and values["salon_watch_failures_total"] > 2
