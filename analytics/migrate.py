"""`salon migrate`: creates or updates the log, its topics where it is Kafka, and the tables."""

import argparse
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.event_log import open_log
from analytics.kafka.topics import ensure_topics
from analytics.settings import Document, WarehouseSection, analytics_settings
from analytics.warehouse.client import Retention, Warehouse, WarehouseLocked


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _run(arguments: argparse.Namespace) -> int:
    settings = analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))
    kafka = settings.events.kafka
    made = ensure_topics(kafka) if kafka else []
    text = arguments.format == "text"
    if kafka and text:
        # Said at once: the topics are there even when the warehouse cannot be reached.
        for name in made:
            print(f"created topic {name}")
        print(f"{kafka.shown} has its topics", flush=True)
    if kafka is None:
        open_log(settings.events.log).close()
    where, applied, state = _warehouse(settings.warehouse)
    if text:
        for name in applied:
            print(f"applied {name}")
        print(state)
    else:
        said = {"log": settings.events.log, "created": made, "warehouse": where, "applied": applied}
        print(msgspec.json.encode(said).decode())
    return 0


def _warehouse(section: WarehouseSection) -> tuple[str, list[str], str]:
    """Where the warehouse is, the migrations applied now, and a sentence on how it is."""
    try:
        warehouse = Warehouse.open(section.url)
    except WarehouseLocked:
        return (
            section.url,
            [],
            f"{section.url} is open in another process (salon serve or salon sink), which brought it up to date when it opened it",
        )
    try:
        applied = warehouse.migrate(Retention(events_days=section.events_days, units_days=section.units_days))
    finally:
        warehouse.close()
    return warehouse.shown, applied, f"{warehouse.shown} is up to date"


COMMAND = Command(
    "Creates or updates the event log or its topics, and the warehouse's tables; again: changes nothing.", "salon migrate", _arguments, _run
)
