"""Parts of benchmarks/gpu.py about one network call: what the device can do at best, steps by rows, LoRA forms, kernels."""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import shapes
import torch
from shapes import Shape

from serving.backends.torch.forms import Form, form_named
from serving.backends.torch.forms import Shape as LayerShape
from serving.backends.torch.network import AdaptedNetwork
from serving.backends.torch.parts import Part
from serving.knee import KNEE

WARM_UPS, REPEATS = 5, 20
RANK = 16


class Bench:
    """The device, and how large things are: tiny ones on the CPU show that the script works and measure nothing."""

    def __init__(self, *, smoke: bool) -> None:
        self.smoke, self.device = smoke, torch.device("cpu" if smoke else "cuda")
        self.dtype = torch.float32 if smoke else torch.bfloat16
        self.rows = (1, 2) if smoke else (1, 2, 4, 8, 16)
        self.repeats = 1 if smoke else REPEATS
        if smoke:
            torch.set_num_threads(1)

    def shapes(self) -> list[Shape]:
        return [shapes.shape(name, tiny=self.smoke) for name in ("sd15", "sdxl")]

    def ms(self, work: Callable[[], object]) -> float:
        """Median of `repeats` after warming up."""
        times = []
        for i in range(WARM_UPS + self.repeats if not self.smoke else 2):
            if self.smoke:
                began = time.perf_counter()
                work()
                took = 1000 * (time.perf_counter() - began)
            else:
                begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begun.record()
                work()
                ended.record()
                ended.synchronize()
                took = begun.elapsed_time(ended)
            if self.smoke or i >= WARM_UPS:
                times.append(took)
        return statistics.median(times)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        """`work` as one CUDA graph; on the CPU as it is."""
        if self.smoke:
            return work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def clear(self) -> None:
        gc.collect()
        if not self.smoke:
            torch.cuda.empty_cache()


def gemm_tflops(bench: Bench) -> float:
    """TFLOP/s of a large square product in the network's precision."""
    side = 256 if bench.smoke else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=bench.dtype) for _ in range(2))
    return 2 * side**3 / bench.ms(lambda: a @ b) / 1e9


