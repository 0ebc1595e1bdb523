"""`salon migrate`: creates or updates the log, its topics where it is Kafka, and the tables."""

import argparse
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.event_log import open_log
from analytics.kafka.topics import ensure_topics
from analytics.settings import Document, analytics_settings
from analytics.warehouse.client import Retention, Warehouse


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _run(arguments: argparse.Namespace) -> int:
    settings = analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))
    kafka = settings.events.kafka
    made = ensure_topics(kafka) if kafka else []
    if kafka is None:
        open_log(settings.events.log).close()
    warehouse = Warehouse.open(settings.warehouse.url)
    try:
        kept = settings.warehouse
        applied = warehouse.migrate(Retention(events_days=kept.events_days, units_days=kept.units_days))
    finally:
        warehouse.close()
    if arguments.format == "json":
        print(msgspec.json.encode({"log": settings.events.log, "created": made, "warehouse": warehouse.shown, "applied": applied}).decode())
    else:
        for name in made:
            print(f"created topic {name}")
        if kafka:
            print(f"{kafka.shown} has its topics")
        for name in applied:
            print(f"applied {name}")
        print(f"{warehouse.shown} is up to date")
    return 0


COMMAND = Command(
    "Creates or updates the event log or its topics, and the warehouse's tables; again: changes nothing.", "salon migrate", _arguments, _run
)
