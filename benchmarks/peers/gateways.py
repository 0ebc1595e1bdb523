"""A gateway in front of a remote engine that answers at once with 50,000 bytes of base64: Salon, LiteLLM's proxy, TensorZero, nothing.

python benchmarks/peers/gateways.py --others VENV [--seconds 4] [--rounds 3]

VENV has `litellm[proxy]` and `tensorzero`; without it only Salon and the bare pass-through are measured. Each is alone on
core 0, clients and engine on the others; rounds take turns. Salon logs exposure, generation and image with fsync, keeps the
picture and seals a token; the pass-through, LiteLLM (no database, no spend logs) and TensorZero (observability off) log nothing.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import uvloop  # noqa: E402
from gateway_process import GatewayProcess  # noqa: E402
from load import drive, request  # noqa: E402
from machine import machine  # noqa: E402

SETTINGS = """
[gateway]
listen = "127.0.0.1:{port}"
[engines.mock]
url = "http://127.0.0.1:{upstream}"
[variants.base]
model = "mock"
engine = "mock"
[variants.vivid]
extends = "base"
guidance = 3.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.contest]
route = "hero"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
primary = "like_rate"
autostart = true
"""
MASTER_KEY = "sk-" + "0123456789" * 3  # the proxy wants one; it guards nothing here
LITELLM = """
model_list:
  - model_name: hero
    litellm_params: {{ model: openai/mock, api_base: "http://127.0.0.1:{upstream}/v1", api_key: none }}
    model_info: {{ mode: image_generation }}
litellm_settings: {{ telemetry: false }}
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of those it started."""
    total = 0.0
    for each in (pid, *children(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(each) for each in found]


def resident_mb(pid: int) -> float:
    lines = [Path(f"/proc/{each}/status").read_text() for each in (pid, *children(pid))]
    return sum(int(text.split("VmRSS:")[1].split()[0]) * 1.024e-3 for text in lines)


class Measured:
    """Requests per CPU-second of the gateway by round, and the median wait of one client."""

    def __init__(self, name: str) -> None:
        self.name, self.per_cpu_second, self.p50_ms, self.resident = name, [], [], 0.0

    def line(self, ours: float) -> str:
        per = statistics.median(self.per_cpu_second)
        ratio = f"{ours / per:6.2f} x" if self.name != "salon" else "        "
        resident = f"{self.resident:5.0f} MB" if self.resident else "        "
        wait = f"p50 of one client {statistics.median(self.p50_ms):6.2f} ms"
        return f"{self.name:28} {per:8,.0f} requests per CPU-second, {wait}, {resident}  salon is {ratio}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    print(machine("salon", "litestar", "aiohttp", "uvicorn", "uvloop"))
    upstream, started = free_port(), []
    cores = sorted(os.sched_getaffinity(0))
    rest, first = set(cores[1:]) or set(cores), {cores[0]}
    os.sched_setaffinity(0, rest)
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "LITELLM_MODE": "PRODUCTION", "LITELLM_MASTER_KEY": MASTER_KEY}

    def start(words: list[str], cwd: str) -> int:
        with (Path(cwd) / "log.txt").open("ab") as log:
            process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=cwd)
        started.append(process)
        return process.pid

    with tempfile.TemporaryDirectory(prefix="salon-peers-") as folder:
        server = GatewayProcess(Path(folder) / "salon")
        try:
            start([sys.executable, str(HERE / "mock_engine.py"), str(upstream)], folder)
            (server.folder / "salon.toml").write_text(SETTINGS.format(port=server.port, upstream=upstream))
            wait_for(upstream)
            server.start()
            server.ready()
            ports, pids = {"salon": server.port}, {"salon": server.pid}
            keys = {"salon": server.key, "LiteLLM proxy": MASTER_KEY}
            ports["bare pass-through"] = free_port()
            pids["bare pass-through"] = start(
                [sys.executable, str(HERE / "pass_through.py"), str(ports["bare pass-through"]), str(upstream)], folder
            )
            if arguments.others:
                (Path(folder) / "litellm.yaml").write_text(LITELLM.format(upstream=upstream))
                ports["LiteLLM proxy"] = free_port()
                words = [str(arguments.others / "bin/litellm"), "--config", f"{folder}/litellm.yaml", "--port", str(ports["LiteLLM proxy"])]
                pids["LiteLLM proxy"] = start([*words, "--host", "127.0.0.1"], folder)
            for port in ports.values():
                wait_for(port)
            time.sleep(3)
            for pid in pids.values():
                pin(pid, first)
            results = {name: Measured(name) for name in ports}
            users = itertools.count()

            def ask(name: str) -> Callable[[], bytes]:
                more = {"salon": lambda: {"user": f"user-{next(users)}"}}.get(name, dict)
                return lambda: request(
                    "/v1/images/generations",
                    json.dumps({"model": "hero", "prompt": "a red heart", "n": 1, **more()}).encode(),
                    keys.get(name, "none"),
                )

            for _ in range(arguments.rounds):
                for name, port in ports.items():
                    measure(results[name], port, pids[name], ask(name), arguments.seconds)
                if arguments.others:
                    embedded(
                        results.setdefault("TensorZero, embedded, chat", Measured("TensorZero, embedded, chat")), arguments, upstream, first
                    )
            ours = statistics.median(results["salon"].per_cpu_second)
            for result in results.values():
                print(result.line(ours))
            if arguments.others:
                words = [
                    str(arguments.others / "bin/python"),
                    "-c",
                    "import importlib.metadata as m; print(m.version('litellm'), m.version('tensorzero'))",
                ]
                versions = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
                print(f"litellm {versions[0]}, tensorzero {versions[1]}; medians of {arguments.rounds} rounds, 16 clients for CPU-seconds")
        finally:
            server.stop()
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(20)


def wait_for(port: int, seconds: float = 90.0) -> None:
    """Until something listens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"nothing listens on port {port}")


def pin(pid: int, cores: set[int]) -> None:
    """Hold every thread of a process and of its children to `cores`."""
    for each in (pid, *children(pid)):
        for thread in Path(f"/proc/{each}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def measure(result: Measured, port: int, pid: int, make: Callable[[], bytes], seconds: float) -> None:
    """One client for the wait, sixteen for the work."""
    needle = b"b64_json"
    asyncio.run(drive(port, 4, 1.0, make, needle))
    result.p50_ms.append(asyncio.run(drive(port, 1, seconds / 2, make, needle)).median_ms)
    before = cpu_seconds(pid)
    load = asyncio.run(drive(port, 16, seconds, make, needle))
    result.per_cpu_second.append(load.matched / (cpu_seconds(pid) - before))
    result.resident = resident_mb(pid)


def embedded(result: Measured, arguments: argparse.Namespace, upstream: int, cores: set[int]) -> None:
    """TensorZero runs inside the client's process: its CPU time holds that of the loop that asks."""
    for clients in (1, 16):
        words = [
            str(arguments.others / "bin/python"),
            str(HERE / "embedded_tensorzero.py"),
            str(upstream),
            str(arguments.seconds),
            str(clients),
        ]
        done = subprocess.run(["taskset", "-c", ",".join(map(str, cores)), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        told = json.loads(done.stdout.strip().splitlines()[-1])
        if clients == 1:
            result.p50_ms.append(told["p50_ms"])
        else:
            result.per_cpu_second.append(told["requests"] / told["cpu_seconds"])


if __name__ == "__main__":
    main()
