"""Parts of benchmarks/gpu.py about the whole engine: its pictures, equality to the bit, images per second, the gap between arms."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapes
import torch
from arms import write_adapters
from gpu_network import Bench, gemm_tflops
from systems import Engine, Task
from traffic import PROMPTS, arrivals, closed, opened, paired_gap, rare_in_one_round

from serving.engine import Job, LocalEngine
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.tallies import LaneTally
from serving.variant import Backend, Variant

TOLERANCE_LEVELS = 4
PACKAGED = "salon/emoji-64"


def pictures(bench: Bench) -> None:
    """The packaged model in fp32 without TF32: torch on the device against ONNX Runtime on the CPU. Raises AssertionError."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        adapter = str(write_adapters(PACKAGED, 1, folder)[0])
        drawn = {}
        for backend, device in (("onnx", "cpu"), ("torch", bench.device.type)):
            variants = [Variant(model=PACKAGED, backend=backend, steps=10, adapter=name) for name in (None, adapter)]  # type: ignore[arg-type]
            jobs = [Job(variant=variant, prompt=prompt, seed=i) for i, prompt in enumerate(PROMPTS[:4]) for variant in variants]
            drawn[backend] = _drawn(EngineSettings(device=device, dtype="float32"), folder, variants, [jobs])[0]
    apart = np.abs(drawn["onnx"].astype(np.int16) - drawn["torch"])
    print(f"{PACKAGED}, with and without an adapter, 8 pictures: at most {apart.max()} of 255 levels apart, {apart.mean():.4f} on average")
    if apart.max() > TOLERANCE_LEVELS:
        raise AssertionError(f"more than {TOLERANCE_LEVELS} levels apart")


def bits(bench: Bench) -> None:
    """The same image alone and in company, strict and fast: is it the same to the bit?"""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sd15 = str(shapes.write_directory(shapes.shape("sd15", tiny=bench.smoke), folder / "sd15", bench.device, tiny=bench.smoke))
        for model in (PACKAGED, sd15):
            adapters = write_adapters(model, 2, folder / Path(model).name / "adapters", rank=16)
            variants = [Variant(model=model, backend="torch", steps=4, adapter=name) for name in (None, *map(str, adapters))]
            alone = [Job(variant=variants[1], prompt=PROMPTS[0], seed=7)]
            company = [Job(variant=variants[i % 3], prompt=PROMPTS[i], seed=i, steps=4 + i % 3) for i in range(5)]
            for mode in ("strict", "fast"):
                settings = EngineSettings(device=bench.device.type, mode=mode)  # type: ignore[arg-type]
                apart_from = _drawn(settings, folder, variants, [alone, [*company, *alone], [*alone, *company[:2]]])
                levels = [int(np.abs(apart_from[0][0].astype(np.int16) - some).max()) for some in (apart_from[1][-1], apart_from[2][0])]
                print(f"{Path(model).name}, {mode}: in company {max(levels)} of 255 levels apart from alone", flush=True)
                if mode == "strict" and max(levels):
                    raise AssertionError("strict is not strict")


def _drawn(settings: EngineSettings, folder: Path, variants: Sequence[Variant], batches: Sequence[Sequence[Job]]) -> list[np.ndarray]:
    """Each batch of jobs at once, one batch after the other; uint8 [n, h, w, 3] each."""
    engine = LocalEngine(Registry(str(folder / "registry")), cache=folder / "cache", settings=settings)
    try:
        for variant in variants:
            engine.load(variant)
        return [np.stack([future.result().rgb for future in engine.submit_all(jobs)]) for jobs in batches]
    finally:
        engine.close()


