"""`salon doctor` on a warehouse that is filled from Kafka: its schema, its deduplication window, and a short reconciliation."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from analytics.events import utc_now
from analytics.kafka.address import KafkaAddress
from analytics.kafka.dedup_window import dedup_window, inserts_since
from analytics.kafka.group_state import look_at_group
from analytics.kafka.reconcile import Reconciliation, reconcile
from analytics.warehouse.client import Warehouse
from analytics.warehouse.connections import WarehouseLocked
from analytics.warehouse.ddl import WINDOW_SECONDS
from analytics.warehouse.rollups import dirty_days
from analytics.warehouse.schema import latest_version
from gateway.findings import Finding, Wrong, check, for_how_long

LOOK_SECONDS, RECONCILE_SECONDS = 15.0, 20.0
MINUTES, RECORDS = 15, 2_000
AT_RISK = 0.5
NAMED = 3


def warehouse_findings(url: str, address: KafkaAddress, *, kafka_answers: bool) -> Iterator[Finding]:
    """One finding for each part; with `kafka_answers` also those that need both sides."""
    opened: list[Warehouse] = []
    try:
        first = check("warehouse", lambda: _open(url, opened), LOOK_SECONDS)
        yield first
        if not first.ok or not opened:
            return
        (warehouse,) = opened
        yield check("rollups", lambda: _rollups(warehouse), LOOK_SECONDS)
        yield check("dedup window", lambda: _window(warehouse, address if kafka_answers else None), LOOK_SECONDS)
        if kafka_answers:
            yield check("reconciliation", lambda: _reconciled(warehouse, address), RECONCILE_SECONDS)
    finally:
        for warehouse in opened:
            warehouse.close()


def _open(url: str, opened: list[Warehouse]) -> str:
    try:
        warehouse = Warehouse.open(url)
    except WarehouseLocked:
        return f"{url} is in use by another process, as it should be while salon serve runs; GET /health/ready says how it is"
    version, known = warehouse.schema_version(), latest_version(warehouse.layout)
    if version == 0:
        shown = warehouse.shown
        warehouse.close()
        raise Wrong(f"{shown} has no tables yet; run `salon migrate`")
    opened.append(warehouse)
    if version < known:
        raise Wrong(f"{warehouse.shown} has schema version {version}, this Salon needs {known}; run `salon migrate`")
    ((count, latest),) = warehouse.query("SELECT count(), toUnixTimestamp64Micro(max(received_at)) FROM events")
    last = f", the last received at {datetime.fromtimestamp(latest / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}" if count else ""
    return f"{warehouse.shown} has schema version {version}, as this Salon, and {count} rows{last}"


def _rollups(warehouse: Warehouse) -> str:
    days = dirty_days(warehouse)
    return f"days that wait to be rebuilt: {len(days)}, the oldest {days[0]}; the sink does it" if days else "every day's is up to date"


def _window(warehouse: Warehouse, address: KafkaAddress | None) -> str:
    window = dedup_window(warehouse)
    if not window.inserts:
        raise Wrong(
            f"the table {window.table} remembers no insert: a sink that dies may put rows in twice (reports stay right); "
            f"run ALTER TABLE {window.table} MODIFY SETTING non_replicated_deduplication_window = 10000"
        )
    if window.seconds is not None and window.seconds < WINDOW_SECONDS:
        raise Wrong(
            f"the table {window.table} remembers inserts for {for_how_long(window.seconds)}, less than the "
            f"{for_how_long(WINDOW_SECONDS)} it was made with; run ALTER TABLE {window.table} MODIFY SETTING "
            f"replicated_deduplication_window_seconds = {WINDOW_SECONDS}"
        )
    line = f"the last {window.inserts} inserts are remembered" + (f" for {for_how_long(window.seconds)}" if window.seconds else "")
    notes = [each.committed.note for each in look_at_group(address, oldest=False).partitions if each.committed] if address else []
    begun = [note.at_ms for note in notes if note.end is not None and note.at_ms is not None]
    if not begun:
        return line + "; no range is begun and not done" * bool(address)
    at = datetime.fromtimestamp(min(begun) / 1000, UTC)
    age = max(0.0, (utc_now() - at).total_seconds())
    used = window.used_ratio(inserts_since(warehouse, window.table, at), age)
    line += f"; the oldest range that is begun and not done waits for {for_how_long(age)}, {used:.0%} of the window"
    if used > AT_RISK:
        raise Wrong(f"{line}: past it, repeating that range puts its rows in twice (reports stay right); let its sink finish soon")
    return line


def _reconciled(warehouse: Warehouse, address: KafkaAddress) -> str:
    found = reconcile(address, warehouse, since=utc_now() - timedelta(minutes=MINUTES), most_records=RECORDS)
    return reconciled_line(found)


def reconciled_line(found: Reconciliation) -> str:
    """What to say of it. Raises Wrong for a difference."""
    what = f"of the records of the last {MINUTES} min, at most {RECORDS} per partition,"
    if not found.ok:
        worst = "; ".join(bucket.text() for bucket in [bucket for bucket in found.buckets if not bucket.ok][:NAMED])
        raise Wrong(
            f"{what} {found.missing} events are missing in the warehouse and {found.extra} are too much: {worst}. "
            "`salon sink --reconcile` compares a whole day; `salon replay backfill` reads the topic again, while Kafka has the events"
        )
    return f"{what} all {found.events} events are in the warehouse" + "".join(f"; {note}" for note in found.notes)
