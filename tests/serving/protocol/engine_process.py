"""A real `salon engine` on loopback, with a configuration of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CONFIG = """
[events]
log = "local:var/events"
[engines.w]
url = "http://127.0.0.1:{port}"
[variants.base]
model = "{model}"
engine = "w"
steps = 4
[variants.more]
extends = "base"
steps = 6
guidance = 1.0
[variants.broken]
extends = "base"
model = "nowhere"
[routes.hero]
serve = "base"
"""
START_SECONDS = 60.0


class EngineProcess:
    """`salon engine` in `folder`; what it exports lies in `cache`, its registry in `folder`/var/registry."""

    def __init__(self, folder: Path, cache: Path, model: Path) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        self.folder, self.address, self.url = folder, f"127.0.0.1:{self.port}", f"http://127.0.0.1:{self.port}"
        (folder / "var").mkdir(parents=True, exist_ok=True)
        (folder / "var/cache").symlink_to(cache)
        (folder / "salon.toml").write_text(CONFIG.format(port=self.port, model=model))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environ: str) -> None:
        command = ["engine", "w", "--listen", self.address, "--config", "salon.toml"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from salon.cli import main; raise SystemExit(main())", *command],
                cwd=self.folder, env={**os.environ, "OMP_NUM_THREADS": "1", **environ}, stdout=log, stderr=log,
            )  # fmt: skip

    def until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.health() != 200:
            assert self.process is not None and self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def health(self) -> int:
        try:
            return int(urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5).status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(40)
