"""A worker in this process: its shelf, and how it closes."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from serving.devices import Devices
from serving.engine import LocalEngine
from serving.errors import ModelError
from serving.job import Job
from serving.protocol import documents
from serving.protocol.metrics import Metrics
from serving.protocol.refusals import NotReady, Unknown, Unreadable
from serving.protocol.worker import Worker
from serving.registry import Registry
from serving.variant import Variant


def worker_of(cache: Path, folder: Path, configured: dict[str, Variant], grace_seconds: float = 30.0, devices: int = 1) -> Worker:
    engines = [LocalEngine(Registry(str(folder)), cache=cache) for _ in range(devices)]
    return Worker(Devices(engines), configured, grace_seconds=grace_seconds)


async def test_a_worker_that_closes_refuses_what_is_new_and_tells_those_it_must_leave(
    tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    variant = Variant(model=str(tiny_model), steps=1000)
    worker = worker_of(cache, tmp_path, {"base": variant}, grace_seconds=0.2)
    worker.shelf.start()
    assert not worker.shelf.ready() and worker.shelf.loading() == ["base"]
    with pytest.raises(NotReady, match="still being loaded: base"):
        worker.shelf.on("tiny-32x32")
    loaded = await worker.shelf.load("base", None)
    assert worker.shelf.ready()
    resolved = worker.shelf.resolve(loaded.lane, loaded.digest)

    async def ask() -> None:
        with worker.request():
            await worker.draw([Job(variant=resolved, prompt="a", seed=i) for i in range(64)], None)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.05)
    worker.begin_closing()
    with pytest.raises(NotReady, match="closing"), worker.request():
        pass
    assert not worker.drained
    await asyncio.sleep(0.25)
    assert worker.drained, "the grace is over"
    await asyncio.to_thread(worker.close)
    with pytest.raises(NotReady, match="was closed before"):
        await asking


async def test_names_are_defined_once_and_the_same_content_is_one_variant(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    configured = Variant(model=str(tiny_model), steps=2, engine="w")
    worker = worker_of(cache, tmp_path, {"base": configured, "broken": msgspec.structs.replace(configured, model="nowhere")})
    try:
        shelf = worker.shelf
        shelf.start()
        base = await shelf.load("base", None)
        with pytest.raises(ModelError, match="nowhere"):
            await shelf.load("broken", None)
        assert shelf.ready() and "nowhere" in shelf.failures()["broken"]
        assert await shelf.load("same", msgspec.structs.replace(configured, engine="local", served_as="x")) == base
        with pytest.raises(Unreadable, match="something else here"):
            await shelf.load("same", msgspec.structs.replace(configured, steps=3))
        with pytest.raises(ModelError):
            await shelf.load("bad", msgspec.structs.replace(configured, scheduler="flow-euler"))
        assert "bad" not in dict(shelf.names())
        assert shelf.resolve(base.lane, "") == shelf.resolve(base.lane, "same") == shelf.resolve(base.lane, base.digest)
        other, _ = await asyncio.gather(shelf.load("other", msgspec.structs.replace(configured, steps=3)), shelf.unload("base"))
        with pytest.raises(Unreadable, match="VARIANT: is needed, one of model tiny-32x32's variants: same, other"):
            shelf.resolve(base.lane, "")
        await asyncio.gather(shelf.unload("other"), shelf.unload("same"))
        with pytest.raises(Unknown, match="unknown model 'tiny-32x32'"):
            shelf.on(base.lane)
        with pytest.raises(Unknown):
            await shelf.unload("other")
        assert shelf.failures()["base"] == "unloaded"
        assert await shelf.load("base", None) == base and other.lane == base.lane
    finally:
        worker.close()


async def test_devices_are_added_up(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    worker = worker_of(cache, tmp_path, {"base": Variant(model=str(tiny_model), steps=3)}, devices=2)
    try:
        loaded = await worker.shelf.load("base", None)
        jobs = [Job(variant=worker.shelf.resolve(loaded.lane, ""), prompt="a", seed=i, guidance=1.0) for i in range(8)]
        await asyncio.gather(worker.draw(jobs, None), worker.draw(jobs[:4], None))
        each = [device.variants[loaded.digest].done for device in worker.engine.statistics()]
        assert sorted(each) == [4, 8], "the second request goes where nothing waits"
        (told,) = documents.statistics(worker.shelf, worker.engine.statistics())["model_stats"]
        assert told["inference_count"] == told["inference_stats"]["queue"]["count"] == 12
        assert told["variants"][loaded.digest]["row_steps"] == told["network"]["rows"] == 36
        assert f'salon_engine_rows_total{{model="{loaded.lane}"}} 36.0'.encode() in Metrics(worker).text()
    finally:
        worker.close()
