"""`salon sink` on a Kafka log: one member of the group, until stopped or until the topic is drained."""

import signal
import sys
import threading
import time

import msgspec

from analytics.kafka.address import KafkaAddress
from analytics.kafka.sink import KafkaSink
from analytics.kafka.sink_metrics import SinkMetrics, serve_metrics
from analytics.kafka.sink_thread import KafkaSinkThread
from analytics.kafka.watch import SinkWatch
from analytics.rollup_thread import RollupThread
from analytics.warehouse.client import Warehouse

POLL_SECONDS = 1.0
REMIND_SECONDS = 30.0
RECONCILE_SECONDS = 3600.0
WAIT_SECONDS = 0.1


def drain_once(address: KafkaAddress, warehouse: Warehouse, form: str) -> int:
    """Move all that the topic holds now, together with the other sinks of the group. Raises OSError, LookupError."""
    sink = KafkaSink(address, warehouse, linger_seconds=WAIT_SECONDS)
    try:
        ends, moved = sink.ends(), 0
        while not sink.reached(ends):
            moved += sink.drain(WAIT_SECONDS)
        _say(form, sink, moved, None)
    finally:
        sink.close()
    return 0


def run(
    address: KafkaAddress,
    warehouse: Warehouse,
    form: str,
    metrics: tuple[str, int] | None,
    reconcile_seconds: float | None = RECONCILE_SECONDS,
) -> int:
    """Move events until SIGINT or SIGTERM; outages are waited out; Kafka and warehouse are compared every `reconcile_seconds`.
    Raises OSError when the metrics' port is taken."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    thread = KafkaSinkThread(KafkaSink(address, warehouse))
    watch = SinkWatch(address, warehouse, thread.sink.state, reconcile_seconds=reconcile_seconds)
    rollups = RollupThread(warehouse)
    server = serve_metrics(SinkMetrics(thread, watch), *metrics) if metrics else None
    for part in (thread, watch, rollups):
        part.start()
    try:
        _tell(thread, form, stop)
    finally:
        for part in (thread, rollups, watch):
            part.stop()
        if server is not None:
            server.shutdown()
    _say(form, thread.sink, thread.moved, thread.last_error)
    return 0 if thread.last_error is None else 1


def _tell(thread: KafkaSinkThread, form: str, stop: threading.Event) -> None:
    told, told_error, since = 0, None, 0.0
    while not stop.wait(POLL_SECONDS):
        moved, error, now = thread.moved, thread.last_error, time.monotonic()
        if error != told_error or moved != told or (error and now - since >= REMIND_SECONDS):
            _say(form, thread.sink, moved, error)
            told, told_error, since = moved, error, now


def _say(form: str, sink: KafkaSink, moved: int, error: str | None) -> None:
    state = sink.state
    if form == "json":
        facts = {
            "moved": moved,
            "partitions": sorted(state.partitions),
            "lag_records": state.lag_records(),
            "lag_seconds": round(state.lag_seconds(), 3),
            "set_aside": state.dead_letters,
            "replays": state.replays,
            "lost_to_retention": state.lost_to_retention,
            "error": error,
        }
        print(msgspec.json.encode(facts).decode(), flush=True)
    elif error is not None:
        print(f"salon sink: {error}", file=sys.stderr, flush=True)
    else:
        aside = f", {state.dead_letters} set aside (see `salon replay list`)" if state.dead_letters else ""
        lost = f", {state.lost_to_retention} LOST to retention" if state.lost_to_retention else ""
        print(f"{moved} events moved, {state.lag_records()} behind, {len(state.partitions)} partitions{aside}{lost}", flush=True)
