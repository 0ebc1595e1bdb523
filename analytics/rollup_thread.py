"""A thread that rebuilds the daily rollups that new events made stale, outside the way of the events."""

import logging
import threading

from analytics.warehouse.client import Warehouse
from analytics.warehouse.rollups import rebuild_dirty

log = logging.getLogger(__name__)
EVERY_SECONDS = 60.0
DAYS_AT_ONCE = 10


class RollupThread:
    """Runs from `start` to `stop`; several may run against one warehouse. `last_error` is None when all is well."""

    def __init__(self, warehouse: Warehouse, every_seconds: float = EVERY_SECONDS) -> None:
        self._warehouse, self._every_seconds = warehouse, every_seconds
        self.rebuilt = 0
        self.last_error: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="salon-rollups", daemon=True)

    def start(self) -> None:
        """Begin; the first rebuild is after `every_seconds`."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the day at hand, then stop. A second call does nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            try:
                done = rebuild_dirty(self._warehouse, DAYS_AT_ONCE)
                self.rebuilt, self.last_error = self.rebuilt + len(done), None
            except Exception as error:
                # The days stay dirty: the next round, here or in another process, takes them.
                if self.last_error != str(error):
                    log.error("rollups wait: %s", error)
                self.last_error = str(error)
