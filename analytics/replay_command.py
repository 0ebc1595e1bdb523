"""`salon replay`: dead letters listed, shown and sent back; a spool emptied without its gateway; the log read again into new tables."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from kafka.errors import KafkaError

from analytics.command import Command
from analytics.event_log import parse_log_url
from analytics.local_log import LocalLog
from analytics.replay.backfill import Backfilled, Since, backfill_kafka, backfill_local
from analytics.replay.letters import Letter, LettersInKafka, LettersOnDisk
from analytics.replay.spool import push_spool
from analytics.settings import AnalyticsSettings, Document, analytics_settings
from analytics.warehouse.client import Warehouse

ERROR_CHARACTERS = 100
SOURCES = tuple[LettersInKafka | LettersOnDisk, ...]


def _arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--format", choices=("text", "json"), default="text")
    listed = what.add_parser("list", parents=[common], help="dead letters, oldest first", description="Lists the dead letters.")
    listed.add_argument("--limit", type=int, default=50, metavar="N", help="at most so many, the latest ones (50)")
    shown = what.add_parser("show", parents=[common], help="one dead letter, whole", description="Shows one dead letter.")
    shown.add_argument("origin", metavar="ORIGIN")
    send = what.add_parser(
        "send", parents=[common], help="dead letters back into the log", description="Sends dead letters back, each once."
    )
    send.add_argument("origins", nargs="*", metavar="ORIGIN")
    send.add_argument("--all", action="store_true", help="all that were not sent yet")
    what.add_parser(
        "spool",
        parents=[common],
        help="what a spool still holds into Kafka, when its gateway is gone",
        description="Empties the spool into Kafka.",
    )
    backfill = what.add_parser(
        "backfill", parents=[common], help="the log into new tables, which then replace the old ones", description="Reads the log again."
    )
    start = backfill.add_mutually_exclusive_group()
    start.add_argument("--from-offset", type=int, metavar="N", help="begin there, in each partition (or at that position of a local log)")
    start.add_argument("--from-time", metavar="T", help="begin with what came at or after that time, ISO 8601; without a zone: UTC")


def _run(arguments: argparse.Namespace) -> int:
    settings = analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))
    act = {"list": _list, "show": _show, "send": _send, "spool": _spool, "backfill": _backfill}[arguments.what]
    try:
        return act(arguments, settings)
    except KafkaError as error:
        raise OSError(f"Kafka {settings.events.log}: {type(error).__name__}: {error}") from error


def _list(arguments: argparse.Namespace, settings: AnalyticsSettings) -> int:
    if arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}; give at least 1")
    with _sources(settings) as sources:
        found = _all(sources)
    letters = found[-arguments.limit :]
    if arguments.format == "json":
        _print({"dead_letters": letters, "total": len(found)})
        return 0
    for letter in letters:
        sent = f"  sent {letter.sent_at:%Y-%m-%d %H:%M:%S}" if letter.sent_at else ""
        error = " ".join(letter.error.split())
        print(f"{letter.origin}  {letter.set_aside_at:%Y-%m-%d %H:%M:%S}  {error[:ERROR_CHARACTERS]}{sent}")
    print(f"{len(letters)} of {len(found)} dead letters")
    return 0


def _show(arguments: argparse.Namespace, settings: AnalyticsSettings) -> int:
    with _sources(settings) as sources:
        letter = next((each for each in _all(sources) if each.origin == arguments.origin), None)
    if letter is None:
        raise LookupError(f"no dead letter has the origin {arguments.origin!r}; `salon replay list` names them all")
    if arguments.format == "json":
        _print(letter)
        return 0
    print(f"origin        {letter.origin}\nset aside     {letter.set_aside_at.isoformat()}\nattempt       {letter.attempt}")
    print(f"sent back     {letter.sent_at.isoformat() if letter.sent_at else 'no'}\nerror         {letter.error}\n\n{letter.value}")
    return 0


def _send(arguments: argparse.Namespace, settings: AnalyticsSettings) -> int:
    if arguments.all == bool(arguments.origins):
        raise ValueError("name the ORIGINs to send, or give --all, and not both")
    with _sources(settings) as sources:
        waiting = {letter.origin: letter for letter in _all(sources)}
        wanted = arguments.origins or [origin for origin, letter in waiting.items() if letter.sent_at is None]
        if unknown := [origin for origin in wanted if origin not in waiting]:
            raise LookupError(f"no dead letter has the origin {unknown[0]!r}; `salon replay list` names them all")
        sent = [origin for source in sources for origin in (source.send(wanted) if wanted else [])]
    left = [origin for origin in wanted if origin not in sent]
    if arguments.format == "json":
        _print({"sent": sent, "left": left})
    else:
        print(f"{len(sent)} sent back")
        for origin in left:
            before = waiting[origin].sent_at
            print(f"{origin} was left: " + (f"sent before, {before.isoformat()}" if before else "its message was too long to be kept"))
    return 0


def _spool(arguments: argparse.Namespace, settings: AnalyticsSettings) -> int:
    kafka = settings.events.kafka
    if kafka is None:
        raise ValueError('salon replay spool: [events] log is local, and a spool stands only in front of Kafka (log = "kafka://…")')
    with _on_disk(settings.events.spool) as spool:
        if spool is None:
            raise LookupError(f"there is no spool at {settings.events.spool}; set [events] spool to the folder of the gateway that is gone")
        sent, aside = push_spool(spool, kafka, lambda count: _tell(f"{count} sent"))
    if arguments.format == "json":
        _print({"sent": sent, "set_aside": aside})
    else:
        print(f"{sent} events sent to {kafka.shown}" + (f", {aside} too long for it: see `salon replay list`" if aside else ""))
    return 0


def _backfill(arguments: argparse.Namespace, settings: AnalyticsSettings) -> int:
    since = Since(offset=arguments.from_offset, time=_time(arguments.from_time) if arguments.from_time else None)
    if since.offset is not None and since.offset < 0:
        raise ValueError(f"--from-offset is {since.offset}; give 0 or more")
    warehouse = Warehouse.open(settings.warehouse.url)
    try:
        warehouse.migrate()
        done = _read_again(settings, warehouse, since)
    finally:
        warehouse.close()
    if arguments.format == "json":
        _print(done)
    else:
        erased = f", {done.erased} of erased people left out" if done.erased else ""
        more = f", {done.dead_letters} dead letters" if done.dead_letters else ""
        print(f"generation {done.generation} is in use: {done.rows} rows read from the log, {done.kept} kept{erased}{more}")
    return 0


def _read_again(settings: AnalyticsSettings, warehouse: Warehouse, since: Since) -> Backfilled:
    if settings.events.kafka is not None:
        return backfill_kafka(settings.events.kafka, warehouse, since, _tell)
    folder, _ = parse_log_url(settings.events.log)
    with _on_disk(folder) as log:
        if log is None:
            raise LookupError(f"there is no event log at {folder}")
        return backfill_local(log, warehouse, since, _tell)


@contextmanager
def _sources(settings: AnalyticsSettings) -> Iterator[SOURCES]:
    kafka = settings.events.kafka
    folder = settings.events.spool if kafka else parse_log_url(settings.events.log)[0]
    with _on_disk(folder) as log:
        on_disk = (LettersOnDisk(log, "spool" if kafka else "local"),) if log else ()
        yield (LettersInKafka(kafka), *on_disk) if kafka else on_disk


@contextmanager
def _on_disk(folder: Path) -> Iterator[LocalLog | None]:
    """The log in a folder, if there is one: looking for it must not make it."""
    log = LocalLog(folder) if (folder / "events.sqlite").exists() else None
    try:
        yield log
    finally:
        if log is not None:
            log.close()


def _all(sources: SOURCES) -> list[Letter]:
    return sorted((letter for source in sources for letter in source.all()), key=lambda letter: letter.set_aside_at)


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--from-time is {text!r}; write it as 2026-11-23 or 2026-11-23T15:30:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _tell(text: str) -> None:
    """Progress, for a person who waits."""
    if sys.stderr.isatty():
        print(f"salon replay: {text}", file=sys.stderr, flush=True)


def _print(facts: object) -> None:
    print(msgspec.json.encode(facts).decode(), flush=True)


COMMAND = Command(
    "Dead letters: list, show, send back. A spool without its gateway into Kafka. The log into new tables.",
    "salon replay list --limit 10",
    _arguments,
    _run,
)
