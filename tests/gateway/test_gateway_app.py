"""In one process, with real parts: overload, fallback, a client that leaves, a log that is full or away, `salon.Client`, doctor."""

import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from analytics.event_log import open_log
from analytics.events import control_event
from analytics.settings import Document
from analytics.warehouse.client import Warehouse
from gateway.app import create_app
from gateway.config import load
from gateway.doctor import examine
from gateway.keys import SCOPES, create_key
from gateway.running import Gateway
from salon import Client, GatewayError

CONFIG = """
[events]
log = "local:var/events{log_options}"
[gateway]
max_queue_seconds = {queue_seconds}
[variants.base]
model = "{model}"
steps = {steps}
[variants.broken]
extends = "base"
adapter = "registry:gone@sha256:{digest}"
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.risky]
route = "hero"
arms = {{ base = 0.0, broken = 1.0 }}
control = "base"
primary = "like_rate"
"""


class Live:
    """A gateway on loopback, served by a thread of this process."""

    def __init__(self, folder: Path, config: str = CONFIG, **options: object) -> None:
        path = folder / "salon.toml"
        values = {"log_options": "", "queue_seconds": 60, "steps": 2, "digest": "0" * 64, **options}
        path.write_text(config.format(**values))
        self.gateway = Gateway(load(Document.read(path, {})))
        self.key = create_key(folder / "keys.toml", "test", SCOPES)
        self.gateway.keys.refresh()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(create_app(self.gateway), log_config=None, lifespan="on"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        self.client = Client(self.url, self.key, timeout_seconds=120)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                if self.client.ready().get("ready"):
                    return
            except OSError:
                pass
            time.sleep(0.05)
        told = self.gateway.readiness()
        self.stop()
        raise AssertionError(f"not ready: {told}")

    def events(self, kind: str, at_least: int = 0):
        """Events of a kind in the log; an answer may be a moment ahead of them."""
        limit = time.monotonic() + 60
        while len(found := self._events(kind)) < at_least and time.monotonic() < limit:
            time.sleep(0.05)
        return found

    def _events(self, kind: str):
        return [event for _, event in self.gateway.event_log.read(0, 100_000) if event.kind == kind]

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def live(tmp_path: Path, model: Path) -> Iterator[Callable[..., Live]]:
    opened: list[Live] = []

    def start(**options: object) -> Live:
        opened.append(Live(tmp_path, model=model, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.stop()


def test_an_arm_that_cannot_be_made_falls_back_and_keeps_its_unit(live):
    salon = live()
    salon.client.change("risky", "start")
    shown = salon.client.generate("a cat", user="ada", n=2)
    assert len(shown.images) == 2 and shown.arm == "broken"
    (exposure,), (generation,), images = salon.events("exposure", 1), salon.events("generation", 1), salon.events("image", 2)
    assert exposure.arm == generation.arm == images[0].arm == "broken" and exposure.propensity == 1.0
    assert generation.status == "failed" and generation.attributes["served"] == "base" and generation.attributes["error"] == "ModelError"
    assert (
        generation.variant_digest == images[0].variant_digest == salon.gateway.engines.loaded(salon.gateway.config.variants["base"]).digest
    )
    assert "gone" in salon.client.ready()["details"]["arm broken"]
    assert salon.client.feedback("like", token=shown.token)["status"] == "accepted"


def test_overload_is_429_with_retry_after_and_leaves_no_trace(live):
    salon = live(queue_seconds=0.05, steps=400)
    errors: list[GatewayError] = []

    def ask() -> None:
        try:
            Client(salon.url, salon.key).generate("a cat", user="ada", n=10)
        except GatewayError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors and {error.status for error in errors} == {429}
    assert all(error.retry_after_seconds >= 1 for error in errors)
    assert errors[0].problem["error"]["type"] == "rate_limit_error"
    assert len(salon.events("generation", 4 - len(errors))) == 4 - len(errors)


def test_what_a_leaving_client_left_in_the_queue_is_dropped(live):
    salon = live(steps=150, queue_seconds=1e6)
    path = "/v1/images/generations"
    body = b'{"prompt":"a cat","model":"hero","user":"ada","n":10}'
    host, port = salon.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {salon.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        wire.sendall(head.encode() + body)
        limit = time.monotonic() + 30
        while salon.gateway.engines.queue_seconds() == 0 and time.monotonic() < limit:
            time.sleep(0.005)
    (generation,) = salon.events("generation", 1)
    assert generation.status == "cancelled"
    assert salon.events("image") == [] and salon.gateway.engines.queue_seconds() == 0


def test_a_full_log_refuses_feedback_but_not_images(live):
    """256 kB of log whose sink has stopped: feedback gets 503 with Retry-After, pictures are still made."""
    salon = live(log_options="?max_bytes=262144")
    shown = salon.client.generate("a cat", user="ada")
    limit = time.monotonic() + 30
    while salon.client.ready()["details"] and time.monotonic() < limit:
        time.sleep(0.05)
    salon.gateway.reports.close()
    batch = [{"kind": "like", "feedback_token": shown.token, "attributes": {"note": "x" * 500}} for _ in range(200)]
    accepted = 0
    for size in (200, 20, 1):
        with pytest.raises(GatewayError) as refused:
            for _ in range(400):
                accepted += len(salon.client.send(batch[:size]))
    assert refused.value.status == 503 and refused.value.retry_after_seconds >= 1
    assert len(salon.events("like")) == accepted > 0
    began = time.monotonic()
    assert len(salon.client.generate("a cat " + "x" * 20_000, user="ada", n=2).images) == 2
    assert time.monotonic() - began < 20
    assert "wait for the log" in salon.client.ready()["details"]["events"]


def test_a_log_that_cannot_be_written_refuses_feedback_with_503(live, monkeypatch):
    """Another connection holds SQLite's write lock for longer than the log waits: a real OSError."""
    monkeypatch.setattr("analytics.local_log.BUSY_SECONDS", 0.5)
    salon = live()
    shown = salon.client.generate("a cat", user="ada")
    blocker = sqlite3.connect(salon.gateway.config.var / "events/events.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(GatewayError) as refused:
            salon.client.feedback("like", token=shown.token)
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert refused.value.status == 503 and "nothing was stored" in refused.value.problem["detail"]
    assert salon.client.feedback("like", token=shown.token)["status"] == "accepted"
    assert len(salon.events("like")) == 1


def test_the_client_repeats_by_idempotency_key_and_speaks_of_errors(live):
    salon = live()
    first, again = (salon.client.generate("a cat", user="ada", n=2, idempotency_key="k") for _ in range(2))
    assert first == again
    with pytest.raises(GatewayError, match="404: `model` is"):
        salon.client.generate("a cat", route="nope")
    left, right = (image.image_id for image in first.images)
    assert salon.client.preference(left, right, rater="x")["status"] == "accepted"
    assert salon.client.assignments("hero", ["a", "b"])[0]["arm"] is None
    assert salon.client.report("risky")["decision"]["action"] in ("keep_running", "invalid")
    assert salon.client.forget("ada")["erased"]["pictures"] == 2
    forgotten = salon.client.generate("a cat", user="ada", n=2, idempotency_key="k")
    assert forgotten.generation_id != first.generation_id


def test_doctor_says_what_is_well_and_what_is_wrong(tmp_path, model):
    path = tmp_path / "salon.toml"
    values = {"log_options": "", "queue_seconds": 60, "steps": 2, "digest": "0" * 64, "model": model}
    path.write_text(CONFIG.format(**values))
    findings = {finding.part: finding for finding in examine(path)}
    assert {part for part, finding in findings.items() if not finding.ok} == {"variant broken"}
    assert "32x32" in findings["variant base"].text and "gone" in findings["variant broken"].text
    path.write_text("[gatewayy]\n")
    (finding,) = examine(path)
    assert finding.part == "config" and not finding.ok and "did you mean 'gateway'" in finding.text


def test_doctor_tells_the_truth_about_events_that_were_set_aside(tmp_path, model):
    path = tmp_path / "salon.toml"
    path.write_text(CONFIG.format(log_options="", queue_seconds=60, steps=2, digest="0" * 64, model=model))
    log = open_log(f"local:{tmp_path}/var/events")
    log.submit([control_event("", "", "configure", "me", "", {})]).result(10)
    log.set_aside(1, "seed is too large")
    log.close()
    (found,) = [finding for finding in examine(path) if finding.part == "events"]
    assert not found.ok and "the first at position 1: seed is too large" in found.text
    named = set(re.findall(r"`salon ([a-z]+)", found.text))
    assert named == {"replay"}


def test_doctor_knows_an_old_log_beside_a_newer_warehouse(tmp_path, model):
    path = tmp_path / "salon.toml"
    path.write_text(CONFIG.format(log_options="", queue_seconds=60, steps=2, digest="0" * 64, model=model))
    log = open_log(f"local:{tmp_path}/var/events")
    log.submit([control_event("", "", "configure", "me", "", {})]).result(10)
    warehouse = Warehouse.open(f"chdb://{tmp_path}/var/warehouse")
    warehouse.migrate()
    warehouse.insert(log.name, 1, 7, [])
    warehouse.close()
    log.close()
    (found,) = [finding for finding in examine(path) if finding.part == "warehouse"]
    assert not found.ok and "up to position 7, but the log ends at 1" in found.text


def test_feedback_on_what_an_erased_unit_was_shown_brings_nobody_back(live):
    salon = live()
    before, other = (salon.client.generate("a cat", user=user, n=2) for user in ("olga", "bob"))
    salon.events("image", 4)
    salon.client.forget("olga")
    for again in (False, True):
        if again:
            # The list outlives the process.
            salon.stop()
            salon.gateway.config.keys_path.unlink()
            salon = live()
        with pytest.raises(GatewayError, match="erased with its unit") as refused:
            salon.client.feedback("like", token=before.token)
        assert refused.value.status == 404 and refused.value.problem["field"] == "feedback_token"
        batch = [{"kind": "like", "feedback_token": shown.token} for shown in (before, other)]
        assert [result["status"] for result in salon.client.send(batch)] == ["rejected", "accepted"]
        with pytest.raises(GatewayError, match="404"):
            salon.client.preference(other.images[0].image_id, before.images[0].image_id)
        back = salon.client.generate("a cat", user="olga")
        assert salon.client.feedback("like", token=back.token)["status"] == "accepted"
    kept = [event.generation_id for _, event in salon.gateway.event_log.read(0, 100_000) if event.unit == "olga"]
    assert kept and before.generation_id not in map(str, kept)
    assert "olga" not in (salon.gateway.config.var / "state/erased.jsonl").read_text()
