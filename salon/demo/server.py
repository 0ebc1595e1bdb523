"""Runs this machine's `salon` commands as a user would: the gateway as a real server, the others to their end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SALON = (sys.executable, "-m", "salon.cli")

SETTINGS = """\
# What `salon demo` ran with. Try it: salon serve --config {folder}/salon.toml
[gateway]
listen = "127.0.0.1:{port}"
[variants.pale]
model = "salon/emoji-64"
engine = "local"
steps = 8
guidance = 1.05
[variants.vivid]
extends = "pale"
guidance = 3.5
[routes.hero]
serve = "pale"
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.likes_per_view]
kind = "ratio"
event = "like"
denominator = "view"
[experiments.first-contest]
route = "hero"
arms = {{ pale = 0.5, vivid = 0.5 }}
control = "pale"
primary = "like_rate"
secondary = ["likes_per_view"]
guardrails = {{ latency_p95_ms = {{ margin = 0.50, direction = "down" }} }}
planned_units = 800
minimum_units = 200
[finetune.gate]
seeds = 6
role_seeds = 16
scales = [0.25, 0.5, 1.0, 1.5]
[finetune.gate.limits]
diversity = 0.75   # this audience may ask for fewer colours than the champion draws
[finetune.training]
learning_rate = 2e-3
"""


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def command(*words: str) -> Any:
    """Run `salon WORDS --format json` and return what it printed. Raises RuntimeError with its last words.

    A command may answer "no" (exit code 1) and say so in JSON, as a round does that its gate refused.
    """
    done = subprocess.run([*SALON, *words, "--format", "json"], capture_output=True, text=True)
    if done.returncode > 1 or not done.stdout.strip():
        raise RuntimeError(f"salon {' '.join(words)} exited with {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout)


class Server:
    """`salon serve` as a process of its own, with its log in the demo's folder."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = (folder / "serve.log").open("ab")
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        words = [*SALON, "serve", "--config", str(folder / "salon.toml")]
        self._process = subprocess.Popen(words, stdout=self._log, stderr=self._log, env=environment)
        self._folder = folder

    def wait_ready(self, timeout_seconds: float = 60.0) -> float:
        """Wait for /health/ready; returns the seconds it took. Raises RuntimeError."""
        started = time.monotonic()
        while time.monotonic() - started < timeout_seconds:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health/ready", timeout=2) as answer:
                    if answer.status == 200:
                        return time.monotonic() - started
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the gateway did not become ready; its log is {self._folder / 'serve.log'}")

    def stop(self) -> None:
        """Stop as an operator would: SIGTERM, then wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._log.close()
