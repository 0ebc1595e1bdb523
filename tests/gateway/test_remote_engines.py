"""The gateway with engines elsewhere: one face, readiness, what doctor says, and what is not imported."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.config import EngineSection
from gateway.doctor import examine
from gateway.engines import Engines
from gateway.pictures import png_of
from serving.engine import LocalEngine
from serving.errors import Away, Busy, ModelError
from serving.job import Job
from serving.registry import Registry
from serving.variant import Variant

_spec = importlib.util.spec_from_file_location("worker_double", Path(__file__).parents[1] / "serving/worker_double.py")
double_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(double_module)
Double, png = double_module.Double, double_module.png
VARIANT = Variant(model="salon/emoji-64", engine="gpu", steps=2)


def engines_of(tmp_path: Path, **sections: EngineSection) -> Engines:
    return Engines(sections, Registry(str(tmp_path / "registry")), tmp_path / "cache", 60.0)


async def test_a_remote_engine_behind_the_same_face(tmp_path):
    double = await Double().start()
    engines = engines_of(tmp_path, gpu=EngineSection(url=double.url))
    assert engines.loaded(VARIANT) is None and engines.failure(VARIANT) is None and engines.problems() == {}
    first = await asyncio.wrap_future(engines.start_loading(VARIANT))
    assert engines.loaded(VARIANT) == first == await engines.load(VARIANT) and len(double.loads) == 1
    (picture,) = await engines.draw(VARIANT, [Job(variant=VARIANT, prompt="a", seed=3)], deadline_seconds=5.0)
    assert png_of(picture) == png(3) and engines.queue_seconds() == 0.0
    with pytest.raises(ModelError, match="no such directory"):
        await engines.load(Variant(model="broken", engine="gpu"))
    await double.stop()
    with pytest.raises(Away):
        await engines.draw(VARIANT, [Job(variant=VARIANT, prompt="a", seed=3)])
    assert "cannot connect" in engines.problems()["engine gpu"] and engines.failure(VARIANT)
    await asyncio.to_thread(engines.close)


async def test_an_engine_that_the_start_did_not_know_is_told_as_a_failure(tmp_path):
    engines = engines_of(tmp_path)
    assert engines.loaded(VARIANT) is None
    with pytest.raises(ModelError, match="engine 'gpu' was added"):
        await engines.load(VARIANT)
    assert "start the gateway again" in engines.failure(VARIANT)
    await asyncio.to_thread(engines.close)


async def test_several_devices_share_the_load(tmp_path, model):
    engines = engines_of(tmp_path, two=EngineSection(device=("cpu", "cpu")))
    variant = Variant(model=str(model), engine="two", steps=2)
    await engines.load(variant)
    jobs = [[Job(variant=variant, prompt="a cat", seed=seed)] for seed in range(4)]
    pictures = await asyncio.gather(*(engines.draw(variant, each) for each in jobs))
    devices = engines._local["two"]._engines
    assert len(devices) == 2 and all(sum(tally.done for tally in d.statistics().variants.values()) for d in devices)
    again = await engines.draw(variant, jobs[2])
    assert abs(again[0].rgb.astype(int) - pictures[2][0].rgb).max() <= 1
    await asyncio.to_thread(engines.close)


def test_devices_are_busy_only_when_all_are():
    from serving.devices import Devices

    class Full(LocalEngine):
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def queue_seconds(self) -> float:
            return self.seconds

        def submit_all(self, jobs, **_):
            raise Busy(self.seconds)

    class Free(Full):
        def submit_all(self, jobs, **_):
            return ["drawn"]

    with pytest.raises(Busy) as full:
        Devices([Full(9.0), Full(4.0)]).submit_all([])
    assert full.value.retry_after_seconds == 4.0
    assert Devices([Full(1.0), Free(5.0)]).submit_all([]) == ["drawn"]


class _Served:
    """Doubles on a loop of their own thread, for code that is not asynchronous."""

    def __init__(self, *doubles) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.doubles = [asyncio.run_coroutine_threadsafe(double.start(), self.loop).result(5) for double in doubles]

    def stop(self) -> None:
        for double in self.doubles:
            asyncio.run_coroutine_threadsafe(double.stop(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)


def test_doctor_says_which_workers_answer_and_what_they_draw(tmp_path):
    served = _Served(Double(), Double(), Double(weights="other"))
    same, also, odd = (double.url for double in served.doubles)
    path = tmp_path / "salon.toml"

    def found(urls: list[str]):
        path.write_text(
            f'[engines.gpu]\nurl = {json.dumps(urls)}\n[variants.base]\nmodel = "anything"\nengine = "gpu"\n[routes.hero]\nserve = "base"\n'
        )
        return {finding.part: finding for finding in examine(path)}

    try:
        well = found([same, also])
        assert well["engine gpu"].ok and "each answers" in well["engine gpu"].text
        assert well["variant base"].ok and "draws 8x8 on gpu (2 of 2 workers)" in well["variant base"].text
        wrong = found([same, odd])
        assert wrong["engine gpu"].ok and not wrong["variant base"].ok and "other weights" in wrong["variant base"].text
    finally:
        served.stop()
    gone = found([same])
    assert not gone["engine gpu"].ok and "cannot connect" in gone["engine gpu"].text and not gone["variant base"].ok


FOREIGN = """
import sys
from pathlib import Path
from analytics.settings import Document
from gateway.config import load
import gateway.app, gateway.serve
from gateway.running import Gateway
path = Path(sys.argv[1]) / "salon.toml"
path.write_text('''[engines.gpu]
url = "http://127.0.0.1:9"
[variants.base]
model = "salon/emoji-64"
engine = "gpu"
[routes.hero]
serve = "base"
''')
gateway = Gateway(load(Document.read(path)))
import asyncio
async def once():
    gateway.warm()
    await asyncio.sleep(0.2)
    print(gateway.readiness()["details"])
asyncio.run(once())
heavy = {"onnxruntime", "onnx", "torch", "tokenizers", "safetensors", "diffusers", "transformers"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_gateway_with_remote_engines_imports_nothing_that_draws(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(tmp_path)], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "cannot connect" in done.stdout and "engine gpu" in done.stdout
