"""Events per second that the local log acknowledges, in batches of 50 and one by one, on one core.

python benchmarks/event_log.py [--seconds 3] [--folder DIR]
"""

import argparse
import os
import sqlite3
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from machine import machine

from analytics.event_log import open_log
from analytics.events import Event, new_id, utc_now


def batch(size: int) -> list[Event]:
    now, generation = utc_now(), new_id()
    common: dict[str, Any] = {
        "kind": "like",
        "occurred_at": now,
        "received_at": now,
        "route": "hero",
        "experiment": "vivid-colours",
        "arm": "vivid",
    }
    return [
        Event(
            event_id=new_id(),
            **common,
            unit=f"user-{i}",
            propensity=0.5,
            generation_id=generation,
            image_id=new_id(),
            position=i % 4,
            grid=4,
        )
        for i in range(size)
    ]


def measure(folder: Path, size: int, in_flight: int, seconds: float) -> tuple[float, float, float]:
    """Acknowledged events per wall second and per CPU second, and the median wait in ms."""
    log = open_log(f"local:{folder}")
    waits: list[float] = []
    pending: deque[tuple[float, Future[list[bool]]]] = deque()
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds or pending:
        if time.perf_counter() - began < seconds and len(pending) < in_flight:
            events = batch(size)
            pending.append((time.perf_counter(), log.submit(events)))
            continue
        since, future = pending.popleft()
        future.result()
        waits.append(time.perf_counter() - since)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    log.close()
    return len(waits) * size / wall, len(waits) * size / cpu, sorted(waits)[len(waits) // 2] * 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    print(machine())
    print(f"SQLite {sqlite3.sqlite_version}, WAL, synchronous=FULL; held to one core")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size, in_flight in ((50, 1), (50, 16), (1, 1), (1, 256)):
            wall, cpu, wait = measure(Path(folder) / f"{size}-{in_flight}", size, in_flight, arguments.seconds)
            what = f"batches of {size:3}, {in_flight:3} in flight"
            print(f"{what}: {wall:9,.0f} events/s, {cpu:9,.0f} per CPU-second, median wait {wait:6.2f} ms")


if __name__ == "__main__":
    main()
