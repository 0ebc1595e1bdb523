"""A ClickHouse for tests, on this machine: the shim over chDB, started, stopped, killed, paused; the same data after a restart."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

SHIM = Path(__file__).parent / "shim.py"
STOP_SECONDS = 10.0
DATABASE = "salon"


class LocalClickHouse:
    """ClickHouse's HTTP protocol over the chDB in `folder`, as a process. A folder keeps its data; a port is kept over restarts."""

    def __init__(self, folder: Path, port: int = 0, *, password: str = "", seed: int = 0) -> None:
        self.folder, self.port = folder, port
        self._password, self._seed = password, seed
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """For `Warehouse.open` and `[warehouse] url`."""
        user = f"default:{urllib.parse.quote(self._password, safe='')}@" if self._password else ""
        return f"clickhouse://{user}127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process else None

    def start(self) -> "LocalClickHouse":
        """Start, and return when it listens. Raises RuntimeError when it ends instead."""
        if self._process is not None:
            raise RuntimeError(f"the shim on {self.folder} runs already")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        words = ["--folder", str(self.folder), "--port", str(self.port), "--seed", str(self._seed), f"--password={self._password}"]
        process = subprocess.Popen([sys.executable, str(SHIM), *words], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        process.stdout.close()
        if not line:
            raise RuntimeError(f"the shim on {self.folder} ended with {process.wait()}")
        self.port, self._process = int(line), process
        return self

    def stop(self) -> None:
        """End it as a service is ended; kill it when it does not end."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """kill -9, also of a paused one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def fault(self, kind: str, **options: Any) -> None:
        """From now on this fault and no other; see shim.py for kinds and options."""
        self._post([{"kind": kind, **options}])

    def faults(self) -> list[dict[str, Any]]:
        """The rules set, each with how often it was `used`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/faults", timeout=10) as answer:
            rules: list[dict[str, Any]] = json.loads(answer.read())
        return rules

    def clear_faults(self) -> None:
        """No more faults."""
        self._post([])

    def _post(self, rules: list[dict[str, Any]]) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/faults", json.dumps(rules).encode(), method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
