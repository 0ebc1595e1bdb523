"""Rows per second from events to the warehouse: building the Arrow block, and inserting it under a token; embedded and over HTTP.

python benchmarks/sink_insert.py [--rows 100000] [--blocks 5] [--folder DIR]
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import machine

from analytics.events import Event, new_id, utc_now
from analytics.warehouse.client import INSERT_SETTINGS, Warehouse
from analytics.warehouse.rows import to_arrow

sys.path.insert(0, str(Path(__file__).parents[1] / "deploy" / "local" / "clickhouse"))
from local_clickhouse import LocalClickHouse

ARMS = ("base", "vivid")
KINDS = ("view", "view", "view", "click", "like", "exposure")


def block(rows: int) -> list[Event]:
    """Feedback as the gateway writes it: 4 pictures a generation, 2 arms, every sixth row an exposure."""
    events, now, generation = [], utc_now(), new_id()
    for i in range(rows):
        if i % 4 == 0:
            generation = new_id()
        known: dict[str, Any] = {"occurred_at": now, "received_at": now, "sent_at": now, "generation_id": generation, "image_id": new_id()}
        known |= {
            "route": "hero",
            "experiment": f"e{i % 10}",
            "arm": ARMS[i % 2],
            "variant_digest": f"sha256:{i % 2:064}",
            "propensity": 0.5,
        }
        events.append(Event(event_id=new_id(), kind=KINDS[i % 6], unit=f"user-{i % 30_000}", position=i % 4, grid=4, value=1.0, **known))
    return events


def measure(warehouse: Warehouse, rows: int, blocks: int) -> None:
    building: list[float] = []
    inserting: list[float] = []
    bare: list[float] = []
    for number in range(blocks):
        events = block(rows)
        began = time.perf_counter()
        table = to_arrow(events, log_name="salon.events", partition=0, offsets=range(rows))
        building.append(time.perf_counter() - began)
        began = time.perf_counter()
        warehouse.insert_exact(f"bench:{number}", table)
        inserting.append(time.perf_counter() - began)
        again = to_arrow(block(rows))
        with warehouse.connections.client() as client:
            began = time.perf_counter()
            client.insert_arrow("events", again, settings={**INSERT_SETTINGS, "insert_deduplication_token": f"bare:{number}"})
            bare.append(time.perf_counter() - began)
    for what, seconds in (("to_arrow", building), ("insert_arrow alone", bare), ("insert_exact", inserting)):
        print(f"  {what:20} {rows / statistics.median(seconds):9,.0f} rows/s, {statistics.median(seconds) / rows * 1e6:5.2f} us a row")
    both = [a + b for a, b in zip(building, inserting, strict=True)]
    print(f"  {'both':20} {rows / statistics.median(both):9,.0f} rows/s (median of {blocks} blocks)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print(machine("chdb", "clickhouse-connect", "pyarrow"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        # Over HTTP first: the server must not share this process's engine.
        server = LocalClickHouse(Path(folder) / "http").start()
        try:
            for name, url in (("over HTTP (the shim, in a process of its own)", server.url), ("embedded", f"chdb://{folder}/embedded")):
                print(f"{name}, blocks of {arguments.rows:,}:")
                warehouse = Warehouse.open(url)
                warehouse.migrate()
                measure(warehouse, arguments.rows, arguments.blocks)
                warehouse.close()
        finally:
            server.kill()


if __name__ == "__main__":
    main()
