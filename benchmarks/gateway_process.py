"""A real `salon serve` in a folder of its own: started, watched, killed and started again."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

SETTINGS = """\
[gateway]
listen = "127.0.0.1:{port}"
# A few units here bear the feedback of thousands; that no person does is not what is measured.
suspicious_events_per_minute = 0
[variants.base]
model = "{model}"
steps = 2
[variants.vivid]
extends = "base"
guidance = 3.0
"""
# What recount.py knows how to count.
CONTEST = """\
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.points]
kind = "mean"
event = "score"
[metrics.scores_per_view]
kind = "ratio"
event = "score"
denominator = "view"
[experiments.contest]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
secondary = ["points", "scores_per_view"]
autostart = true
"""


class GatewayProcess:
    """`salon serve` as a process of its own. `key` is the development key that its first start prints."""

    def __init__(self, folder: Path, model: str = "salon/emoji-64", contest: str = CONTEST) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder, self.key = folder, ""
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / "salon.toml").write_text(SETTINGS.format(port=self.port, model=model) + contest)
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError("the gateway was not started")
        return self._process.pid

    def start(self) -> None:
        """Start, and return at once."""
        self._close()
        self._output = (self.folder / "serve.log").open("ab")
        words = [sys.executable, "-m", "salon.cli", "serve", "--config", str(self.folder / "salon.toml")]
        self._process = subprocess.Popen(words, stdout=self._output, stderr=subprocess.STDOUT, cwd=self.folder)

    def ready(self, timeout_seconds: float = 90.0) -> float:
        """Wait for /health/ready; the seconds it took. Raises RuntimeError with the server's last words."""
        began = time.perf_counter()
        while time.perf_counter() - began < timeout_seconds and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as answer:
                    if answer.status == 200:
                        took = time.perf_counter() - began
                        self.key = self.key or self._printed_key()
                        return took
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.01)
        raise RuntimeError(f"the gateway did not become ready: {(self.folder / 'serve.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no last word, no flush."""
        self._end(signal.SIGKILL)

    def pin(self, cores: set[int]) -> None:
        """Hold every thread of the server, and those it will start, to `cores`."""
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)

    def cpu_seconds(self) -> float:
        """User and system time of the whole process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory now, and its highest so far, in MB of 10^6 bytes."""
        found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE))
        return int(found["VmRSS"]) * 1.024e-3, int(found["VmHWM"]) * 1.024e-3

    def has_loaded(self, library: str) -> bool:
        """Is a shared library whose path contains `library` mapped into the process?"""
        return library in Path(f"/proc/{self.pid}/maps").read_text()

    def _printed_key(self) -> str:
        found = re.search(r"salon_[0-9a-f]{8}_\S+", (self.folder / "serve.log").read_text())
        if found is None:
            raise RuntimeError(f"the first start printed no development key; see {self.folder / 'serve.log'}")
        return found[0]

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._output is not None:
            self._output.close()
