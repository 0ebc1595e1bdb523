"""A warehouse to read from while a running gateway holds the embedded one: rebuilt from the event log, for one command."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from analytics.event_log import open_log
from analytics.settings import AnalyticsSettings
from analytics.warehouse.client import Warehouse, WarehouseLocked

_BATCH = 20_000


@contextmanager
def open_readable(settings: AnalyticsSettings) -> Iterator[Warehouse]:
    """The configured warehouse, caught up by nobody; or, when another process has the embedded one open, a copy made from the log.

    The copy lives in a temporary folder that is gone afterwards. It holds what the log holds: events that the log dropped
    to make room are only in the locked warehouse. With Kafka there is no such log, and
    WarehouseLocked says so. Raises what `Warehouse.open` and `open_log` raise.
    """
    try:
        warehouse = Warehouse.open(settings.warehouse.url)
    except WarehouseLocked:
        if settings.events.kafka is not None:
            raise WarehouseLocked(
                f"{settings.warehouse.url} is held by a running gateway, and its events are in Kafka, not in a log to read instead; "
                "ask the gateway (GET /v1/experiments/NAME/report), or let [warehouse] url name a ClickHouse server"
            ) from None
        with tempfile.TemporaryDirectory(prefix="salon-warehouse-") as folder:
            copy = Warehouse.open(f"chdb://{folder}/warehouse")
            try:
                copy.migrate()
                _fill(copy, settings.events.log)
                yield copy
            finally:
                copy.close()
        return
    try:
        warehouse.migrate()
        yield warehouse
    finally:
        warehouse.close()


def _fill(warehouse: Warehouse, url: str) -> None:
    log = open_log(url)
    try:
        position = 0
        while batch := log.read(position, _BATCH):
            warehouse.insert(log.name, position + 1, batch[-1][0], [event for _, event in batch])
            position = batch[-1][0]
    finally:
        log.close()
