"""The step loop: places given back, deadlines, lanes that take turns, adapters that give way, memory, strict mode, previews."""

import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from serving.adapters.lora import FILE
from serving.engine import Busy, Job, Late, LocalEngine, ModelError, Preview
from serving.knee import find_knee
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.variant import Variant
from serving.weights import read_part


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(str(tmp_path_factory.mktemp("registry")))


@pytest.fixture
def engine(registry: Registry, cache: Path, request: pytest.FixtureRequest):
    engine = LocalEngine(registry, cache=cache, settings=getattr(request, "param", EngineSettings(threads=1, rows=4)))
    yield engine
    engine.close()


def lane_of(engine: LocalEngine, variant: Variant):
    return engine._by_name[engine._ready[variant].lane]


def base(model: Path, **facts) -> Variant:
    return Variant(**{"model": str(model), "steps": 4, "guidance": 2.0, **facts})


def hold(engine: LocalEngine, variant: Variant) -> threading.Event:
    """Stops the engine's thread, with nothing under way, until the event is set."""
    gate = threading.Event()
    blocked = engine.submit(Job(variant=variant, prompt="first", seed=0))
    blocked.add_done_callback(lambda _: gate.wait(20))
    while not blocked.done():
        time.sleep(0.001)
    return gate


def lora(model: Path, registry: Registry, folder: Path, seed: int) -> str:
    """A published adapter of rank 2 on the queries."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, weight in read_part(model / "unet").items():
        if name.endswith(".to_q.weight"):
            module = "unet." + name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = rng.normal(0, 0.3, (2, weight.shape[1])).astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = rng.normal(0, 0.3, (weight.shape[0], 2)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / FILE)
    return registry.publish(f"a{seed}", folder, {})


def test_a_cancelled_image_gives_its_place_back_within_a_step(engine: LocalEngine, tiny_model: Path) -> None:
    long, short = base(tiny_model, steps=500), base(tiny_model, steps=2)
    for variant in (long, short):
        engine.load(variant)
    running = [engine.submit(Job(variant=long, prompt="x", seed=i)) for i in range(2)]  # both places of four rows
    while not lane_of(engine, long).active:
        time.sleep(0.001)
    waiting = engine.submit(Job(variant=short, prompt="y", seed=3))
    assert running[0].cancel()
    assert waiting.result(60).rgb.shape == (32, 32, 3)
    assert running[1].cancel()
    with pytest.raises(CancelledError):
        running[0].result(1)
    while engine.queue_seconds():
        time.sleep(0.001)
    tally = engine.statistics().variants[engine.load(long).digest]
    assert (tally.done, tally.cancelled) == (0, 2)
    assert engine.statistics().lanes[engine.load(long).lane].calls < 500
    assert len(lane_of(engine, long)._free) == 4


def test_a_deadline_that_passed_costs_no_work(engine: LocalEngine, tiny_model: Path) -> None:
    variant = base(tiny_model)
    engine.load(variant)
    gate = hold(engine, variant)
    calls = lane_of(engine, variant).tally.calls
    (late,) = engine.submit_all([Job(variant=variant, prompt="x", seed=1)], deadline_seconds=0.01)
    time.sleep(0.02)
    gate.set()
    with pytest.raises(Late, match="deadline passed"):
        late.result(10)
    assert lane_of(engine, variant).tally.calls == calls
    assert engine.statistics().variants[engine.load(variant).digest].failed == 1
    gate = hold(engine, variant)
    lane_of(engine, variant).row_seconds = 1.0
    engine.submit(Job(variant=variant, prompt="x", seed=1))
    with pytest.raises(Busy):  # eight seconds are ahead of it
        engine.submit_all([Job(variant=variant, prompt="x", seed=1)], deadline_seconds=5)
    gate.set()


def test_steps_and_guidance_of_a_job_stand_for_the_variants(engine: LocalEngine, tiny_model: Path) -> None:
    variant, other = base(tiny_model), base(tiny_model, steps=3, guidance=1.0)
    for each in (variant, other):
        engine.load(each)
    told = engine.submit(Job(variant=variant, prompt="a", seed=1, steps=3, guidance=1.0)).result(60)
    assert (told.rgb == engine.submit(Job(variant=other, prompt="a", seed=1)).result(60).rgb).all()
    assert (told.steps, told.rows, told.batch_rows) == (3, 1, 1.0)
    for steps in (0, -1, 1001, 10_000):
        with pytest.raises(ModelError, match=f"steps: {steps} is not between 1 and"):
            engine.submit(Job(variant=variant, prompt="a", seed=1, steps=steps))
    for guidance in (-1.0, 51.0, float("nan")):
        with pytest.raises(ModelError, match=r"guidance: .* is not between 0 and 50"):
            engine.submit(Job(variant=variant, prompt="a", seed=1, guidance=guidance))


def test_previews_come_at_even_steps_and_near_the_end_look_like_it(engine: LocalEngine, tiny_model: Path) -> None:
    variant = base(tiny_model, steps=8)
    engine.load(variant)
    seen: list[Preview] = []
    (future,) = engine.submit_all([Job(variant=variant, prompt="a", seed=1, previews=3)], watch=[seen.append])
    final = future.result(60).rgb.astype(int)
    assert [(p.index, p.step, p.steps) for p in seen] == [(0, 2, 8), (1, 4, 8), (2, 6, 8)]
    apart = [np.abs(p.rgb - final).mean() for p in seen]
    assert apart[2] < apart[0] and all(p.rgb.shape == final.shape for p in seen)
    left = [p.remaining_ms for p in seen]
    assert left == sorted(left, reverse=True) and left[-1] > 0
    plain = engine.submit(Job(variant=variant, prompt="a", seed=1)).result(60).rgb
    assert (plain == final).all()  # looking changes nothing


def test_lanes_take_turns_by_device_time_per_image(engine: LocalEngine, tiny_model: Path) -> None:
    """An image of a lane of its own is not served after those of a busier lane, and does not hold them up."""
    many, one = base(tiny_model, steps=100), base(tiny_model, steps=20, size="64x64")
    assert engine.load(one).lane != engine.load(many).lane
    assert (engine.load(one).width, engine.load(one).height) == (64, 64)
    crowd = [engine.submit(Job(variant=many, prompt="x", seed=i)) for i in range(6)]
    lone = engine.submit(Job(variant=one, prompt="y", seed=1))
    assert lone.result(60).rgb.shape == (64, 64, 3)
    steps_of_the_crowd = lane_of(engine, many).tally.calls
    assert not crowd[-1].done()
    assert steps_of_the_crowd > 10
    wait(crowd, 60)
    for size in ("36x64", "64x36", "4104x64"):
        with pytest.raises(ModelError, match=rf"size '{size}': the (width|height) \d+ is not a multiple of 8 between 8 and 4096"):
            engine.load(base(tiny_model, size=size))


def test_the_least_recently_used_adapter_gives_way(tiny_model: Path, registry: Registry, cache: Path, tmp_path: Path) -> None:
    refs = [lora(tiny_model, registry, tmp_path / str(seed), seed) for seed in (1, 2)]
    variants = [base(tiny_model, adapter=ref, guidance=50.0) for ref in refs]
    pictures = []
    for capacity in (16, 1):
        engine = LocalEngine(registry, cache=cache, settings=EngineSettings(threads=1, rows=4, adapters=capacity))
        for variant in variants:
            engine.load(variant)
        futures = [engine.submit(Job(variant=variant, prompt="a", seed=1)) for variant in variants * 2]
        pictures.append([future.result(60).rgb for future in futures])
        lane = lane_of(engine, variants[0])
        assert len(lane._entries) == min(capacity, 2)
        assert (lane.tally.evictions > 0) == (capacity == 1)
        engine.close()
    first, second = pictures
    assert (first[0] != first[1]).any()
    assert max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(first, second, strict=True)) <= 1


@pytest.mark.parametrize("engine", [EngineSettings(threads=1, rows=4, adapters=1)], indirect=True)
def test_an_adapter_that_changed_fails_its_own_images_only(engine: LocalEngine, tiny_model: Path, registry: Registry, tmp_path) -> None:
    """What was read at the load is what is drawn; a file that changed is noticed when the adapter must be read again."""
    for i, name in enumerate("abc"):
        lora(tiny_model, registry, tmp_path / name, 3 + i)
    plain, tuned, other = base(tiny_model), *(base(tiny_model, adapter=str(tmp_path / name), guidance=50.0) for name in "ab")
    for variant in (plain, tuned, other):
        engine.load(variant)
    job = Job(variant=tuned, prompt="a", seed=1)
    before = engine.submit(job).result(60).rgb
    (tmp_path / "a" / FILE).write_bytes((tmp_path / "c" / FILE).read_bytes())
    assert (engine.submit(job).result(60).rgb == before).all()
    engine.submit(Job(variant=other, prompt="a", seed=1)).result(60)  # takes the only entry
    bad, good = engine.submit(job), engine.submit(Job(variant=plain, prompt="a", seed=1))
    with pytest.raises(ModelError, match="has changed since its variant was loaded"):
        bad.result(60)
    assert good.result(60).rgb.shape == (32, 32, 3)
    assert len(lane_of(engine, plain)._free) == 4


def test_a_model_goes_with_its_last_variant(engine: LocalEngine, tiny_model: Path) -> None:
    one, two = base(tiny_model), base(tiny_model, steps=2)
    lane = engine.load(one).lane
    engine.load(two)
    future = engine.submit(Job(variant=two, prompt="a", seed=1))
    engine.unload(one)
    with pytest.raises(ModelError, match="not loaded"):
        engine.submit(Job(variant=one, prompt="a", seed=1))
    engine.unload(two)  # waits for what is under way
    assert future.result(0).rgb.shape == (32, 32, 3)
    assert lane not in engine.statistics().lanes
    assert engine.load(one).lane == lane
    assert engine.submit(Job(variant=one, prompt="a", seed=1)).result(60).rgb.shape == (32, 32, 3)
    engine.unload(two)  # was not there: nothing happens


def test_a_model_that_does_not_fit_is_refused_with_numbers(registry: Registry, cache: Path, tiny_model: Path) -> None:
    engine = LocalEngine(registry, cache=cache, settings=EngineSettings(threads=1, memory_mb=0.5))
    with pytest.raises(ModelError, match=r"needs about \d+ MB, and [01] of [01] MB are left.*raise memory_mb"):
        engine.load(base(tiny_model))
    assert not engine.statistics().lanes
    engine.close()
    with pytest.raises(ModelError, match=r"device 'cuda'.*set device = \"cpu\""):
        LocalEngine(registry, cache=cache, settings=EngineSettings(device="cuda"))
    for device in ("gpu", "cuda:x", "CPU", ""):
        with pytest.raises(ValueError, match="device is"):
            EngineSettings(device=device)


@pytest.mark.parametrize("engine", [EngineSettings(threads=2, mode="strict", rows=8)], indirect=True)
def test_strict_mode_is_the_same_to_the_bit_in_any_company(engine: LocalEngine, tiny_model: Path) -> None:
    variants = [
        base(tiny_model),
        base(tiny_model, steps=6, scheduler="dpm++"),
        base(tiny_model, guidance=1.0),
        base(tiny_model, guidance=7.0),
    ]
    for variant in variants:
        engine.load(variant)
    jobs = [Job(variant=variant, prompt=f"a cat {i}", seed=i) for i, variant in enumerate(variants)]
    alone = [engine.submit(job).result(60).rgb for job in jobs]
    latents = lane_of(engine, variants[0]).backend
    states: list[np.ndarray] = []
    decode = latents.decode

    def kept(places):
        states.extend(latents._x[list(places)])
        return decode(places)

    latents.decode = kept
    first = [engine.submit(job).result(60) for job in jobs]
    by_seed = dict(zip(range(4), states, strict=True))
    states.clear()
    gate = hold(engine, variants[0])
    states.clear()
    futures = [engine.submit(job) for job in (*jobs[::-1], *jobs)]
    gate.set()
    together = [future.result(60).rgb for future in futures]
    assert all((a.rgb == b).all() for a, b in zip(first, alone, strict=True))
    assert all((a == b).all() for a, b in zip(together, (*alone[::-1], *alone), strict=True))
    for state in states:  # not the rounded pixels only: the latents too
        assert any((state == known).all() for known in by_seed.values())


def test_statistics_count_what_was_done(engine: LocalEngine, tiny_model: Path) -> None:
    variant = base(tiny_model)
    loaded = engine.load(variant)
    before = msgspec.structs.replace(engine.statistics(), lanes={})
    assert before.variants == {}
    gate = hold(engine, variant)
    futures = [engine.submit(Job(variant=variant, prompt="x", seed=i)) for i in range(2)]
    gate.set()
    pictures = [future.result(60) for future in futures]
    tally, lane = engine.statistics().variants[loaded.digest], engine.statistics().lanes[loaded.lane]
    assert (tally.done, tally.failed, tally.rows) == (3, 0, 3 * 2 * 4)
    assert (lane.calls, lane.rows) == (8, 4 * 2 + 4 * 4)  # four steps alone, four steps together
    assert 0 < lane.call_seconds < lane.seconds
    assert all(p.batch_rows == 4 and p.rows == 2 for p in pictures)
    assert tally.service_seconds > 0 and tally.queue_seconds > 0


def test_the_knee_is_where_throughput_ends() -> None:
    asked: list[int] = []

    def launch_bound(rows: int) -> float:  # 8 ms of launches hide up to 8 rows of 1 ms
        asked.append(rows)
        return max(0.008, 0.001 * rows)

    assert find_knee(launch_bound) == (8, 0.001)
    assert max(asked) == 16
    assert find_knee(lambda rows: 0.001 * rows) == (2, 0.001)  # compute bound from the first row
    assert find_knee(lambda rows: 0.1)[0] == 64  # never: the largest
    assert find_knee(lambda rows: 0.1, largest=4)[0] == 4
