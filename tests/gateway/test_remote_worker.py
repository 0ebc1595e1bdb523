"""A gateway whose pictures are drawn by real `salon engine` processes, some of which are killed."""

import base64
import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from analytics.settings import Document
from gateway.app import create_app
from gateway.config import load
from gateway.keys import SCOPES, create_key
from gateway.running import Gateway
from serving.engine import Job, LocalEngine
from serving.registry import Registry

# No such warehouse: it is not needed here, and chDB takes seconds to open.
CONFIG = """
[warehouse]
url = "clickhouse://salon@127.0.0.1:9/salon"
[engines.gpu]
url = {urls}
device = "cpu"
token = "file:token"
[variants.base]
model = "{model}"
engine = "gpu"
steps = 10
[variants.vivid]
extends = "base"
guidance = 4.0
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
primary = "like_rate"
autostart = true
"""


class Worker:
    """`salon engine gpu` on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.folder, self.process = folder, None

    def start(self) -> None:
        words = [sys.executable, "-c", "import sys; from salon.cli import main; sys.exit(main())", "engine", "gpu"]
        words += ["--listen", f"127.0.0.1:{self.port}", "--config", str(self.folder / "salon.toml")]
        with (self.folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


def until(condition, seconds: float = 60.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture
def workers(tmp_path, model):
    (tmp_path / "token").write_text("hunter2")
    both = [Worker(tmp_path), Worker(tmp_path)]
    urls = [f"http://127.0.0.1:{worker.port}" for worker in both]
    (tmp_path / "salon.toml").write_text(CONFIG.format(urls=urls, model=model))
    for worker in both:
        worker.start()
    yield both
    for worker in both:
        if worker.process.poll() is None:
            worker.end(signal.SIGTERM)


@pytest.fixture
def gateway(workers, tmp_path):
    key = create_key(tmp_path / "keys.toml", "test", SCOPES)
    gateway = Gateway(load(Document.read(tmp_path / "salon.toml", {})))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(gateway), log_config=None, lifespan="on"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()
    listener.close()


def test_workers_die_and_come_back_under_load(workers, gateway, tmp_path, model, caplog):
    caplog.set_level(logging.INFO)

    def ready() -> bool:
        try:
            told = gateway.get("/health/ready").json()
        except httpx.TransportError:
            return False
        return told["ready"] and not any(part.startswith("engine") for part in told["details"])

    def ask(seed: int, **more) -> httpx.Response:
        body = {"model": "hero", "prompt": "a red heart", "seed": seed, "user": f"u{seed}", **more}
        return gateway.post("/v1/images/generations", json=body)

    until(ready)
    # the worker of a token answers nobody without it
    assert httpx.get(f"http://127.0.0.1:{workers[0].port}/v2/models/stats").status_code == 401

    answer = ask(5)
    record = gateway.get(f"/v1/generations/{answer.json()['generation_id']}").json()
    png = base64.b64decode(answer.json()["data"][0]["b64_json"])
    variant = load(Document.read(tmp_path / "salon.toml", {})).variants[record["served"]]
    local = LocalEngine(Registry(str(tmp_path / "registry")), cache=tmp_path / "var/cache")
    assert record["variant_digest"] == local.load(variant).digest and record["service_ms"] > 0
    drawn = local.submit(Job(variant=variant, prompt="a red heart", seed=5)).result()
    local.close()
    assert np.abs(np.asarray(Image.open(io.BytesIO(png))).astype(int) - drawn.rgb).max() <= 1

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, seed) for seed in range(20)]
        until(lambda: sum(each.done() for each in answers) >= 2)
        workers[0].end(signal.SIGKILL)
        assert {each.result().status_code for each in answers} == {200}
    generations = [gateway.get(f"/v1/generations/{each.result().json()['generation_id']}").json() for each in answers]
    assert all(each["arm"] == each["served"] and each["status"] == "ok" for each in generations)
    assert "a request is asked again" in caplog.text
    until(lambda: "cannot connect" in str(gateway.get("/health/ready").json()["details"]))

    workers[0].start()
    until(ready)
    workers[1].end(signal.SIGKILL)
    assert ask(77).status_code == 200
    workers[0].end(signal.SIGTERM)
    gone = ask(78)
    assert gone.status_code == 503 and gone.headers["retry-after"] and "no worker of engine 'gpu'" in gone.text
    assert "hunter2" not in caplog.text