def speed(bench: Bench, *, backend: Backend = "torch", compiled: bool = False) -> None:
    """Images per second of the whole engine in SD 1.5's shape, with and without four adapters, against the arithmetic ceiling."""
    if backend == "onnx" and not bench.smoke and not _has_cuda_provider():
        return
    of, steps, seconds = shapes.shape("sd15", tiny=bench.smoke), 3 if bench.smoke else 30, 1.0 if bench.smoke else 12.0
    # a decoder of 64x64 latents is 2.51 TFLOP (shared/notes/serving.md, §6)
    ceiling = gemm_tflops(bench) * 1e12 / (2 * steps * shapes.flop(of) + (0 if bench.smoke else 2.51e12))
    print(
        f"{of.label}, {backend}{', compiled' if compiled else ''}, {steps} steps with guidance; ceiling {ceiling:.1f} images/s", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        model = str(shapes.write_directory(of, Path(temporary) / "sd15", bench.device, tiny=bench.smoke))
        for k in (0, 4):
            folder = Path(temporary) / str(k)
            task = Task(model, write_adapters(model, k, folder, rank=16), steps, 7.5, 16, folder)
            began = time.perf_counter()
            engine = Engine(task, settings=EngineSettings(device=bench.device.type, compile=compiled), backend=backend)
            lane = next(iter(engine.local._by_name.values()))
            print(f"  {k} adapters: ready in {time.perf_counter() - began:.0f} s, calls of at most {lane.rows_cap} rows (the knee)")
            for at_once in (1, 2) if bench.smoke else (1, 2, 4, 8, 16):
                print(f"  {at_once:3} at once: {_flow(engine, lane.tally, task.arms, at_once, seconds, ceiling)}", flush=True)
            engine.close()
            bench.clear()
    if not bench.smoke:
        print(f"  highest GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def _flow(engine: Engine, tally: LaneTally, arms: int, at_once: int, seconds: float, ceiling: float) -> str:
    before = replace(tally)
    flow = closed(engine, range(arms), at_once, seconds)
    calls, rows = tally.calls - before.calls, tally.rows - before.rows
    inside, ticks = (1000 * s / calls for s in (tally.call_seconds - before.call_seconds, tally.seconds - before.seconds))
    median, share = np.median([seen.seconds for seen in flow.seen]), 100 * flow.images_per_second / ceiling
    return (
        f"{flow.images_per_second:7.2f} images/s ({share:.0f} % of the ceiling), median {median:.2f} s, "
        f"{rows / calls:.1f} rows a call, {inside:.2f} ms in calls and {ticks:.2f} ms in all a tick"
    )


def _has_cuda_provider() -> bool:
    import onnxruntime

    here = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in here:
        print(f"not measured: onnxruntime {onnxruntime.__version__} here has {', '.join(here)} only; carry the onnxruntime-gpu wheel")
        return False
    return True


def gap(bench: Bench) -> None:
    """Two adapters at 90/10 under Poisson arrivals at 70 % of capacity, SD 1.5's shape: see latency_gap.py."""
    of, (steps, seconds, rounds) = shapes.shape("sd15", tiny=bench.smoke), (2, 2.0, 3) if bench.smoke else (8, 60.0, 10)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = str(shapes.write_directory(of, folder / "sd15", bench.device, tiny=bench.smoke))
        task = Task(model, write_adapters(model, 2, folder, rank=16), steps, 7.5, 16, folder)
        engine = Engine(task, settings=EngineSettings(device=bench.device.type), backend="torch")
        capacity = closed(engine, [1, *[0] * (rounds - 1)], 8, seconds / 10).images_per_second
        rate = 0.7 * capacity
        many = max(20, round(seconds * rate / rounds))
        times, arm = arrivals(many, rate, seed=1), rare_in_one_round(many, rounds, seed=2)
        latency = np.array([[seen.seconds for seen in opened(engine, times, list(row))] for row in arm])
        engine.close()
    found, half = paired_gap(latency, arm)
    common, rare = (1000 * latency[arm == i].mean() for i in (0, 1))
    print(f"{of.label}, {steps} steps with guidance: capacity {capacity:.1f} images/s, {rate:.1f}/s for {latency.size} images")
    print(f"  mean {common:.0f} ms of the common arm, {rare:.0f} ms of the rare one; gap {100 * found:+.2f} % ± {100 * half:.2f} % (95 %)")
