"""ONNX Runtime's providers: order, options, keys, and what happens when one is missing. CUDA itself is not run here."""

import logging
import re
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from serving.adapters.lora import Adapter, Lora
from serving.adapters.targets import factors
from serving.backends.onnx.backend import OnnxBackend
from serving.backends.onnx.banks import Banks
from serving.backends.onnx.bound import Bound
from serving.backends.onnx.graph import Cores, Graph, expected_weights
from serving.backends.onnx.half import halved
from serving.backends.onnx.providers import (
    CPU,
    CUDA,
    RTX,
    RTX_PLUGIN,
    TENSORRT,
    Placement,
    Plan,
    Profile,
    card,
    engine_folder,
    ladder,
    place,
    profile,
    shapes_text,
)  # fmt: skip
from serving.backends.onnx.ranges import ranges
from serving.backends.onnx.session import Providers, free_inputs, weights_digest
from serving.backends.onnx.surgery import add_branches
from serving.backends.port import Seat
from serving.errors import ModelError
from serving.model import graphs_folder, open_model
from serving.samplers import table
from serving.settings import EngineSettings
from serving.weights import find, read_part

RANGES = {"batch": (1, 6, 16), "height": (8, 8, 8), "width": (8, 8, 8), "tokens": (20, 20, 20)}
SHAPES = Profile({"x": (1, 4)}, {"x": (6, 4)}, {"x": (16, 4)})
FOLDERS = {RTX: Path("/cache/rtx/k"), TENSORRT: Path("/cache/tensorrt/k")}
ALL = frozenset({RTX, TENSORRT, CUDA, CPU})


def names(plan: Plan) -> list[str]:
    return [name for name, _ in plan.providers]


@pytest.fixture(scope="module")
def unet(tiny_model: Path, cache: Path):
    """The path of the tiny model's graph, its weights, and inputs of three rows."""
    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((3, 4, 8, 8), np.float32),
        "timestep": np.array([999.0, 500.0, 3.0], np.float32),
        "encoder_hidden_states": rng.standard_normal((3, 20, 32), np.float32),
    }
    return graphs_folder(open_model(str(tiny_model), cache), cache) / "unet.onnx", read_part(tiny_model / "unet"), inputs


def test_the_order_is_tensorrt_then_cuda_then_the_cpu() -> None:
    asked = Placement(device="cuda:1", tensorrt=True, precision="float16", cache=Path("/cache"))
    plans, missing = ladder(asked, ALL, FOLDERS, SHAPES)
    # one session holds one of the two TensorRTs
    assert [names(plan) for plan in plans] == [[RTX, CUDA], [TENSORRT, CUDA], [CUDA], [CPU]]
    assert [plan.half for plan in plans] == [True, True, True, False] and not missing
    assert plans[0].plugin == RTX_PLUGIN
    rtx, trt, cuda = (plan.providers[0][1] for plan in plans[:3])
    assert rtx == {
        "nv_runtime_cache_path": "/cache/rtx/k", "nv_profile_min_shapes": "x:1x4", "nv_profile_opt_shapes": "x:6x4",
        "nv_profile_max_shapes": "x:16x4",
    }  # fmt: skip
    assert trt["trt_profile_min_shapes"] == "x:1x4" and trt["trt_profile_max_shapes"] == "x:16x4"
    assert trt["trt_engine_cache_path"] == "/cache/tensorrt/k" and trt["trt_timing_cache_path"] == "/cache/tensorrt"
    assert trt["device_id"] == cuda["device_id"] == "1" and trt["trt_fp16_enable"] == "1" and "trt_bf16_enable" not in trt
    assert cuda["use_tf32"] == "0" and "enable_cuda_graph" not in cuda


