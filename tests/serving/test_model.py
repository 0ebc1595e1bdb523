"""Model directories: what is missing or wrong is told with its path and the fix; digests; graphs without torch."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from serving import model as model_module
from serving.adapters.lora import read_adapter
from serving.backends.onnx.backend import OnnxBackend
from serving.backends.onnx.graph import Cores, Graph, expected_weights
from serving.errors import ModelError
from serving.model import graphs_folder, open_model
from serving.settings import EngineSettings
from serving.weights import read_file, read_part


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "copy")


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: (f / "model_index.json").unlink(), r"model_index\.json: cannot be read"),
    (lambda f: (f / "model_index.json").write_text("{"), r"model_index\.json: .*diffusers layout"),
    (lambda f: _edit(f / "model_index.json", unet=["diffusers", "FluxTransformer2DModel"]), "only UNet2DConditionModel is served"),
    (lambda f: _edit(f / "model_index.json", text_encoder=[None, None]), "text_encoder is .*; only CLIPTextModel is served"),
    (lambda f: shutil.rmtree(f / "vae"), "vae: is missing"),
    (lambda f: (f / "unet/config.json").unlink(), r"unet/config\.json: cannot be read"),
    (lambda f: _edit(f / "unet/config.json", in_channels=9), "in_channels 9 is not the vae's 4"),
    (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").unlink(), r"unet: has no diffusion_pytorch_model\.safetensors"),
    (lambda f: (f / "vae/diffusion_pytorch_model.safetensors").rename(f / "vae/diffusion_pytorch_model.bin"), "pickled"),
    (lambda f: _edit(f / "scheduler/scheduler_config.json", prediction_type="flow"), r"scheduler_config\.json: Invalid enum value 'flow'"),
]


@pytest.mark.parametrize(("damage", "match"), BREAKS)
def test_what_is_missing_is_named(copy: Path, tmp_path: Path, damage, match: str) -> None:
    open_model(str(copy), tmp_path / "cache")
    damage(copy)
    with pytest.raises(ModelError, match=match):
        open_model(str(copy), tmp_path / "cache")


def test_the_digest_is_of_the_content(copy: Path, tiny_model: Path, tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", copy / "unet/diffusion_pytorch_model.safetensors"
    digest = open_model(str(copy), cache).digest
    assert digest == open_model(str(tiny_model), cache).digest == open_model(str(copy), tmp_path / "other").digest
    os.utime(weights)
    (copy / "README.md").write_text("a card does not change the pixels")
    assert open_model(str(copy), cache).digest == digest
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert open_model(str(copy), cache).digest != digest


def test_without_torch_a_directory_without_graphs_says_what_to_install(copy: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(model_module, "_EXPORT_NEEDS", ("a_package_that_is_not_there",))
    with pytest.raises(ModelError, match=r"needs a_package_that_is_not_there; pip install 'salon\[train\]'"):
        graphs_folder(open_model(str(copy), tmp_path), tmp_path)


def test_a_failed_export_leaves_nothing_behind(copy: Path, tmp_path: Path) -> None:
    _edit(copy / "vae/config.json", _class_name="AsymmetricAutoencoderKL")
    _edit(copy / "text_encoder/config.json", architectures=["T5EncoderModel"])
    with pytest.raises(ModelError, match=r"cannot be exported to ONNX .*only CLIPTextModel is served"):
        graphs_folder(open_model(str(copy), tmp_path / "cache"), tmp_path / "cache")
    assert not list((tmp_path / "cache/graphs").iterdir())


def test_graphs_in_the_directory_are_used_and_fit_only_their_architecture(
    copy: Path, tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    shutil.copytree(graphs_folder(open_model(str(tiny_model), cache), cache), copy / "onnx")
    model = open_model(str(copy), tmp_path)
    assert graphs_folder(model, tmp_path) == copy / "onnx"
    OnnxBackend(model, EngineSettings(threads=1), tmp_path, 2).close()
    weights = read_part(copy / "unet")
    del weights["conv_in.bias"]
    with pytest.raises(ModelError, match=r"needs the weight conv_in\.bias"):
        Graph(copy / "onnx/unet.onnx", weights, Cores(1, by_row=True))
    with pytest.raises(ModelError, match=r"conv_in.bias has shape \[3\]"):
        Graph(copy / "onnx/unet.onnx", {**weights, "conv_in.bias": np.zeros(3, np.float32)}, Cores(1, by_row=True))
    (copy / "onnx/unet.onnx").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="ONNX Runtime refuses it"):
        Graph(copy / "onnx/unet.onnx", read_part(copy / "unet"), Cores(1, by_row=True))


def test_graphs_hold_no_weights(tiny_model: Path, cache: Path) -> None:
    folder = graphs_folder(open_model(str(tiny_model), cache), cache)
    for part, source in (("unet", "unet"), ("vae_decoder", "vae"), ("text_encoder", "text_encoder")):
        graph, weights = folder / f"{part}.onnx", read_part(tiny_model / source)
        shapes = expected_weights(graph)
        assert all(weights[name].shape == shape for name, shape in shapes.items())
        data = graph.read_bytes()
        largest = max(shapes, key=lambda name: weights[name].size)
        assert weights[largest].tobytes()[:64] not in data and len(data) < 400_000


def test_bfloat16_is_read(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.25], [1e-30, 3e38]], ml_dtypes.bfloat16)
    save_file({"w": values}, tmp_path / "x.safetensors")
    assert (read_file(tmp_path / "x.safetensors")["w"] == values.astype(np.float32)).all()


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00" * 7, struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"{]", struct.pack("<Q", 2) + b"[]"]
    + [
        struct.pack("<Q", len(header)) + header + b"\x00" * 8
        for header in (
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,9999]}}',
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}',
            b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
            b'{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}',
            b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,7]}}',
            b'{"w":3}',
        )
    ],
)
def test_a_damaged_safetensors_file_is_a_model_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        read_file(tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("rows", [1, 2, 5, 7])
def test_rows_apart_are_the_rows_together(rows: int) -> None:
    sizes: list[int] = []

    def double(inputs: dict) -> list[np.ndarray]:
        sizes.append(len(inputs["a"]))
        if len(inputs["a"]) == 4:
            raise MemoryError("no room")
        return [inputs["a"] * inputs["b"][:, None], inputs["b"]]

    inputs = {"a": np.arange(rows * 2.0).reshape(rows, 2), "b": np.arange(rows)}
    cores = Cores(3, by_row=True)
    both = cores.run(double, inputs)
    assert (both[0] == inputs["a"] * inputs["b"][:, None]).all() and (both[1] == inputs["b"]).all()
    assert sorted(sizes) == {1: [1], 2: [1, 1], 5: [1, 2, 2], 7: [2, 2, 3]}[rows]
    with pytest.raises(MemoryError):
        cores.run(double, {"a": np.zeros((12, 2)), "b": np.zeros(12)})
    cores.close()


def test_a_base_install_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The base install has no ONNX Runtime and no tokenizers: the error names the package and the extra."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tokenizers" else object())
    with pytest.raises(ModelError, match=r"'tokenizers'.*pip install 'salon\[local\]'"):
        open_model("salon/emoji-64", tmp_path)
