"""`salon migrate`: creates or updates the log and the tables."""

import argparse
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.event_log import open_log
from analytics.settings import Document, analytics_settings
from analytics.warehouse.client import Warehouse


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _run(arguments: argparse.Namespace) -> int:
    settings = analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))
    open_log(settings.events.log).close()
    warehouse = Warehouse.open(settings.warehouse.url)
    try:
        applied = warehouse.migrate()
    finally:
        warehouse.close()
    if arguments.format == "json":
        print(msgspec.json.encode({"warehouse": warehouse.shown, "applied": applied}).decode())
    else:
        for name in applied:
            print(f"applied {name}")
        print(f"{warehouse.shown} is up to date")
    return 0


COMMAND = Command("Creates or updates the event log and the warehouse's tables; again: changes nothing.", "salon migrate", _arguments, _run)