@pytest.mark.parametrize(
    ("known", "expected", "reasons"),
    [
        (ALL - {RTX}, [[TENSORRT, CUDA], [CUDA], [CPU]], []),
        (frozenset({CUDA, CPU}), [[CUDA], [CPU]], ["salon\\[gpu\\].* TensorRT libraries"]),
        (frozenset({RTX, CPU}), [[RTX], [CPU]], [f"{CUDA} is not installed"]),
        (frozenset({CPU}), [[CPU]], [f"{RTX} is not installed.*{TENSORRT} is not installed", "CUDA 13 and cuDNN 9"]),
    ],
)
def test_what_is_missing_falls_to_the_next_and_is_told(known, expected, reasons) -> None:
    asked = Placement(device="cuda", tensorrt=True, precision="float16", cache=Path("/cache"))
    plans, missing = ladder(asked, known, FOLDERS, SHAPES)
    assert [names(plan) for plan in plans] == expected and len(missing) == len(reasons)
    assert all(re.search(reason, text) for text, reason in zip(missing, reasons, strict=True))


def test_bf16_is_tensorrts_own_and_fp32_asks_for_neither() -> None:
    for precision, key in (("bfloat16", "trt_bf16_enable"), ("float32", None)):
        plans, _ = ladder(Placement(device="cuda", tensorrt=True, precision=precision, cache=Path("/c")), ALL, FOLDERS, SHAPES)
        trt = next(plan for plan in plans if plan.name == "tensorrt")
        assert {name for name in trt.providers[0][1] if name.endswith("16_enable")} == ({key} if key else set())
        assert not any(plan.half for plan in plans)
        assert any(plan.name == "tensorrt-rtx" for plan in plans) == (precision == "float32")  # it has no bf16 of fp32 graphs


def test_fixed_shapes_are_recorded_where_that_works() -> None:
    plans, _ = ladder(Placement(device="cuda", tensorrt=True, cache=Path("/c"), fixed_shapes=True), ALL, FOLDERS, SHAPES)
    assert [(plan.name, plan.graph) for plan in plans] == [
        ("tensorrt-rtx", False), ("tensorrt", True), ("tensorrt", False), ("cuda", True), ("cuda", False), ("cpu", False),
    ]  # fmt: skip
    assert plans[1].providers[0][1]["trt_cuda_graph_enable"] == plans[3].providers[0][1]["enable_cuda_graph"] == "1"


def test_a_placement_is_what_the_settings_ask_for() -> None:
    cache = Path("/cache")
    assert place(EngineSettings(), cache) == Placement(cache=cache)
    placed = place(EngineSettings(device="cuda:2", mode="strict"), cache, tensorrt=True)
    assert placed == Placement(device="cuda:2", tensorrt=True, precision="float16", cache=cache, fixed_shapes=True) and placed.index == 2
    assert not place(EngineSettings(device="cuda", mode="strict", cuda_graphs=False), cache).fixed_shapes
    assert place(EngineSettings(device="cuda", dtype="bfloat16"), cache, tensorrt=True).precision == "bfloat16"
    for settings, tensorrt, match in (
        (EngineSettings(), True, 'backend "tensorrt" needs a CUDA device'),
        (EngineSettings(dtype="float16"), False, "computes in float32 on the CPU"),
        (EngineSettings(device="cuda", dtype="bfloat16"), False, 'set dtype = "float16"'),
    ):
        with pytest.raises(ModelError, match=match):
            place(settings, cache, tensorrt=tensorrt)


def test_profiles_are_the_graphs_own_inputs_at_three_sizes(unet) -> None:
    path, _, _ = unet
    made = profile(free_inputs(path.read_bytes()), RANGES)
    assert shapes_text(made.low) == "sample:1x4x8x8,timestep:1,encoder_hidden_states:1x20x32"
    assert shapes_text(made.usual) == "sample:6x4x8x8,timestep:6,encoder_hidden_states:6x20x32"
    assert made.high["sample"] == (16, 4, 8, 8)
    with pytest.raises(ModelError, match="encoder_hidden_states has the free dimension 'tokens' without a range"):
        profile(free_inputs(path.read_bytes()), {name: RANGES[name] for name in ("batch", "height", "width")})
    with pytest.raises(ModelError, match="range of 'batch' is 4, 2, 8"):
        profile({}, {"batch": (4, 2, 8)})
    with pytest.raises(ModelError, match=r"'down:x'.*give the graph's input another name"):
        shapes_text({"down:x": (1,)})


