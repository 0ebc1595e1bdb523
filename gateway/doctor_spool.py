"""`salon doctor` on the spool: what waits for Kafka, how near the bounds are, whether a forwarder drains it."""

import time

from analytics.events import utc_now
from analytics.local_log import FILE, LocalLog
from analytics.settings import EventsSettings
from gateway.findings import Wrong, for_how_long

WATCHED_SECONDS = 2.0
# A forwarder takes what comes within a second; older than this, none is at work.
PROMPT_SECONDS = 10.0
NEARLY = 0.8
REFUSED = "when it is reached, feedback is refused with 503"


def spool_line(events: EventsSettings) -> str:
    """What to say of it. Raises Wrong, OSError."""
    path = events.spool / FILE
    if not path.exists():
        return f"{path} is not there yet; salon serve makes it"
    spool = LocalLog(events.spool, max_bytes=events.spool_max_bytes)
    try:
        return _line(spool, events.spool_max_age_hours * 3600)
    finally:
        spool.close()


def _line(spool: LocalLog, max_age_seconds: float) -> str:
    state = spool.spool_state()
    age = (utc_now() - state.oldest_at).total_seconds() if state.oldest_at else 0.0
    line = f"{state.events} events ({state.bytes} bytes) wait in {spool.path}"
    if state.events:
        line += f", the oldest for {for_how_long(age)}"
    line += f"; {spool.used_bytes / spool.max_bytes:.0%} of its {spool.max_bytes} bytes are used"
    if state.dead_letters:
        first = spool.dead_letters()[0]
        raise Wrong(
            f"{line}; {state.dead_letters} events that Kafka does not take are set aside in it, the first: {first.error}; "
            "look at them with `salon replay list`, send them again with `salon replay send`"
        )
    if age > PROMPT_SECONDS and not _drains(spool):
        raise Wrong(f"{line}; nobody drains it: is salon serve running, and can it reach Kafka? They are safe on disk meanwhile")
    if age > NEARLY * max_age_seconds:
        raise Wrong(f"{line}; its bound of age is {for_how_long(max_age_seconds)} (spool_max_age_hours): {REFUSED}")
    if spool.used_bytes > NEARLY * spool.max_bytes and state.events:
        raise Wrong(f"{line} (spool_max_bytes): {REFUSED}; is Kafka slower than what comes?")
    return line + (", and a forwarder drains it" if age > PROMPT_SECONDS else "")


def _drains(spool: LocalLog) -> bool:
    before, deadline = spool.consumed_position(), time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < deadline:
        if spool.consumed_position() != before:
            return True
        time.sleep(0.1)
    return False
