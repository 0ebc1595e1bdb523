"""A grid of several arms on an engine that is full, broken or slow: all of it, or nothing."""

import asyncio
import random

import msgspec
import numpy as np
import pytest

from analytics.events import new_id, utc_now
from analytics.experiment import Experiment
from gateway.assignment import Split, allocate
from gateway.draws import draw
from gateway.generation import Started, render
from gateway.image_request import ImageRequest
from gateway.ledger import Life
from gateway.plans import Plan, View
from gateway.problems import ClientGone, GenerationFailed, Overloaded
from serving.errors import Busy
from serving.job import Loaded, Picture
from serving.variant import Variant

VARIANTS = {name: Variant(model=name, steps=2) for name in ("a", "b", "served")}
PIXELS = np.zeros((1, 1, 3), np.uint8)


class Engine:
    """Draws a variant after `seconds`, or raises what `fails` says; `places`: it refuses whoever comes while so many wait."""

    def __init__(self, places=100, seconds=0.0, fails=None):
        self.places, self.seconds, self.fails = places, seconds, fails or {}
        self.waiting, self.drawn, self.cancelled = 0, [], 0

    async def load(self, variant):
        return Loaded(f"sha256:{variant.model}", 1, 1)

    def queue_seconds(self):
        return float(self.waiting)

    async def draw(self, variant, jobs, *, deadline_seconds, watch):
        if error := self.fails.get(variant.model):
            raise error
        if self.waiting >= self.places:
            raise Busy(3.0)
        self.waiting += len(jobs)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= len(jobs)
        self.drawn += [(variant.model, job.seed) for job in jobs]
        return [Picture(rgb=PIXELS, queue_ms=1, service_ms=job.seed) for job in jobs]


async def rendered(engine, serve="served", gone=None):
    declared = Experiment(route="hero", arms={"a": 0.5, "b": 0.5}, control="a", primary="like_rate", design="interleave")
    now = utc_now()
    life = Life(name="mixed", declared=declared, allocation=allocate("", declared.arms), state="running", started_at=now.isoformat())
    plan = Plan("hero", serve, life, Split(life.allocation))
    started = Started(
        request=ImageRequest(prompt="a cat", n=4), generation_id=new_id(), created_at=now, plan=plan,
        draw=await draw(plan, "ada", 4, now, None, random.Random(1)), unit="ada", anonymous=False, size="1x1", seed=10, order=(2, 0, 3, 1),
    )  # fmt: skip
    return started, await render(started, View({"hero": plan}, VARIANTS), engine, gone or asyncio.Event(), 5.0)


async def test_pictures_stand_where_their_arm_was_drawn():
    started, finished = await rendered(Engine())
    assert [picture.seed for picture in finished.record.images] == [12, 10, 13, 11] == [p.service_ms for p in finished.pictures]
    assert [picture.arm for picture in finished.record.images] == list(started.draw.arms) == finished.served.split(",")
    shown = finished.record.claims().images
    assert [one.arm for one in shown] == list(started.draw.arms) and {one.propensity for one in shown} == {0.5}
    # What the store keeps opens again.
    record = msgspec.json.decode(msgspec.json.encode(finished.record), type=type(finished.record))
    assert record == finished.record
    # And so does what the last release kept: it knew nothing of arms by picture.
    then = msgspec.to_builtins(finished.record) | {"arm": "vivid", "served": "vivid", "variant_digest": "sha256:v"}
    then |= {
        "variant": then["variants"]["a"],
        "images": [{k: v for k, v in one.items() if k in ("image_id", "position", "seed")} for one in then["images"]],
    }
    del then["variants"], then["facts"]
    claims = msgspec.convert(then, type(finished.record)).claims()
    assert claims.arm == "vivid" and {(one.variant_digest, one.arm, one.propensity) for one in claims.images} == {("sha256:v", "", None)}


async def test_a_request_that_is_let_in_is_drawn_whole_though_its_first_arm_fills_the_queue():
    engine = Engine(places=2, seconds=0.02)
    _, finished = await rendered(engine)
    assert finished.record.status == "ok" and len(engine.drawn) == 4


async def test_a_full_engine_refuses_the_whole_grid_with_nothing_begun():
    engine = Engine(places=0)
    with pytest.raises(Overloaded):
        await rendered(engine)
    assert engine.drawn == []


async def test_an_arm_that_fails_is_told_and_the_other_stays():
    _, finished = await rendered(Engine(fails={"b": RuntimeError("nan")}))
    served = {picture.arm: picture.served for picture in finished.record.images}
    assert served == {"a": "a", "b": "served"} and finished.fallback == "b: RuntimeError" and finished.record.status == "failed"


async def test_what_the_route_serves_is_no_replacement_for_itself():
    with pytest.raises(GenerationFailed):
        await rendered(Engine(fails={"b": RuntimeError("nan")}), serve="b")


async def test_a_client_that_leaves_frees_the_places_of_all_arms():
    engine, gone = Engine(seconds=30), asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, gone.set)
    with pytest.raises(ClientGone):
        await rendered(engine, gone=gone)
    await asyncio.sleep(0)
    assert engine.cancelled == 2 and engine.waiting == 0
