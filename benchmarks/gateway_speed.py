"""`salon serve` as a whole process: start-up to ready, assignments and durable feedback per second and per CPU-second, memory.

python benchmarks/gateway_speed.py [--seconds 4] [--starts 3] [--model salon/emoji-64]

The server has its defaults: embedded engine, event log (fsync before each answer), sink and chDB. While it is measured it is held
to one core and the clients to the others, so that events/s are those of one core. CPU-seconds are the server's, threads of
the log, the sink and chDB included: first until the last acknowledgement, then until the warehouse has all of it.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

import uvloop
from gateway_process import GatewayProcess
from load import drive, request
from machine import machine

from analytics.events import new_id
from salon.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each measurement takes")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--model", default="salon/emoji-64")
    arguments = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    print(machine("salon", "litestar", "uvicorn", "uvloop", "chdb", "onnxruntime"))
    with tempfile.TemporaryDirectory(prefix="salon-speed-") as folder:
        server = GatewayProcess(Path(folder), arguments.model)
        try:
            start_ups(server, arguments.starts)
            measure(server, arguments.seconds)
        finally:
            server.stop()


def start_ups(server: GatewayProcess, starts: int) -> None:
    """Starts it `starts` times more than the first, and leaves it running."""
    took, worked = [], []
    for _ in range(starts + 1):
        server.stop()
        server.start()
        took.append(server.ready())
        worked.append(server.cpu_seconds())
    median, cpu = statistics.median(took[1:]), statistics.median(worked[1:])
    print(
        f"start-up to ready: {median:.2f} s, {cpu:.2f} CPU-s (medians of {starts}); in a new folder {took[0]:.2f} s, {worked[0]:.2f} CPU-s"
    )
    print(f"memory when ready: {server.memory_mb()[0]:.0f} MB; torch in the process: {'yes' if server.has_loaded('libtorch') else 'no'}")


def measure(server: GatewayProcess, seconds: float) -> None:
    """Assignments, then feedback, on one core."""
    token = Client(server.url, server.key).generate("a red heart", route="hero", user="ada").token
    wait_until_drained(server)
    cores = sorted(os.sched_getaffinity(0))
    server.pin({cores[0]})
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    numbers = count()

    def assignments(units: int) -> bytes:
        body = {"route": "hero", "units": [f"user-{next(numbers)}" for _ in range(units)]}
        return request("/v1/assignments", json.dumps(body).encode(), server.key)

    def alone() -> bytes:
        return request("/v1/feedback", f'{{"feedback_token":"{token}","kind":"like","event_id":"{new_id()}"}}'.encode())

    def together() -> bytes:
        events = ",".join(f'{{"kind":"like","event_id":"{new_id()}"}}' for _ in range(50))
        return request("/v1/feedback", f'{{"feedback_token":"{token}","events":[{events}]}}'.encode())

    arm, accepted = b'"arm":"', b'"status":"accepted"'
    for clients, units in ((1, 1), (16, 1), (1, 1000)):
        row(server, f"assignments, {units:4} a request, {clients:2} clients", "units", clients, seconds, partial(assignments, units), arm)
    for clients in (1, 16, 64):
        row(server, f"feedback one by one,   {clients:5} clients", "events", clients, seconds, alone, accepted)
    for clients in (1, 4, 16):
        row(server, f"feedback, 50 a request, {clients:4} clients", "events", clients, seconds, together, accepted)
    now, highest = server.memory_mb()
    print(f"memory after all that: {now:.0f} MB, highest {highest:.0f} MB (embedded engine and chDB included)")


def row(server: GatewayProcess, what: str, unit: str, clients: int, seconds: float, make: Callable[[], bytes], needle: bytes) -> None:
    """One measurement, after a short one that warms up; prints its line."""
    asyncio.run(drive(server.port, clients, min(0.3, seconds), make, needle))
    wait_until_drained(server)
    before = server.cpu_seconds()
    load = asyncio.run(drive(server.port, clients, seconds, make, needle))
    acknowledged = server.cpu_seconds() - before
    wait_until_drained(server)
    stored = server.cpu_seconds() - before
    line = f"{what}: {load.matched / load.seconds:8,.0f} {unit}/s, {load.matched / acknowledged:8,.0f} per CPU-second"
    also = f", {load.matched / stored:8,.0f} with the way into the warehouse" if unit == "events" else ""
    print(f"{line}{also}, median wait {load.median_ms:.2f} ms")


def wait_until_drained(server: GatewayProcess, timeout_seconds: float = 60.0) -> None:
    """Until the warehouse has every event of the log. Raises RuntimeError."""
    began = time.perf_counter()
    while time.perf_counter() - began < timeout_seconds:
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
            lag = re.search(r"^salon_warehouse_lag_positions (\S+)", answer.read().decode(), re.MULTILINE)
        if lag and float(lag[1]) == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"the warehouse did not take all events in {timeout_seconds:.0f} s")


if __name__ == "__main__":
    main()