def floors(bench: Bench) -> None:
    """What bounds everything else: a GEMM, a convolution, a copy, a kernel's launch."""
    print(f"GEMM {bench.dtype}: {gemm_tflops(bench):.0f} TFLOP/s")
    width, side = (8, 16) if bench.smoke else (640, 64)
    x = torch.randn(8, width, side, side, device=bench.device, dtype=bench.dtype).to(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(width, width, 3, padding=1, device=bench.device, dtype=bench.dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        took = bench.ms(lambda: conv(x))
    tflops = 2 * 9 * width**2 * 8 * side**2 / took / 1e9
    print(f"convolution 3x3, {width} channels, {side}x{side}, 8 rows, channels last: {tflops:.0f} TFLOP/s")
    source = torch.empty(1 << (20 if bench.smoke else 30), dtype=torch.int32, device=bench.device)
    target = torch.empty_like(source)
    print(f"copy on the device: {2 * source.nbytes / bench.ms(lambda: target.copy_(source)) / 1e9:.2f} TB/s, bytes read and written")
    small = torch.zeros(16, device=bench.device)

    def many() -> None:
        for _ in range(1000):
            small.add_(1)

    eager, graphed = bench.ms(many), bench.ms(bench.captured(many))
    print(f"a tiny kernel: {eager:.2f} us launched from Python, {graphed:.2f} us in a CUDA graph")


def steps(bench: Bench, of: Shape, *, compiled: bool) -> None:
    """One call by rows: eager and as a CUDA graph, or the same compiled by torch.compile (one graph for all sizes)."""
    peak, work = gemm_tflops(bench), shapes.flop(of)
    base = shapes.network(of, bench.device, bench.dtype)
    print(f"{of.label}: {work / 1e12:.3f} TFLOP a row and step, weights {base.bytes / 1e9:.2f} GB, {'compiled' if compiled else 'eager'}")
    call = AdaptedNetwork(base, "unet", 1, compiled=compiled)
    speeds: dict[int, float] = {}
    for rows in bench.rows[1:] if compiled else bench.rows:  # a size of one is compiled apart, and the engine avoids it
        step = _step(bench, of, call, [0] * rows)
        began = time.perf_counter()
        launched = bench.ms(step)
        first = f", first calls {time.perf_counter() - began:.0f} s" if compiled else ""
        graphed = bench.ms(bench.captured(step))
        speeds[rows] = rows / graphed
        print(
            f"  {rows:3} rows: {launched:8.2f} ms from Python, {graphed:8.2f} ms as a CUDA graph; "
            f"floor {rows * work / peak / 1e9:7.2f} ms ({100 * rows * work / peak / 1e9 / graphed:.0f} % of the GEMM's speed){first}",
            flush=True,
        )
    knee = min(rows for rows, speed in speeds.items() if speed >= KNEE * max(speeds.values()))
    print(f"  knee: {knee} rows ({100 * KNEE:.0f} % of the most rows per second)")


def _step(bench: Bench, of: Shape, call: AdaptedNetwork, entries: list[int]) -> Callable[[], object]:
    sample, timestep, told = shapes.inputs(of, len(entries), bench.device, bench.dtype)
    index = torch.tensor(entries, device=bench.device)

    def step() -> None:
        with torch.no_grad():
            call(sample, timestep, told, index)

    return step


def loras(bench: Bench, of: Shape, *, convolutions: bool) -> None:
    """k adapters mixed in one call of 8 rows, by each form, against no adapter; peft's mixed batch for contrast."""
    rows = 2 if bench.smoke else 8
    targets = (*shapes.ATTENTION, "conv1", "conv2") if convolutions else shapes.ATTENTION
    base = shapes.network(of, bench.device, bench.dtype)
    wanted = shapes.adapter(base, RANK, targets)
    plain = _step(bench, of, AdaptedNetwork(base, "unet", 1), [0] * rows)
    eager, graphed = bench.ms(plain), bench.ms(bench.captured(plain))
    print(f"{of.label}, {rows} rows, rank {RANK} on {len(wanted.modules['unet'])} layers ({', '.join(targets)})")
    print(f"  no adapter:                {eager:8.2f} ms from Python, {graphed:8.2f} ms as a CUDA graph", flush=True)
    forms = ("gathered", "concatenated") if bench.smoke else ("gathered", "concatenated", "grouped")
    for form in forms:
        for k in (1, 4, 8):
            call = AdaptedNetwork(base, "unet", k, form).widened(wanted)  # type: ignore[arg-type]
            call.bank[1:].normal_(std=0.01)
            call.adapted = True
            step = _step(bench, of, call, [1 + i % k for i in range(rows)])
            once, replayed = bench.ms(step), bench.ms(bench.captured(step))
            print(
                f"  {form:12} k = {k}:        {once:8.2f} ms ({100 * once / eager - 100:+5.1f} %), "
                f"{replayed:8.2f} ms ({100 * replayed / graphed - 100:+5.1f} %), an entry {call.entry_bytes / 1e6:.1f} MB",
                flush=True,
            )
            del call, step
            bench.clear()
    for k in (1, 4, 8):
        once = bench.ms(_peft(bench, of, base, k, rows, targets))
        print(f"  peft, mixed  k = {k}:        {once:8.2f} ms ({100 * once / eager - 100:+5.1f} %), cannot be captured", flush=True)


def _peft(bench: Bench, of: Shape, base: Part, k: int, rows: int, targets: tuple[str, ...]) -> Callable[[], object]:
    """`base` with peft's layers: those for fewer adapters stay and do nothing."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    model: Any = base.module.model
    names = [f"arm{1 + i % k}" for i in range(rows)]
    for name in dict.fromkeys(names):
        if name not in getattr(model, "peft_config", {}):
            model.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(targets)), adapter_name=name)

    def named(_: Any, given: Any, also: dict[str, Any]) -> Any:
        return given, {**also, "adapter_names": names}

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks_with_kwargs.clear()
            module.to(bench.device, bench.dtype).requires_grad_(False)
            module.register_forward_pre_hook(named, with_kwargs=True)
    return _step(bench, of, AdaptedNetwork(base, "unet", 1), [0] * rows)


def kernels(bench: Bench) -> None:
    """The Triton kernel and the gathered products against the concatenated sum in fp64, on linear layers and convolutions."""
    cases = [LayerShape(320, 320, 16), LayerShape(768, 640, 8), LayerShape(100, 36, 4)]
    cases += [LayerShape(64, 96, 8, (3, 3), (1, 1), (1, 1)), LayerShape(32, 48, 16, (3, 3), (2, 2), (1, 1)), LayerShape(64, 32, 4)]
    allowed = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
    # TF32 would hide an error of the kernel behind one of the yardstick
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    worst = dict[tuple[str, torch.dtype], float]()
    for dtype in allowed:
        for number, case in enumerate(cases):
            for name in ("gathered", "grouped"):
                if name == "grouped" and bench.smoke:
                    continue
                apart = _apart(bench, case, name, dtype, pictures=number >= 3)
                worst[name, dtype] = max(worst.get((name, dtype), 0.0), apart)
    for (name, dtype), apart in worst.items():
        print(f"{name:9} {dtype!s:15} at most {apart:.1e} of the largest value (allowed {allowed[dtype]:.0e})")
    if any(apart > allowed[dtype] for (_, dtype), apart in worst.items()):
        raise AssertionError("a kernel is wrong on this device")


def _apart(bench: Bench, case: LayerShape, name: str, dtype: torch.dtype, *, pictures: bool) -> float:
    torch.manual_seed(1)
    rows, entries, side = 5, 4, 16
    make = partial(torch.randn, device=bench.device, dtype=torch.float64)
    x = make(rows, case.inputs, side, side) if pictures else make(rows, side * side, case.inputs)
    after = side // case.stride[0]
    y = make(rows, case.outputs, after, after) if pictures else make(rows, side * side, case.outputs)
    bank = make(entries, case.down_size + case.up_size) / (case.taps * case.inputs) ** 0.5
    bank[0] = 0
    index = torch.tensor([0, 1, 3, 0, 2], device=bench.device)

    def result(form: Form, kind: torch.dtype) -> torch.Tensor:
        form.choose(bank.to(dtype).to(kind), index)
        begin, given = y.to(dtype).to(kind).clone(), x.to(dtype).to(kind)
        if pictures and bench.device.type == "cuda":
            begin, given = begin.to(memory_format=torch.channels_last), given.to(memory_format=torch.channels_last)
        made = form.pictures(begin, given, case, 0) if pictures else form.tokens(begin, given, case, 0)
        return made.double()

    with torch.no_grad():
        # same rounded numbers, in fp64
        wanted, found = result(form_named("concatenated"), torch.float64), result(form_named(name), dtype)  # type: ignore[arg-type]
    return float((wanted - found).abs().max() / wanted.abs().max())
