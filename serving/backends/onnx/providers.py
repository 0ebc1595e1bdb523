"""Which of ONNX Runtime's providers run a graph on a device, in which order, and with which options. Nothing here opens anything."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from serving.errors import ModelError
from serving.settings import Dtype, EngineSettings

RTX, TENSORRT, CUDA, CPU = "NvTensorRTRTXExecutionProvider", "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
_GPU = "onnxruntime-gpu in place of onnxruntime (pip install 'salon[gpu]'), CUDA 13 and cuDNN 9"
GET = {
    RTX: "a GeForce RTX or RTX PRO card of series 30 or later, CUDA 13, and pip install onnxruntime-ep-nv-tensorrt-rtx-cu13",
    TENSORRT: f"{_GPU}, and NVIDIA's TensorRT libraries",
    CUDA: _GPU,
}
Options = dict[str, str]
Shapes = dict[str, tuple[int, ...]]
# Of a dimension that a graph leaves free: its smallest, most usual and largest value.
Range = tuple[int, int, int]


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the graphs of one lane run.

    `device` is cpu, cuda or cuda:N. `cache` keeps what TensorRT builds. `fixed_shapes` says that every call of a graph has the
    same shapes, so that a CUDA graph may be recorded. Inputs and outputs are fp32 whatever the `precision`.
    """

    device: str = "cpu"
    tensorrt: bool = False
    precision: Dtype = "float32"
    cache: Path | None = None
    fixed_shapes: bool = False

    @property
    def index(self) -> int:
        """The number of the CUDA device."""
        return int(self.device.partition(":")[2] or 0)


class Profile(msgspec.Struct, frozen=True):
    """The shapes of a graph's inputs for which TensorRT builds: it refuses others, and is fastest at `usual`."""

    low: Shapes
    usual: Shapes
    high: Shapes


class Plan(msgspec.Struct, frozen=True):
    """One way to run a graph: `providers` in order with their options. `plugin` is the library that brings the first, if any.

    `half` asks for a graph whose weights and activations are fp16.
    """

    name: Literal["tensorrt-rtx", "tensorrt", "cuda", "cpu"]
    providers: tuple[tuple[str, Options], ...]
    plugin: str | None = None
    half: bool = False

    @property
    def needed(self) -> str:
        """The provider that a session must have for the plan to have worked."""
        return self.providers[0][0]

    @property
    def graph(self) -> bool:
        """Whether calls are recorded as CUDA graphs."""
        return any(options.get(name) == "1" for _, options in self.providers for name in ("enable_cuda_graph", "trt_cuda_graph_enable"))


def place(settings: EngineSettings, cache: Path, *, tensorrt: bool = False) -> Placement:
    """The placement that `settings` ask for. Raises ModelError for a dtype that ONNX Runtime does not compute in there."""
    precision = settings.precision
    if settings.device == "cpu":
        if tensorrt:
            raise ModelError('device "cpu": backend "tensorrt" needs a CUDA device; set device = "cuda", or backend = "onnx"')
        if precision != "float32":
            raise ModelError(f'dtype {precision!r}: ONNX Runtime computes in float32 on the CPU; leave dtype out, or set backend = "torch"')
    elif precision == "bfloat16" and not tensorrt:
        raise ModelError('dtype "bfloat16": ONNX Runtime has few CUDA kernels for it; set dtype = "float16", or backend = "torch"')
    fixed = settings.mode == "strict" and settings.cuda_graphs and settings.device != "cpu"
    return Placement(device=settings.device, tensorrt=tensorrt, precision=precision, cache=cache, fixed_shapes=fixed)


def profile(inputs: Mapping[str, Sequence[int | str]], ranges: Mapping[str, Range]) -> Profile:
    """Shapes for `inputs`, whose free dimensions have names, from the `ranges` of those names.

    Raises ModelError for a name without a range, and for a range that is not low <= usual <= high.
    """
    for name, (low, usual, high) in ranges.items():
        if not 1 <= low <= usual <= high:
            raise ModelError(f"range of {name!r} is {low}, {usual}, {high}; it must be 1 <= smallest <= usual <= largest")
    known = {size: found for shape in inputs.values() for size in shape if isinstance(size, str) and (found := _range(size, ranges))}
    for source, shape in inputs.items():
        if lacking := [size for size in shape if isinstance(size, str) and size not in known]:
            raise ModelError(f"input {source} has the free dimension {lacking[0]!r} without a range; known: {', '.join(sorted(ranges))}")

    def at(which: int) -> Shapes:
        return {name: tuple(known[size][which] if isinstance(size, str) else size for size in shape) for name, shape in inputs.items()}

    return Profile(at(0), at(1), at(2))


def _range(name: str, ranges: Mapping[str, Range]) -> Range | None:
    """Of a dimension by its name, or by the first word of it: those of a bank are `rank of …`."""
    return ranges.get(name) or ranges.get(name.partition(" ")[0])


