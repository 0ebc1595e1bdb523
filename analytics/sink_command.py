"""`salon sink`: keeps the warehouse in step with the event log, local or Kafka."""

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.event_log import open_log
from analytics.kafka import sink_service
from analytics.kafka.reconcile_once import period, reconcile_once
from analytics.settings import Document, analytics_settings
from analytics.sink import BATCH, Sink, SinkThread
from analytics.warehouse.client import OutOfReach, Warehouse

POLL_SECONDS = 1.0
MAX_PAUSE_SECONDS = 10.0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="move what is there, then end")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve Prometheus metrics there (Kafka only)")
    parser.add_argument("--reconcile", action="store_true", help="compare Kafka and warehouse once, move nothing; exit 1: they differ")
    parser.add_argument("--hours", type=float, default=24.0, help="with --reconcile: what was written in so many last hours (24)")
    parser.add_argument("--reconcile-every", metavar="PERIOD", default="1h", help="while running, as --reconcile: 30m, 1h, never (1h)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _run(arguments: argparse.Namespace) -> int:
    settings = analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))
    kafka = settings.events.kafka
    metrics = _endpoint(arguments.metrics) if arguments.metrics else None
    every_seconds = period(arguments.reconcile_every)
    if not 0 < arguments.hours < 100_000:
        raise ValueError(f"--hours is {arguments.hours}; give a positive number of hours")
    if kafka is not None:
        url = settings.warehouse.url
        warehouse = Warehouse.open(url) if arguments.reconcile else _open(url, patient=not arguments.once)
        try:
            if arguments.reconcile:
                return reconcile_once(kafka, warehouse, arguments.hours, arguments.format)
            if arguments.once:
                return sink_service.drain_once(kafka, warehouse, arguments.format)
            return sink_service.run(kafka, warehouse, arguments.format, metrics, every_seconds)
        finally:
            warehouse.close()
    if metrics is not None:
        raise ValueError("--metrics: a sink of a local log has none; they are the gateway's, at its /metrics")
    if arguments.reconcile:
        raise ValueError("--reconcile compares Kafka with the warehouse, and [events] log is local: that sink notes its own position")
    log = open_log(settings.events.log)
    try:
        warehouse = _open(settings.warehouse.url, patient=not arguments.once)
        try:
            sink = Sink(log, warehouse)
            return _drain_once(sink, arguments.format) if arguments.once else _drain_for_ever(SinkThread(sink), arguments.format)
        finally:
            warehouse.close()
    finally:
        log.close()


def _open(url: str, patient: bool) -> Warehouse:
    """The warehouse, with its tables. A worker waits for a server that is down; whoever asks once is told."""
    told, pause_seconds = "", POLL_SECONDS
    while True:
        try:
            warehouse = Warehouse.open(url)
            try:
                warehouse.migrate()
                return warehouse
            except BaseException:
                warehouse.close()
                raise
        except OutOfReach as error:
            if not patient:
                raise
            if str(error) != told:
                print(f"salon sink: {error}; trying again", file=sys.stderr, flush=True)
                told = str(error)
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, MAX_PAUSE_SECONDS)


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"--metrics is {text!r}; write HOST:PORT, for example 127.0.0.1:9464")
    return host.strip("[]"), int(port)


def _drain_once(sink: Sink, form: str) -> int:
    moved = 0
    while count := sink.drain(BATCH):
        moved += count
    _say(form, moved, sink, None)
    return 0


def _drain_for_ever(thread: SinkThread, form: str) -> int:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    thread.start()
    told, since = 0, time.monotonic()
    try:
        while not stop.wait(POLL_SECONDS):
            if thread.last_error is not None or (thread.moved != told and time.monotonic() - since >= POLL_SECONDS):
                _say(form, thread.moved, thread.sink, thread.last_error)
                told, since = thread.moved, time.monotonic()
    finally:
        thread.stop()
    _say(form, thread.moved, thread.sink, thread.last_error)
    return 0 if thread.last_error is None else 1


def _say(form: str, moved: int, sink: Sink, error: str | None) -> None:
    if form == "json":
        facts = {"moved": moved, "position": sink.position, "set_aside": sink.set_aside, "error": error}
        print(msgspec.json.encode(facts).decode(), flush=True)
    elif error is not None:
        print(f"salon sink: {error}", file=sys.stderr, flush=True)
    else:
        aside = f", {sink.set_aside} set aside" if sink.set_aside else ""
        print(f"{moved} events moved, at position {sink.position}{aside}", flush=True)


COMMAND = Command("Moves events from the log to the warehouse until stopped.", "salon sink --once", _arguments, _run)
