"""Everything as processes of this machine: brokers, ClickHouse's protocol over chDB, gateways, sinks, and proxies between them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "deploy/local/kafka"), str(HERE.parents[1] / "deploy/local/clickhouse")]

from gateway_process import CONTEST  # noqa: E402

SETTINGS = """\
[gateway]
listen = "127.0.0.1:{port}"
token_key = "file:{token_key}"
suspicious_events_per_minute = 0
[events]
log = "kafka://{bootstrap}/?partitions=6&replication_factor={replicas}&min_insync_replicas={insync}"
spool_max_bytes = {spool_bytes}
[warehouse]
url = "clickhouse://127.0.0.1:{warehouse}/salon"
[variants.base]
model = "salon/emoji-64"
steps = 1
guidance = 1.0
[variants.vivid]
extends = "base"
steps = 2
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Service:
    """One process, started again as often as asked. `deaths` counts those that were not our doing."""

    def __init__(self, name: str, words: list[str], folder: Path, environ: dict[str, str] | None = None) -> None:
        self.name, self._words, self._folder, self._environ = name, words, folder, environ
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start, and return at once."""
        self._output = (self._folder / f"{self.name}.log").open("ab")
        self._process = subprocess.Popen(
            self._words, stdout=self._output, stderr=subprocess.STDOUT, cwd=self._folder, env={**os.environ, **(self._environ or {})}
        )

    def send(self, number: int) -> None:
        """A signal, if it lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM, timeout_seconds: float = 40) -> None:
        """Signal and wait; killed when it does not go."""
        if self._process is None:
            return
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._output is not None:
            self._output.close()

    def revive(self) -> None:
        """Start it again if it ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            self.deaths += 1
            self.start()

    def tail(self, lines: int = 12) -> str:
        """Its last words."""
        return "\n".join((self._folder / f"{self.name}.log").read_text("utf-8", "replace").splitlines()[-lines:])


class Proxy:
    """fault_proxy.py, and commands to it."""

    def __init__(self, ways: dict[int, int], folder: Path) -> None:
        words = [sys.executable, str(HERE / "fault_proxy.py"), *(f"{a}={b}" for a, b in ways.items())]
        with (folder / "proxy.log").open("ab") as output:
            self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True)
        self._answer()

    def say(self, command: str) -> None:
        """Give a command and wait until it is obeyed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        self._answer()

    def end(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the proxy has died")


class Topology:
    """The whole of it in one folder. `sabotage` names a protection that the gateways or the sinks then lack (see saboteur.py)."""

    def __init__(self, folder: Path, *, brokers: int, gateways: int, sinks: int, spool: Path | None = None, sabotage: str = "") -> None:
        from local_clickhouse import LocalClickHouse
        from local_kafka import LocalKafka

        self.folder, self.brokers = folder, brokers
        # Each broker is reached through the proxy only, by clients and by the other brokers alike.
        self.broker_ports = [free_port() for _ in range(brokers)]
        self.kafka = LocalKafka(folder / "kafka", brokers=brokers, advertised=self.broker_ports)
        self.warehouse = LocalClickHouse(folder / "clickhouse")
        self.warehouse_port, self.gateway_ports = free_port(), [free_port() for _ in range(gateways)]
        self.client_ports = [free_port() for _ in range(gateways)]
        self.settings = {
            "bootstrap": ",".join(f"127.0.0.1:{port}" for port in self.broker_ports),
            "replicas": min(3, brokers),
            "insync": 2 if brokers >= 3 else 1,
            "warehouse": self.warehouse_port,
            "spool_bytes": 1 << 30,
            "token_key": folder / "token.key",
        }
        self.gateways = [self._gateway(i, spool if i == 0 else None, sabotage) for i in range(gateways)]
        self.sinks = [self._sink(i, sabotage) for i in range(sinks)]
        self.proxies: dict[str, Proxy] = {}
        self.key = ""

    @property
    def urls(self) -> list[str]:
        """Where clients send: the proxies in front of the gateways."""
        return [f"http://127.0.0.1:{port}" for port in self.client_ports]

    def start(self) -> None:
        """Everything, in order; returns when the gateways are ready. Raises RuntimeError with last words."""
        self.kafka.start()
        self.warehouse.start()
        behind = dict(zip(self.broker_ports, self.kafka.ports, strict=True))
        self.proxies["kafka"] = Proxy(behind, self.folder)
        self.proxies["warehouse"] = Proxy({self.warehouse_port: self.warehouse.port}, self.folder)
        self.proxies["clients"] = Proxy(dict(zip(self.client_ports, self.gateway_ports, strict=True)), self.folder)
        config = str(self.folder / "gateway-0/salon.toml")
        made = subprocess.run(
            [sys.executable, "-m", "salon.cli", "migrate", "--config", config], capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise RuntimeError(f"salon migrate: {made.stdout}{made.stderr}")
        self.gateways[0].start()
        self.ready(0)
        found = re.search(r"salon_[0-9a-f]{8}_\S+", (self.folder / "gateway-0/gateway-0.log").read_text())
        if found is None:
            raise RuntimeError(self.gateways[0].tail())
        self.key = found[0]
        for i, gateway in enumerate(self.gateways[1:], 1):
            shutil.copy(self.folder / "gateway-0/keys.toml", self.folder / f"gateway-{i}/keys.toml")
            gateway.start()
            self.ready(i)
        for sink in self.sinks:
            sink.start()

    def ready(self, i: int, timeout_seconds: float = 90) -> None:
        """Wait for a gateway. Raises RuntimeError."""
        until = time.monotonic() + timeout_seconds
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.gateway_ports[i]}/health/ready", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"gateway {i} did not become ready: {self.gateways[i].tail()}")

    def metrics(self, i: int) -> dict[str, float]:
        """A gateway's metrics without labels; empty while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.gateway_ports[i]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return {
            name: float(value) for name, _, value in (line.partition(" ") for line in lines if line and line[0] != "#" and "{" not in line)
        }

    def report(self) -> dict[str, Any]:
        """The contest's report as JSON, from the command line."""
        words = [
            sys.executable,
            "-m",
            "salon.cli",
            "report",
            "contest",
            "--format",
            "json",
            "--config",
            str(self.folder / "gateway-0/salon.toml"),
        ]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"salon report: {result.stderr}")
        read: dict[str, Any] = json.loads(result.stdout)
        return read

    def end(self) -> None:
        """Stop all."""
        for service in (*self.gateways, *self.sinks):
            service.end()
        for proxy in self.proxies.values():
            proxy.end()
        self.warehouse.stop()
        self.kafka.stop()

    def _gateway(self, i: int, spool: Path | None, sabotage: str) -> Service:
        folder = self.folder / f"gateway-{i}"
        folder.mkdir(parents=True)
        settings = SETTINGS.format(port=self.gateway_ports[i], **self.settings) + CONTEST
        if spool is not None:
            settings = settings.replace("spool_max_bytes", f'spool = "{spool / "var/spool"}"\nspool_max_bytes')
        (folder / "salon.toml").write_text(settings)
        return Service(f"gateway-{i}", [*program(sabotage, "gateway"), "serve", "--config", str(folder / "salon.toml")], folder)

    def _sink(self, i: int, sabotage: str) -> Service:
        words = [*program(sabotage, "sink"), "sink", "--config", str(self.folder / "gateway-0/salon.toml")]
        return Service(f"sink-{i}", words, self.folder / f"sink-{i}")


def program(sabotage: str, part: str) -> list[str]:
    """The salon command, or the one without a protection."""
    return [sys.executable, str(HERE / "saboteur.py"), sabotage] if sabotage.startswith(part) else [sys.executable, "-m", "salon.cli"]
