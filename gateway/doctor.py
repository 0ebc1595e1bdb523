"""`salon doctor`: what is configured, reachable, lagging or wrong; one line each."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.event_log import open_log
from analytics.events import utc_now
from analytics.settings import Document, SettingsError
from gateway.config import Config, load
from gateway.doctor_engines import engine_findings
from gateway.doctor_kafka import kafka_findings
from gateway.doctor_spool import spool_line
from gateway.doctor_warehouse import warehouse_findings
from gateway.findings import Finding, check
from gateway.images_store import ImagesStore
from gateway.keys import read_keys
from serving.registry import Registry

SPOOL_SECONDS = 15.0


def examine(path: Path | None) -> Iterator[Finding]:
    """Look at each part; what depends on a broken part is not looked at."""
    try:
        config = load(Document.read(path))
    except SettingsError as error:
        yield Finding("config", False, str(error))
        return
    yield Finding(
        "config",
        True,
        f"{config.path or 'defaults'}: {len(config.variants)} variants, {len(config.routes)} routes, {len(config.experiments)} experiments",
    )
    yield check("keys", lambda: _keys(config))
    yield from _events_and_warehouse(config)
    yield check("images", lambda: _images(config))
    yield check("registry", lambda: f"{len(Registry(config.registry_url).manifests())} artefacts in {config.registry_url}")
    yield from engine_findings(config)


def _events_and_warehouse(config: Config) -> Iterator[Finding]:
    events, warehouse = config.analytics.events, config.analytics.warehouse
    if events.kafka is None:
        yield check("events", lambda: _events(config))
        yield check("warehouse", lambda: _warehouse(config))
        return
    yield check("spool", lambda: spool_line(events), SPOOL_SECONDS)
    sink = "`salon serve`" if warehouse.url.startswith("chdb://") else "`salon sink`"
    answers = False
    for finding in kafka_findings(events.kafka, config.token_key_path, sink=sink):
        answers = answers or (finding.part == "kafka" and finding.ok)
        yield finding
    yield from warehouse_findings(warehouse.url, events.kafka, kafka_answers=answers)


def _keys(config: Config) -> str:
    keys = read_keys(config.keys_path)
    if not keys:
        return f"none in {config.keys_path}; salon serve makes a development key at its first start"
    expired = [name for name, key in keys.items() if not key.valid(utc_now())]
    return f"{len(keys)} in {config.keys_path}" + (f", expired: {', '.join(expired)}" if expired else "")


def _events(config: Config) -> str:
    event_log = open_log(config.analytics.events.log)
    try:
        letters = event_log.dead_letters()
        if letters:
            dead, first = len(letters), letters[0]
            raise OSError(
                f"{dead} events were refused by the warehouse and set aside, the first at position {first.position}: {first.error}; "
                "look at them with `salon replay list`, and put them back with `salon replay send` once the reason is gone"
            )
        return f"{config.analytics.events.log} is at position {event_log.end()}"
    finally:
        event_log.close()


def _warehouse(config: Config) -> str:
    from analytics.sink import check_age
    from analytics.warehouse.client import Warehouse, WarehouseLocked

    try:
        warehouse = Warehouse.open(config.analytics.warehouse.url)
    except WarehouseLocked:
        return f"{config.analytics.warehouse.url} is in use by another process, as it should be while salon serve runs"
    try:
        event_log = open_log(config.analytics.events.log)
        try:
            check_age(event_log, warehouse)
            behind = event_log.end() - warehouse.position(event_log.name)
        except LookupError:
            return f"{warehouse.shown} has no tables yet; salon serve makes them"
        finally:
            event_log.close()
        return f"{warehouse.shown} is {behind} positions behind the log"
    finally:
        warehouse.close()


def _images(config: Config) -> str:
    ImagesStore(config.images_url).check()
    return f"{config.images_url} can be written"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["text", "json"], default="text")


def _run(arguments: argparse.Namespace) -> int:
    # The clients tell of every attempt; the findings say what it came to.
    for name in ("kafka", "clickhouse_connect"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    findings = []
    for finding in examine(Path(arguments.config) if arguments.config else None):
        findings.append(finding)
        if arguments.format == "text":
            print(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.part:<16} {finding.text}", flush=True)
    if arguments.format == "json":
        print(msgspec.json.encode({"findings": findings, "ok": all(f.ok for f in findings)}).decode())
    return 0 if all(finding.ok for finding in findings) else 1


COMMAND = Command(
    summary="Look at configuration, keys, event log, warehouse, images and models; exit 0 when all is well.",
    example="salon doctor --config salon.toml",
    arguments=_arguments,
    run=_run,
)
