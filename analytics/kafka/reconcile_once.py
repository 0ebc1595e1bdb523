"""`salon sink --reconcile`: one comparison of Kafka and warehouse, for people, programs and exit codes."""

import re
from datetime import timedelta
from typing import Any

import msgspec
from kafka.errors import KafkaError

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.clients import unreachable
from analytics.kafka.reconcile import Reconciliation, reconcile
from analytics.warehouse.client import Warehouse

UNITS_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def reconcile_once(address: KafkaAddress, warehouse: Warehouse, hours: float, form: str) -> int:
    """Compare what was written to the topic in the last `hours`, and print it. Returns the exit code. Raises OSError, LookupError."""
    try:
        found = reconcile(address, warehouse, since=utc_now() - timedelta(hours=hours))
    except KafkaError as error:
        raise unreachable(address, error) from error
    print(msgspec.json.encode(as_json(found)).decode() if form == "json" else as_text(found), flush=True)
    return 0 if found.ok else 1


def as_json(found: Reconciliation) -> dict[str, Any]:
    """The whole of it, with its totals."""
    totals = {"ok": found.ok, "events": found.events, "missing": found.missing, "extra": found.extra}
    return totals | {name: getattr(found, name) for name in found.__struct_fields__}


def as_text(found: Reconciliation) -> str:
    """A line of totals, and one for each partition and hour that differs."""
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in msgspec.structs.asdict(found.left_out).items() if count)
    lines = [
        f"{found.events} events of {len(found.offsets)} partitions, in Kafka since {found.since:%Y-%m-%dT%H:%M:%SZ}: "
        f"{found.missing} missing in the warehouse, {found.extra} too much"
        + (f"; rightly different: {left_out}" if left_out else "")
        + (f"; {found.not_committed} records no sink has finished yet" if found.not_committed else ""),
        *found.notes,
        *(bucket.text() for bucket in found.buckets if not bucket.ok),
    ]
    return "\n".join(lines)


def period(text: str) -> float | None:
    """`90s`, `30m`, `1h`, `1d` in seconds; `never` is None. Raises ValueError."""
    if text == "never":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"--reconcile-every is {text!r}; write a number with s, m, h or d, such as 1h, or never")
    return float(match[1]) * UNITS_SECONDS[match[2]]
