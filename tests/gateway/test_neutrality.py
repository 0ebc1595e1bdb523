"""A gateway in this process with arms of 2 and 6 steps: held alike, told in events and metrics, streamed, left mid-way."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from test_gateway_app import Live

from serving.engine import LocalEngine

CONFIG = """
[events]
log = "local:var/events"
[variants.two]
model = "{model}"
steps = 2
[variants.six]
extends = "two"
steps = 6
[variants.long]
extends = "two"
steps = 300
[routes.hero]
serve = "two"
[routes.slow]
serve = "long"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.alike]
route = "hero"
arms = {{ two = 0.5, six = 0.5 }}
control = "two"
primary = "like_rate"
equalise = true
autostart = true
"""
IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def engines() -> Iterator[list[LocalEngine]]:
    """The engines that the gateway makes, for their statistics."""
    made: list[LocalEngine] = []
    begin = LocalEngine.__init__

    def noting(self: LocalEngine, *given: object, **named: object) -> None:
        begin(self, *given, **named)  # type: ignore[arg-type]
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "__init__", noting)
        yield made


@pytest.fixture(scope="module")
def salon(tmp_path_factory: pytest.TempPathFactory, model: Path, engines: list[LocalEngine]) -> Iterator[Live]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.images.PING_SECONDS", 0.03)
        live = Live(tmp_path_factory.mktemp("neutrality"), CONFIG, model=model)
        yield live
        live.stop()


def test_the_faster_of_two_arms_is_held_and_events_say_so(salon):
    """From the 30th request of both arms on. That waits are then alike in mean and shape is shown, without noise, in test_equalise.py."""
    answered = {}
    for i in range(110):
        began = time.perf_counter()
        shown = salon.client.generate("a cat", route="hero", user=f"unit {i}")
        answered[shown.generation_id] = 1000 * (time.perf_counter() - began)
    told = [event for event in salon.events("generation", 110) if event.experiment == "alike"]
    assert len(told) == 110 and {event.status for event in told} == {"ok"}
    counts, held = {"two": 0, "six": 0}, {"two": [], "six": []}
    for event in told:
        counts[event.arm] += 1
        hold_ms = float(event.attributes.get("held_ms", 0))
        if min(counts.values()) < 30:
            assert hold_ms == 0
        else:
            held[event.arm].append(hold_ms)
    assert np.mean(np.array(held["two"]) > 0) > 0.5 and np.mean(held["two"]) > np.mean(held["six"])
    for event in told:  # what was held was waited for, and is told as waiting
        hold_ms = float(event.attributes.get("held_ms", 0))
        assert hold_ms <= event.queue_ms + 0.1 and event.queue_ms + event.service_ms <= answered[str(event.generation_id)]
    assert {event.attributes["rows"] for event in told} == {"2"} and {event.attributes["batch_rows"] for event in told} == {"2.00"}
    text = httpx.get(f"{salon.url}/metrics").text
    assert 'salon_latency_gap_low_ms{arm="six",experiment="alike"}' in text
    counted = {
        arm: text.split(f'salon_arm_generations_total{{arm="{arm}",experiment="alike",status="ok"}} ')[1].split()[0] for arm in counts
    }
    assert sum(map(float, counted.values())) == 110


def streamed(salon, **asked):
    """(comments, [(event, data)]) of one streamed request."""
    body = {"prompt": "a cat", "stream": True, **asked}
    lines = httpx.post(salon.url + IMAGES, json=body, headers={"authorization": f"Bearer {salon.key}"}, timeout=60).text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return [line for line in lines if line.startswith(":")], list(zip(names, data, strict=True))


def test_a_stream_shows_pictures_unfold_and_counts_down(salon):
    comments, events = streamed(salon, model="slow", n=2, partial_images=3, output_format="webp")
    partial = [data for name, data in events if name == "image_generation.partial_image"]
    assert [name for name, _ in events[-2:]] == ["image_generation.completed"] * 2 and len(events) == 8
    for position in (0, 1):
        own = [data for data in partial if data["position"] == position]
        assert [data["partial_image_index"] for data in own] == [0, 1, 2]
        assert all(data["remaining_ms"] > 0 for data in own)
        assert len({data["b64_json"] for data in own}) == 3
    assert all(base64.b64decode(data["b64_json"])[8:12] == b"WEBP" and data["output_format"] == "webp" for data in partial)
    left = [float(comment.split()[2]) for comment in comments if comment.startswith(": remaining ")]
    assert left and left[-1] < max(left) and all(comment.endswith(" ms") for comment in comments)
    # neither kept nor logged
    (generation,) = [event for event in salon.events("generation") if event.route == "slow" and event.status == "ok"]
    assert len([event for event in salon.events("image", 2) if event.generation_id == generation.generation_id]) == 2


def test_arms_that_are_held_alike_do_not_unfold(salon):
    _, events = streamed(salon, model="hero", user="ada", partial_images=2)
    assert [name for name, _ in events] == ["image_generation.completed"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_mid_way_frees_its_places_within_a_step(salon, engines, stream, monkeypatch):
    monkeypatch.setattr("gateway.images.PING_SECONDS", 30)
    (engine,) = engines
    digest = salon.gateway.engines.loaded(salon.gateway.config.variants["long"]).digest

    def tally():
        return engine.statistics().variants.get(digest)

    before, left = tally(), len([e for e in salon.events("generation") if e.status == "cancelled"])
    calls = {name: lane.calls for name, lane in engine.statistics().lanes.items()}
    body = json.dumps({"prompt": "a cat", "model": "slow", "n": 3, "stream": stream}).encode()
    host, port = salon.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as wire:
        head = f"POST {IMAGES} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {salon.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        wire.sendall(head.encode() + body)
        limit = time.monotonic() + 30
        while sum(lane.calls for lane in engine.statistics().lanes.values()) < sum(calls.values()) + 5 and time.monotonic() < limit:
            time.sleep(0.002)
    limit = time.monotonic() + 30
    while engine.queue_seconds() > 0 and time.monotonic() < limit:
        time.sleep(0.005)
    after = tally()
    assert after.cancelled - (before.cancelled if before else 0) == 3 and after.done == (before.done if before else 0)
    assert sum(lane.calls for lane in engine.statistics().lanes.values()) - sum(calls.values()) < 250
    limit = time.monotonic() + 30
    while len(found := [e for e in salon.events("generation") if e.status == "cancelled"]) == left and time.monotonic() < limit:
        time.sleep(0.02)
    assert len(found) == left + 1 and found[-1].attributes["error"] == "ClientGone"
