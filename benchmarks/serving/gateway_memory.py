"""How much memory a gateway takes whose engine is elsewhere, beside one that draws itself. Real processes, one after another.

python benchmarks/serving/gateway_memory.py [--requests 300]
"""

import argparse
import base64
import concurrent.futures
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from gateway_process import GatewayProcess  # noqa: E402
from machine import machine  # noqa: E402

TARGET_MB = 150.0
HEAVY = ("onnxruntime", "libtorch", "tokenizers", "chdb")
REST = '[variants.base]\nmodel = "salon/emoji-64"\nengine = "{engine}"\nsteps = 4\n[routes.hero]\nserve = "base"\n'
EMBEDDED = '[engines.gpu]\ndevice = "cpu"\n'
REMOTE = '[engines.gpu]\nurl = "http://127.0.0.1:{port}"\n'
# no such server: reports are away, everything else works
ELSEWHERE = '[warehouse]\nurl = "clickhouse://salon@127.0.0.1:9/salon"\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300, help="pictures that are drawn before memory is read")
    given = parser.parse_args()
    print(machine("aiohttp", "litestar", "msgspec"))
    print(f"resident memory of `salon serve` in MB, ready and after {given.requests} pictures, 8 clients; shared libraries counted")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        port = free_port()
        worker = start_worker(root, port)
        try:
            wait(f"http://127.0.0.1:{port}/v2/health/ready", worker, root / "engine.log")
            remote = REMOTE.format(port=port)
            far = measured(root / "remote", remote + ELSEWHERE, given.requests, "engine and warehouse elsewhere")
            measured(root / "chdb", remote, given.requests, "engine elsewhere, warehouse in the process")
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)
        measured(root / "embedded", EMBEDDED, given.requests, "engine and warehouse in the process")
    print(f"target: below {TARGET_MB:.0f} MB with engine and warehouse elsewhere: {'held' if far < TARGET_MB else 'MISSED'}")
    return 0 if far < TARGET_MB else 1


def start_worker(root: Path, port: int) -> "subprocess.Popen[bytes]":
    """`salon engine` on the packaged model."""
    config = root / "engine.toml"
    config.write_text(EMBEDDED + REST.format(engine="gpu"))
    words = [sys.executable, "-m", "salon.cli", "engine", "gpu", "--listen", f"127.0.0.1:{port}", "--config", str(config)]
    with (root / "engine.log").open("wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, cwd=root)


def measured(folder: Path, engine: str, requests: int, title: str) -> float:
    """Start a gateway, draw, and print a line; its memory at the end."""
    gateway = GatewayProcess(folder)
    settings = f'[gateway]\nlisten = "127.0.0.1:{gateway.port}"\n'
    (folder / "salon.toml").write_text(settings + engine + REST.format(engine="gpu"))
    gateway.start()
    try:
        gateway.ready()
        time.sleep(2.0)  # the warehouse is opened behind readiness
        fresh = gateway.memory_mb()[0]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for png in pool.map(lambda seed: draw(gateway, seed), range(requests)):
                if not png.startswith(b"\x89PNG"):
                    raise RuntimeError("what came is no PNG file")
        now, peak = gateway.memory_mb()
        has = [name for name in HEAVY if gateway.has_loaded(name)]
        print(
            f"{title:<44} {fresh:6.0f} → {now:6.0f}, peak {peak:6.0f}; loaded: {', '.join(has) or 'none of ' + ', '.join(HEAVY)}",
            flush=True,
        )
        return now
    finally:
        gateway.stop()


def draw(gateway: GatewayProcess, seed: int) -> bytes:
    """One picture through the API."""
    body = json.dumps({"model": "hero", "prompt": "a red heart", "seed": seed}).encode()
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{gateway.url}/v1/images/generations", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])


def wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until `url` answers 200. Raises RuntimeError with the worker's last words."""
    limit = time.monotonic() + 90
    while time.monotonic() < limit and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the worker is not ready: {log.read_text()[-2000:]}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    sys.exit(main())
