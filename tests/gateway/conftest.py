"""A tiny real model, built once and kept, and real gateways on loopback."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

SERVING_FIXTURES = Path(__file__).parents[1] / "serving" / "conftest.py"
BUILD = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("serving_fixtures", sys.argv[1])
fixtures = importlib.util.module_from_spec(spec); spec.loader.exec_module(fixtures)
from serving.export import export_directory
class Folder:
    def mktemp(self, name): return pathlib.Path(sys.argv[2])
folder = fixtures.tiny_model.__wrapped__(Folder())
export_directory(folder)
"""


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> Path:
    """A randomly initialised model of 32x32 pixels in diffusers layout, with its graphs; kept from run to run."""
    folder = request.config.cache.mkdir("salon-gateway-model")
    if not (folder / "done").exists():
        environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", BUILD, str(SERVING_FIXTURES), str(folder)], check=True, env=environ)
        (folder / "done").touch()
    return folder / "tiny"


CONFIG = """
[gateway]
listen = "127.0.0.1:{port}"
[variants.base]
model = "{model}"
steps = 2
[variants.vivid]
extends = "base"
steps = 3
[routes.hero]
serve = "base"
[routes.side]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[metrics.zoom_rate]
kind = "proportion"
event = "zoom"
[experiments.colours]
route = "hero"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
primary = "like_rate"
autostart = true
[experiments.colours-two]
route = "hero"
arms = {{ base = 0.8, vivid = 0.2 }}
control = "base"
primary = "like_rate"
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """`salon serve` as its own process in a folder of its own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.port, self.key = folder, free_port(), ""
        self.config = folder / "salon.toml"
        self.config.write_text(CONFIG.format(port=self.port, model=model))
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> "Server":
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "salon", "serve", "--config", str(self.config)]
        if importlib.util.find_spec("salon.__main__") is None:
            command = [sys.executable, "-c", "import sys; from salon.cli import main; sys.exit(main())", *command[3:]]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environ, cwd=self.folder)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_seconds: float = 90.0) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            if match := re.search(r"(salon_[0-9a-f]{8}_\S+)", line):
                self.key = match[1]
            if "listens" in line:
                break
        limit = time.monotonic() + timeout_seconds
        while time.monotonic() < limit:
            try:
                if httpx.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not ready: {(self.folder / 'server.log').read_text()[-3000:]}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(90)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def client(self, key: str | None = None) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key or self.key}"}, timeout=60)


@pytest.fixture(scope="session")
def server_in(model: Path) -> Callable[[Path], Server]:
    """Make a gateway in a folder; whoever starts it ends it."""
    return lambda folder: Server(folder, model)


@pytest.fixture
def make_server(tmp_path: Path, model: Path) -> Iterator[Callable[[], Server]]:
    servers: list[Server] = []

    def make() -> Server:
        folder = tmp_path / f"gateway-{len(servers)}"
        folder.mkdir()
        servers.append(Server(folder, model))
        return servers[-1]

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Server]:
    """One gateway that the tests of a session share."""
    server = Server(tmp_path_factory.mktemp("gateway"), model).start()
    yield server
    if server.process is not None and server.process.poll() is None:
        assert server.stop() == 0


@pytest.fixture(scope="session")
def http(running: Server) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client
