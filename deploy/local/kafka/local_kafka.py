"""Apache Kafka on this machine, one broker or three: started, stopped, killed, paused; the same data after a restart."""

import base64
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kafka_jars

START_SECONDS = 90.0
STOP_SECONDS = 20.0
# A tenth of the usual session: a killed broker is replaced, and may come back, within seconds.
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "INTERNAL",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "auto.create.topics.enable": "false",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "200",
    "controlled.shutdown.enable": "true",
    "group.min.session.timeout.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",
}


class LocalKafka:
    """A KRaft cluster in `folder`, every process broker and controller.

    `brokers` is 1 or 3; three replicate three times with min.insync.replicas 2. `port` is the first broker's (the others
    follow; 0: free ones). `tls` is a PEM file (PKCS 8 key, then certificates) and makes the clients' listener TLS; `scram`
    maps users to passwords and makes it SASL with SCRAM-SHA-512 and -256.
    `more_tls` adds TLS listeners by name, each with its own PEM file.
    `advertised` are the ports that clients are told to come back to, one for each broker: those of proxies in front.
    A folder that was started before keeps its data and its ports.
    """

    def __init__(
        self,
        folder: Path,
        *,
        brokers: int = 1,
        port: int = 0,
        tls: Path | None = None,
        scram: Mapping[str, str] | None = None,
        more_tls: Mapping[str, Path] | None = None,
        settings: Mapping[str, str] | None = None,
        advertised: Sequence[int] = (),
    ) -> None:
        if brokers not in (1, 3):
            raise ValueError(f"brokers is {brokers}; take 1 or 3")
        self.folder, self.brokers = folder.absolute(), brokers
        self._scram = dict(scram or {})
        self._keystores = {"CLIENT": tls} if tls else {}
        self._keystores |= {name.upper(): path for name, path in (more_tls or {}).items()}
        self._client = {(False, False): "PLAINTEXT", (True, False): "SSL", (False, True): "SASL_PLAINTEXT", (True, True): "SASL_SSL"}[
            bool(tls), bool(scram)
        ]
        self._settings = dict(settings or {})
        self._advertised = tuple(advertised)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._facts = self._remembered(port)

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT[,HOST:PORT…]` of the clients' listener."""
        return self.bootstrap_of("CLIENT")

    def bootstrap_of(self, listener: str) -> str:
        """The same for a listener of `more_tls`, or for INTERNAL: plaintext, without passwords."""
        return ",".join(f"127.0.0.1:{self._port(n, listener)}" for n in range(1, self.brokers + 1))

    @property
    def ports(self) -> list[int]:
        """Where the brokers listen for clients, the first broker's first."""
        return [self._port(n, "CLIENT") for n in range(1, self.brokers + 1)]

    def start(self) -> "LocalKafka":
        """Format what is new, start what does not run, wait until every broker serves. Raises KafkaMissing, TimeoutError."""
        fresh = [n for n in range(1, self.brokers + 1) if not self.running(n)]
        for n in fresh:
            self._configure(n)
        self._format([n for n in fresh if not (self._home(n) / "data" / "meta.properties").exists()])
        for n in fresh:
            self._launch(n)
        self._wait(range(1, self.brokers + 1))
        return self

    def start_one(self, n: int) -> None:
        """Start broker `n` (from 1) again on its data, and wait until it serves."""
        if not self.running(n):
            self._launch(n)
        self._wait([n])

    def stop(self) -> None:
        """End every broker in order: SIGTERM, after 20 s SIGKILL."""
        for n in range(1, self.brokers + 1):
            self._signal(n, signal.SIGCONT)
            self._signal(n, signal.SIGTERM)
        for n in range(1, self.brokers + 1):
            if not self._gone(n, STOP_SECONDS):
                self.kill(n)

    def kill(self, n: int = 1) -> None:
        """kill -9."""
        self._signal(n, signal.SIGKILL)
        self._gone(n, STOP_SECONDS)

    def pause(self, n: int = 1) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._signal(n, signal.SIGSTOP)

    def resume(self, n: int = 1) -> None:
        """SIGCONT."""
        self._signal(n, signal.SIGCONT)

    def running(self, n: int = 1) -> bool:
        """Whether broker `n` has a process, paused or not."""
        return self._pid(n) is not None

    def log(self, n: int = 1) -> Path:
        """What broker `n` wrote about itself."""
        return self._home(n) / "broker.log"

    def _home(self, n: int) -> Path:
        return self.folder / f"broker-{n}"

    def _port(self, n: int, listener: str) -> int:
        return int(self._facts["ports"][f"{n}.{listener.upper()}"])

    def _remembered(self, port: int) -> dict[str, Any]:
        """Cluster id and ports, kept beside the data."""
        path = self.folder / "cluster.json"
        names = ["CLIENT", *(name for name in self._keystores if name != "CLIENT"), "INTERNAL", "CONTROLLER"]
        wanted = [f"{n}.{name}" for name in names for n in range(1, self.brokers + 1)]
        if path.exists():
            facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if set(facts["ports"]) != set(wanted) or (port and facts["ports"]["1.CLIENT"] != port):
                raise ValueError(f"{self.folder} holds a cluster with other listeners or ports ({facts['ports']}); take another folder")
            return facts
        given = list(range(port, port + self.brokers)) if port else []
        ports = dict(zip(wanted, given + _free_ports(len(wanted) - len(given)), strict=True))
        facts = {"cluster_id": base64.urlsafe_b64encode(uuid.UUID(int=random.getrandbits(128)).bytes).decode().rstrip("="), "ports": ports}
        path.write_text(json.dumps(facts), "utf-8")
        return facts

    def _configure(self, n: int) -> None:
        home = self._home(n)
        home.mkdir(parents=True, exist_ok=True)
        kinds = {"CLIENT": self._client, **{name: "SSL" for name in self._keystores if name != "CLIENT"}}
        kinds |= {"INTERNAL": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        told = {name: self._port(n, name) for name in kinds if name != "CONTROLLER"}
        if self._advertised:
            told["CLIENT"] = self._advertised[n - 1]
        copies, in_sync = (3, 2) if self.brokers == 3 else (1, 1)
        settings = SETTINGS | {
            "node.id": str(n),
            "controller.quorum.voters": ",".join(f"{m}@127.0.0.1:{self._port(m, 'CONTROLLER')}" for m in range(1, self.brokers + 1)),
            "listeners": ",".join(f"{name}://127.0.0.1:{self._port(n, name)}" for name in kinds),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in told.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in kinds.items()),
            "log.dirs": str(home / "data"),
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(in_sync),
        }
        for name, path in self._keystores.items():
            settings |= {
                f"listener.name.{name.lower()}.ssl.keystore.type": "PEM",
                f"listener.name.{name.lower()}.ssl.keystore.location": str(path.absolute()),
            }
        if self._scram:
            settings["sasl.enabled.mechanisms"] = "SCRAM-SHA-512,SCRAM-SHA-256"
            for mechanism in ("scram-sha-512", "scram-sha-256"):
                login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
                settings[f"listener.name.client.{mechanism}.sasl.jaas.config"] = login
        lines = (f"{key}={value}" for key, value in (settings | self._settings).items())
        (home / "server.properties").write_text("\n".join(lines) + "\n", "utf-8")

    def _format(self, brokers: list[int]) -> None:
        users: list[str] = []
        for name, password in self._scram.items():
            for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256"):
                users += ["--add-scram", f"{mechanism}=[name={name},password={password}]"]
        running = []
        for n in brokers:
            line = ["format", f"--cluster-id={self._facts['cluster_id']}", "-c", str(self._home(n) / "server.properties"), *users]
            started = kafka_jars.command("kafka.tools.StorageTool", *line, heap_megabytes=128)
            running.append(subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        for process in running:
            output, _ = process.communicate()
            if process.returncode:
                raise OSError(f"Kafka could not format its folder: {output.decode()[-1000:]}")

    def _launch(self, n: int) -> None:
        for key, port in self._facts["ports"].items():
            if key.startswith(f"{n}.") and _taken(port):
                raise OSError(
                    f"port {port} of Kafka broker {n} ({key[2:].lower()}) is taken by another program; take another port and folder"
                )
        line = kafka_jars.command("kafka.Kafka", str(self._home(n) / "server.properties"), heap_megabytes=384)
        with self.log(n).open("ab") as log:
            self._processes[n] = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        (self._home(n) / "pid").write_text(str(self._processes[n].pid), "utf-8")

    def _wait(self, brokers: "range | list[int]") -> None:
        """Until each of `brokers` says itself that the cluster has it among its members."""
        deadline = time.monotonic() + START_SECONDS
        for n in brokers:
            while not _serves(self._port(n, "INTERNAL"), n):
                if not self.running(n):
                    raise OSError(f"Kafka broker {n} ended at once: {self.log(n).read_text('utf-8', 'replace')[-1500:]}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"Kafka broker {n} does not serve after {START_SECONDS:.0f} s; see {self.log(n)}")
                time.sleep(0.1)

    def _pid(self, n: int) -> int | None:
        """The process of broker `n`, also one that another process started."""
        if n in self._processes:
            return None if self._processes[n].poll() is not None else self._processes[n].pid
        try:
            pid = int((self._home(n) / "pid").read_text("utf-8"))
            # A number may have gone to another process since.
            return pid if str(self._home(n)).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except (OSError, ValueError):
            return None

    def _signal(self, n: int, number: signal.Signals) -> None:
        if (pid := self._pid(n)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _gone(self, n: int, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.running(n):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _free_ports(count: int) -> list[int]:
    """Free now, and below the range for outgoing connections: one of those would take the port of a killed broker."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", random.randrange(15000, 32000)))
                found.append(one.getsockname()[1])
        return found


def _taken(port: int) -> bool:
    with socket.socket() as one:
        # As Kafka does: what is left of a killed broker's connections does not count.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _serves(port: int, node: int) -> bool:
    """Ask for the cluster's members (Metadata version 1, no topics) and look for `node`."""
    # length, api key 3, version 1, correlation 1, no client id, an empty array of topics
    request = bytes.fromhex("0000000e 0003 0001 00000001 ffff 00000000".replace(" ", ""))
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(2)
            connection.sendall(request)
            reply = b""
            while len(reply) < 4 or len(reply) < 4 + int.from_bytes(reply[:4], "big"):
                part = connection.recv(65536)
                if not part:
                    return False
                reply += part
    except OSError:
        return False
    count, at = int.from_bytes(reply[8:12], "big"), 12
    for _ in range(count):
        if int.from_bytes(reply[at : at + 4], "big") == node:
            return True
        at += 6 + int.from_bytes(reply[at + 4 : at + 6], "big") + 4
        rack = int.from_bytes(reply[at : at + 2], "big", signed=True)
        at += 2 + max(rack, 0)
    return False
