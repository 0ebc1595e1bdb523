"""The snapshot of experiments: a file beside the log, so that a restart reads only what came after it."""

import logging
import os
from pathlib import Path

import msgspec

from analytics.event_log import EventLog
from gateway.ledger import Ledger, apply

log = logging.getLogger(__name__)
REPLAY_EVENTS = 5_000


def save(file: Path, ledger: Ledger) -> None:
    """Write the snapshot. Raises OSError."""
    write_durably(file, msgspec.json.encode(ledger))


def write_durably(file: Path, data: bytes) -> None:
    """A new file, fsynced, in the place of the old. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    with draft.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    draft.replace(file)


def restore(file: Path, event_log: EventLog) -> tuple[Ledger, str]:
    """The ledger at the log's end, and what to tell people where the snapshot is of another log: empty when all is as it was.

    A log without an event has lost what the snapshot still knows: the snapshot then goes on. A log with events of its own
    rules; the snapshot is put aside. Raises OSError.
    """
    ledger, told = read_snapshot(file), ""
    if ledger.log and ledger.log != event_log.name:
        if event_log.end() == 0:
            told = (
                f"the event log is new and empty, but {file} knows {len(ledger.lives)} experiments of the log {ledger.log}: they go on "
                "as they were; if that log still exists, stop the gateway and put it back, its feedback is not in this one"
            )
            ledger = msgspec.structs.replace(ledger, log=event_log.name, position=0)
            # At once: as soon as the log has an event, it could no longer be told from another one.
            save(file, ledger)
        else:
            aside = put_aside(file, ledger)
            told = (
                f"the snapshot of experiments belongs to the event log {ledger.log}, not to this one: experiments are what this log says; "
                f"the snapshot is kept as {aside}"
            )
            ledger = Ledger()
        log.error("%s", told)
    ledger = msgspec.structs.replace(ledger, log=event_log.name)
    while batch := event_log.read(ledger.position, REPLAY_EVENTS):
        for _, event in batch:
            ledger = apply(ledger, event)
        ledger = msgspec.structs.replace(ledger, position=batch[-1][0])
    return ledger, told


def put_aside(file: Path, ledger: Ledger) -> Path:
    """Keep the snapshot of another log under that log's name. Returns where. Raises OSError."""
    aside = file.with_name(f"{file.stem}.{ledger.log}.json")
    if file.exists():
        file.replace(aside)
    return aside


def read_snapshot(file: Path) -> Ledger:
    """What was saved last; an empty ledger where there is nothing, or nothing legible. Raises OSError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Ledger)
    except FileNotFoundError:
        return Ledger()
    except msgspec.DecodeError as error:
        log.warning("%s is damaged (%s): rebuilding it from the log of control records", file, error)
        return Ledger()
