"""`salon report EXPERIMENT`: reads the warehouse, or the event log while a running gateway holds the embedded one."""

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.experiment import Experiment
from analytics.report.build import report_now
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text
from analytics.settings import AnalyticsSettings, Document, analytics_settings, nearest
from analytics.warehouse.address import parse_address
from analytics.warehouse.client import Warehouse
from analytics.warehouse.facts import experiment_names, read_definition
from analytics.warehouse.snapshot import open_readable


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="the name of an experiment, of the configuration or launched by a fine-tune round")
    parser.add_argument("--format", choices=("text", "json", "html"), default="text")
    parser.add_argument("--out", type=Path, metavar="F", help="write to this file instead of the terminal")
    parser.add_argument("--with-flagged", action="store_true", help="count flagged events (robots, wrong clocks, …) like any other")
    parser.add_argument("--as-of", metavar="T", help="as it stood then: an ISO 8601 time such as 2026-11-23T12:00Z (no zone: UTC)")


def run(arguments: argparse.Namespace) -> int:
    """Write the report. Raises ValueError (unknown experiment, wrong time or configuration), OSError (warehouse out of reach)."""
    as_of = parse_time(arguments.as_of) if arguments.as_of else None
    config = Path(arguments.config) if arguments.config else None
    report = read_report(arguments.experiment, config, as_of, flagged=arguments.with_flagged)
    text = render(report, arguments.format)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text, "utf-8")
        print(f"wrote {arguments.out}", file=sys.stderr)
    return 0


def read_report(name: str, config: Path | None, as_of: datetime | None, *, flagged: bool = False) -> Report:
    """The report on all that waits in log or warehouse. Raises ValueError (unknown experiment, wrong configuration), OSError
    (warehouse out of reach)."""
    settings = analytics_settings(Document.read(config))
    with open_readable(settings) as warehouse:
        catch_up(settings, warehouse)
        experiment = find(name, settings.experiments, warehouse)
        return report_now(warehouse, name, experiment, settings.metrics, as_of, flagged=flagged)


def find(name: str, configured: Mapping[str, Experiment], warehouse: Warehouse) -> Experiment:
    """The definition of an experiment: of its last `create` or `redefine` control event, else of the configuration. Raises ValueError."""
    launched = read_definition(warehouse, name)
    if launched is not None:
        return launched
    if name in configured:
        return configured[name]
    known = {*configured, *(other for other in experiment_names(warehouse) if read_definition(warehouse, other) is not None)}
    raise ValueError(f"no experiment {name!r}; {nearest(name, known)}")


def render(report: Report, form: str) -> str:
    """`text`, `json` or `html`."""
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
    return to_html(report) if form == "html" else to_text(report)


def parse_time(text: str) -> datetime:
    """An ISO 8601 time; without a zone it is UTC. Raises ValueError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--as-of {text!r} is no ISO 8601 time; write for example 2026-11-23T12:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def catch_up(settings: AnalyticsSettings, warehouse: Warehouse) -> None:
    """Events may wait in a local log that no running sink reads. Never drain into a copy: the log may forget what was drained."""
    if parse_address(settings.warehouse.url, os.environ).shown != warehouse.shown:
        print("the warehouse is held by a running gateway: read from the event log instead", file=sys.stderr)
        return
    if not settings.events.log.startswith("local:") or not Path(settings.events.log.removeprefix("local:").partition("?")[0]).is_dir():
        return
    from analytics.event_log import open_log
    from analytics.sink import Sink

    log = open_log(settings.events.log)
    try:
        sink, moved = Sink(log, warehouse), 0
        while batch := sink.drain():
            moved += batch
    finally:
        log.close()
    if moved:
        print(f"brought {moved:,} waiting events into the warehouse first", file=sys.stderr)


COMMAND = Command(
    summary="The report of an experiment: who won, how sure we are, what to do.",
    example="salon report vivid-colours --format html --out report.html",
    arguments=_arguments,
    run=run,
)