def shapes_text(shapes: Shapes) -> str:
    """As the providers want them: `sample:1x4x64x64,timestep:1`. Raises ModelError for a name that they would cut in two."""
    if wrong := [name for name in shapes if ":" in name or "," in name]:
        raise ModelError(f"input {wrong[0]!r}: TensorRT's shapes have no names with ':' or ','; give the graph's input another name")
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def engine_folder(
    cache: Path, kind: str, graph: bytes, weights: str, placement: Placement, shapes: Profile, versions: Sequence[str]
) -> Path:
    """Where what TensorRT builds of one graph is kept.

    An engine holds weights and fits one card and one version, while a provider names its files by the graph alone: so all of
    `graph` (its bytes), `weights` (a digest), precision, `shapes` and `versions` (of libraries, driver and card) are in the key.
    """
    facts = [hashlib.sha256(graph).hexdigest(), weights, placement.precision, placement.index, shapes, *versions]
    return cache / kind / hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


def cuda_options(placement: Placement, *, graph: bool) -> Options:
    """The CUDA provider's.

    cuDNN's algorithms are chosen by heuristics: the default search would stop everybody each time a batch has a new size.
    fp32 means fp32, so no TF32.
    """
    options = {
        "device_id": str(placement.index),
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
    }
    return options | ({"enable_cuda_graph": "1"} if graph else {})


def tensorrt_options(placement: Placement, folder: Path, shapes: Profile, *, graph: bool) -> Options:
    """The TensorRT provider's: engines and timings kept in `folder`, weights taken from memory."""
    options = {
        "device_id": str(placement.index),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
        "trt_load_user_initializer": "1",
        "trt_profile_min_shapes": shapes_text(shapes.low),
        "trt_profile_opt_shapes": shapes_text(shapes.usual),
        "trt_profile_max_shapes": shapes_text(shapes.high),
    }
    if placement.precision != "float32":
        options["trt_fp16_enable" if placement.precision == "float16" else "trt_bf16_enable"] = "1"
        options["trt_layer_norm_fp32_fallback"] = "1"
    return options | ({"trt_cuda_graph_enable": "1"} if graph else {})


def rtx_options(folder: Path, shapes: Profile) -> Options:
    """The TensorRT-RTX plugin's. It computes in the types of the graph and has no switch for them; the device is chosen apart.

    No CUDA graph is asked for: arrays cannot be bound to a plugin's device by ONNX Runtime's public functions.
    """
    return {
        "nv_runtime_cache_path": str(folder),
        "nv_profile_min_shapes": shapes_text(shapes.low),
        "nv_profile_opt_shapes": shapes_text(shapes.usual),
        "nv_profile_max_shapes": shapes_text(shapes.high),
    }


def ladder(
    placement: Placement, known: frozenset[str], folders: Mapping[str, Path] | None = None, shapes: Profile | None = None
) -> tuple[list[Plan], list[str]]:
    """The plans for `placement`, best first and the CPU last, and why better ones are not among them.

    `known` are the providers that this installation has: ONNX Runtime's own, and RTX where its plugin is installed. `folders` by
    provider and `shapes` are needed by TensorRT. A session holds one of TensorRT and TensorRT-RTX, never both. CUDA graphs are
    tried first where they were asked for: a session that cannot record them fails to open, and the next plan does without.
    """
    on_cpu = Plan("cpu", ((CPU, {}),))
    if placement.device == "cpu":
        return [on_cpu], []
    plans: list[Plan] = []
    # TensorRT-RTX computes in the types of the graph, and there are no bf16 graphs
    built = (RTX, TENSORRT) if placement.precision != "bfloat16" else (TENSORRT,)
    wanted = ((built,) if placement.tensorrt else ()) + ((CUDA,),)
    missing = [
        "; ".join(f"{name} is not installed; it needs this: {GET[name]}" for name in names) for names in wanted if not {*names} & known
    ]
    half = placement.precision == "float16"
    recorded = (True, False) if placement.fixed_shapes else (False,)
    below = {graph: ((CUDA, cuda_options(placement, graph=graph)),) if CUDA in known else () for graph in recorded}
    if placement.tensorrt and shapes and folders:
        if RTX in known and RTX in built:
            plans.append(Plan("tensorrt-rtx", ((RTX, rtx_options(folders[RTX], shapes)), *below[False]), RTX_PLUGIN, half))
        if TENSORRT in known:
            options = {graph: tensorrt_options(placement, folders[TENSORRT], shapes, graph=graph) for graph in recorded}
            plans += [Plan("tensorrt", ((TENSORRT, options[graph]), *below[graph]), None, half) for graph in recorded]
    if CUDA in known:
        plans += [Plan("cuda", below[graph], None, half) for graph in recorded]
    return [*plans, on_cpu], missing


def card(root: Path = Path("/proc/driver/nvidia")) -> list[str]:
    """The driver's version and the models of the machine's cards, as the Linux driver tells them; empty without one."""
    try:
        driver = [(root / "version").read_text().splitlines()[0].strip()]
        told = [path.read_text() for path in sorted((root / "gpus").glob("*/information"))]
    except (OSError, IndexError):
        return []
    return driver + [line.partition(":")[2].strip() for text in told for line in text.splitlines() if line.startswith("Model:")]