def test_an_engine_is_kept_by_all_that_it_was_built_from() -> None:
    base: dict = {"graph": b"g", "weights": "w", "placement": Placement(device="cuda"), "shapes": SHAPES, "versions": ["11.4", "H100"]}
    folder = engine_folder(Path("/c"), "tensorrt", **base)
    assert folder == engine_folder(Path("/c"), "tensorrt", **base) and folder.parent == Path("/c/tensorrt")
    changes: list[dict] = [
        {"graph": b"h"}, {"weights": "v"}, {"placement": Placement(device="cuda:1")}, {"versions": ["11.5", "H100"]},
        {"placement": Placement(device="cuda", precision="float16")}, {"shapes": Profile(SHAPES.low, SHAPES.low, SHAPES.high)},
    ]  # fmt: skip
    assert len({folder, *(engine_folder(Path("/c"), "tensorrt", **base | change) for change in changes)}) == 1 + len(changes)


def test_the_digest_of_weights_sees_every_value_name_and_shape() -> None:
    a, b = np.arange(6, dtype=np.float32), np.ones(2, np.float32)
    told = [{"a": a, "b": b}, {"a": a + 1, "b": b}, {"a": a.reshape(2, 3), "b": b}, {"a": a, "c": b}]
    assert len({weights_digest(weights) for weights in told}) == 4
    assert weights_digest({"b": b, "a": a}) == weights_digest(told[0])


def test_the_card_is_read_from_the_driver(tmp_path: Path) -> None:
    assert card(tmp_path) == []
    (tmp_path / "gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX 580.1\nGCC version: 13\n")
    (tmp_path / "gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   16\n")
    assert card(tmp_path) == ["NVRM version: NVIDIA UNIX 580.1", "NVIDIA H100 80GB HBM3"]


def test_a_provider_that_does_not_open_gives_way_loudly_and_once(unet, tmp_path: Path, caplog) -> None:
    """This machine has neither, so every rung of the real ladder fails as it would on a server with broken libraries."""
    path, weights, inputs = unet
    placement = Placement(device="cuda", tensorrt=True, precision="float16", cache=tmp_path, fixed_shapes=True)
    providers = Providers(placement, known=frozenset({TENSORRT, CUDA, CPU}))
    with caplog.at_level(logging.WARNING, logger="serving.onnx"), pytest.warns(UserWarning, match="not in available provider"):
        first = Graph(path, weights, Cores(1, by_row=True), providers=providers, ranges=RANGES)
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if f"without {TENSORRT}" in text] and [text for text in told if f"without {CUDA}" in text]
    assert len(told) == len(providers.notes) == 2
    assert first.provider == "cpu"
    assert (first(**inputs) == Graph(path, weights, Cores(1, by_row=True))(**inputs)).all()
    Graph(path, weights, Cores(1, by_row=True), providers=providers, ranges=RANGES)
    assert len(caplog.records) == 2
    assert list((tmp_path / "tensorrt").iterdir())  # the engines' folder was ready


def test_a_plugin_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch, unet, tmp_path: Path) -> None:
    path, weights, _ = unet
    registered: list[tuple[str, str]] = []
    plugin = types.ModuleType(RTX_PLUGIN)
    plugin.get_ep_name, plugin.get_library_path = lambda: "nv_tensorrt_rtx", lambda: "/nowhere/librtx.so"
    monkeypatch.setitem(sys.modules, RTX_PLUGIN, plugin)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *told: registered.append(told))
    providers = Providers(Placement(device="cuda", tensorrt=True, cache=tmp_path), known=frozenset({RTX, CPU}))
    graph = Graph(path, weights, Cores(1, by_row=True), providers=providers, ranges=RANGES)
    assert registered == [("nv_tensorrt_rtx", "/nowhere/librtx.so")] and graph.provider == "cpu"
    assert any(f"{RTX_PLUGIN} has no device 0 that it can use; it has none" in note for note in providers.notes)


def test_an_error_of_the_graph_is_not_blamed_on_the_device(unet, tmp_path: Path) -> None:
    path, weights, _ = unet
    with pytest.raises(ModelError, match="ONNX Runtime refuses it"):
        Graph(path, weights, Cores(1, by_row=True), data=b"nonsense")


