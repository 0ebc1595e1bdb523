"""A Kafka sink as a process of its own that dies at a chosen point. Words: KAFKA_URL WAREHOUSE_URL [POINT [AFTER [unprotected]]].

POINT: intent, send (before the insert goes out), insert or done; at its AFTERth time the process sends itself SIGKILL, or
SIGSTOP for stop-POINT. A fifth word `unprotected` switches intents and tokens off: the negative control.
Prints "ready" once it owns partitions.
"""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from kafka_sink_cases import FAST

from analytics.events import new_id
from analytics.kafka.address import parse_kafka
from analytics.kafka.intents import Committed
from analytics.kafka.membership import Membership
from analytics.kafka.sink import KafkaSink
from analytics.warehouse.client import Warehouse


class Deaths:
    """Counts how often a point was passed, and ends or stops the process there."""

    def __init__(self, point: str, after: int) -> None:
        self._point, self._left = point, after

    def passed(self, point: str) -> None:
        wanted = self._point.removeprefix("stop-")
        if point != wanted:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGSTOP if self._point.startswith("stop-") else signal.SIGKILL)


def arm(deaths: Deaths, protected: bool) -> None:
    """Wrap what a sink does to the outside."""
    commit, insert = Membership.commit, Warehouse.insert_exact

    def counted_commit(self: Membership, notes: Mapping[int, Committed]) -> None:
        intent = any(note.note.end is not None for note in notes.values())
        if not protected and intent:
            return
        commit(self, notes)
        if notes and any(note.note.at_ms or note.offset for note in notes.values()):
            deaths.passed("intent" if intent else "done")

    def counted_insert(self: Warehouse, token: str, table: pa.Table, **more: Any) -> None:
        deaths.passed("send")
        insert(self, token if protected else new_id().hex, table, **more)
        deaths.passed("insert")

    Membership.commit = counted_commit  # type: ignore[method-assign]
    Warehouse.insert_exact = counted_insert  # type: ignore[method-assign]


def main(kafka_url: str, warehouse_url: str, point: str = "", after: str = "1", protection: str = "protected") -> None:
    arm(Deaths(point, int(after)), protection == "protected")
    sink = KafkaSink(parse_kafka(kafka_url, {}), Warehouse.open(warehouse_url), linger_seconds=0.05, block_rows=700, consumer_options=FAST)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    said = False
    while not stopping:
        try:
            sink.drain(0.05)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
            sink.rest(0.2)
        if sink.state.partitions and not said:
            print("ready", flush=True)
            said = True
    sink.close()
    print(sink.state, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