def run_half(data: bytes, weights: dict, inputs: dict) -> np.ndarray:
    initializers = onnx.load_model_from_string(data).graph.initializer
    names = [value.name for value in initializers if value.data_location == onnx.TensorProto.EXTERNAL]
    held = [np.ascontiguousarray(find(weights, name).astype(np.float16)) for name in names]
    options = ort.SessionOptions()
    options.add_external_initializers(names, [ort.OrtValue.ortvalue_from_numpy(array) for array in held])
    return ort.InferenceSession(data, options, providers=[CPU]).run(None, inputs)[0]


def test_fp16_is_the_same_network(unet) -> None:
    """On the CPU, where ONNX Runtime widens what it has no fp16 kernel for: the graph's structure and types hold."""
    path, weights, inputs = unet
    exact = Graph(path, weights, Cores(1, by_row=True))(**inputs)
    graph = onnx.load_model_from_string(halved(path.read_bytes()))
    halves = {value.data_type for value in graph.graph.initializer if value.data_location == onnx.TensorProto.EXTERNAL}
    assert halves == {onnx.TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in (*graph.graph.input, *graph.graph.output)} == {onnx.TensorProto.FLOAT}
    rough = run_half(graph.SerializeToString(), weights, inputs)
    assert rough.dtype == np.float32
    error = np.abs(rough - exact).max() / exact.std()
    assert 1e-6 < error < 0.02  # fp16 has 11 bits; and it was fp16


def test_kept_inputs_are_whole_for_every_part_of_the_rows(unet) -> None:
    """A bank is no array of rows: it is given whole to each part. Here the text plays the bank, cut from many rows to all."""
    path, weights, inputs = unet
    cores = Cores(1, by_row=True)
    expected = Graph(path, weights, cores)(**inputs)
    graph = Graph(path, weights, cores)
    graph.keep(encoder_hidden_states=inputs["encoder_hidden_states"])
    assert (graph(sample=inputs["sample"], timestep=inputs["timestep"]) == expected).all()
    assert (graph.outputs(sample=inputs["sample"], timestep=inputs["timestep"])["out_sample"] == expected).all()


@pytest.mark.parametrize("recorded", [False, True])
def test_bound_calls_are_the_plain_calls(unet, recorded: bool) -> None:
    """The path of a device, with the CPU as the device: buffers are used again, and hold what the last call gave."""
    path, weights, inputs = unet
    plain = Graph(path, weights, Cores(1, by_row=True))
    bound = Bound(plain._session, "cpu", 0, recorded=recorded)
    rng = np.random.default_rng(1)
    bound.keep({"encoder_hidden_states": inputs["encoder_hidden_states"]})
    results = []
    for rows in (3, 3, 3):
        mine = {"sample": rng.standard_normal((rows, 4, 8, 8), np.float32), "timestep": inputs["timestep"][:rows]}
        results.append((bound.run(mine, ["out_sample"])[0], plain(**mine, encoder_hidden_states=inputs["encoder_hidden_states"])))
    assert all((got == expected).all() for got, expected in results)
    assert len(bound._by_shapes) == 1
    mine = {"sample": inputs["sample"], "timestep": inputs["timestep"]}
    bound.keep({"encoder_hidden_states": inputs["encoder_hidden_states"] * 2})  # in place
    assert len(bound._by_shapes) == 1
    assert (bound.run(mine, ["out_sample"])[0] == plain(**mine, encoder_hidden_states=inputs["encoder_hidden_states"] * 2)).all()
    two = {name: array[:2] for name, array in inputs.items()}
    bound.keep({"encoder_hidden_states": two["encoder_hidden_states"]})  # another shape
    assert (bound.run({name: two[name] for name in mine}, ["out_sample"])[0] == plain(**two)).all()


def test_buffers_of_shapes_long_gone_are_given_back(unet) -> None:
    path, weights, inputs = unet
    plain = Graph(path, weights, Cores(1, by_row=True))
    bound = Bound(plain._session, "cpu", 0, recorded=False)
    for tokens in (*range(2, 40), 3):
        mine = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"][:, :1].repeat(tokens, axis=1)}
        got = bound.run(mine, ["out_sample"])[0]
    assert len(bound._by_shapes) == 32 and (got == plain(**mine)).all()


def adapter_of(modules: dict[str, tuple[int, ...]], seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    loras: dict[str, Lora] = {}
    for name, (outputs, *inputs) in modules.items():
        up = rng.standard_normal((outputs, 2, *(1 for _ in inputs[1:])), np.float32)
        loras[name] = Lora(rng.standard_normal((2, *inputs), np.float32) * 0.1, up)
    return Adapter(Path("random"), f"random {seed}", {"unet": loras})


@pytest.fixture(scope="module")
def adapters(unet) -> list[Adapter]:
    names = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "downsamplers.0.conv")
    shapes = {name.removesuffix(".weight"): shape for name, shape in expected_weights(unet[0]).items()}
    return [adapter_of({name: shape for name, shape in shapes.items() if name.endswith(names)}, seed) for seed in (1, 2)]


def test_banked_graphs_have_profiles_and_halve(unet, adapters, tiny_model: Path, cache: Path) -> None:
    """The graph as a device gets it: no Col2Im, names that TensorRT can read, fp16 with banks that stay fp32 until gathered."""
    path, weights, inputs = unet
    model = onnx.load(path, load_external_data=False)
    sites = add_branches(model, list(adapters[0].modules["unet"]), "conv")
    assert not any(node.op_type == "Col2Im" for node in model.graph.node)
    banks = Banks(sites, 3)
    for entry, adapter in enumerate(adapters, 1):
        banks.attach(entry, {module: factors(lora, 1.0) for module, lora in adapter.modules["unet"].items()})
    data = model.SerializeToString()
    made = profile(free_inputs(data), ranges(open_model(str(tiny_model), cache), 3))
    assert len(made.low) == 4 + len(banks.arrays) and shapes_text(made.usual).count(":") == len(made.low)
    for name, array in banks.arrays.items():
        sizes = zip(made.low[name], array.shape, made.high[name], strict=True)
        assert all(low <= size <= high for low, size, high in sizes), name
    mine = inputs | {"adapter": np.array([0, 1, 2])} | banks.arrays
    exact = Graph(path, weights, Cores(1, by_row=True), data=data)
    exact.keep(**banks.arrays)
    expected = exact(**inputs, adapter=np.array([0, 1, 2]))
    rough = run_half(halved(data), weights, mine)
    assert 1e-6 < np.abs(rough - expected).max() / expected.std() < 0.02
    casts = [node.input[0] for node in onnx.load_model_from_string(halved(data)).graph.node if node.op_type == "Cast"]
    assert not set(casts) & set(banks.arrays)


def test_a_device_without_its_libraries_draws_on_the_cpu_and_says_so(tiny_model: Path, cache: Path, adapters, caplog) -> None:
    """Everything that a variant needs, asked for on CUDA: text encoder, network, adapters, decoder; one warning for the lane."""
    model = open_model(str(tiny_model), cache)
    steps = table(model.scheduler, "ddim", 2)
    pictures = []
    for device in ("cpu", "cuda"):
        backend = OnnxBackend(model, EngineSettings(device=device, threads=1), cache, 2)
        for entry, adapter in enumerate(adapters, 1):
            backend.admit(adapter, 1.0)
            backend.attach(entry, adapter, 1.0)
        seats = [Seat(place=i, prompt="a cat", negative_prompt="", seed=i, table=steps, guidance=2.0, entry=i + 1) for i in range(2)]
        backend.begin(seats)
        backend.advance([0, 1])
        backend.advance([0, 1])
        pictures.append(backend.decode([0, 1]).astype(int))
        backend.close()
    assert np.abs(pictures[0] - pictures[1]).max() <= 1 and pictures[0].std() > 5
    told = [record.getMessage() for record in caplog.records if record.name == "serving.onnx"]
    assert len(told) == 1 and "CUDAExecutionProvider is not installed; it needs this: onnxruntime-gpu" in told[0]
