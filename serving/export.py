"""A diffusers directory to ONNX graphs. Needs torch and diffusers; what it writes is served without them.

The graphs hold no weights: each initializer carries the name of the weight in the directory's own safetensors and is
marked external. serving.graph reads the weights from there at load, so that one copy lies on disk and an adapter can
be merged into plain matrices.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from serving.errors import ModelError

if TYPE_CHECKING:
    import onnx_ir
    import torch

OPSET = 23  # attention stays one node; ONNX Runtime 1.24 or later runs it


def export_directory(folder: Path, into: Path | None = None) -> None:
    """Write `text_encoder.onnx`, `unet.onnx` and `vae_decoder.onnx` under `into` (default `folder/onnx`).

    Batch, height and width are free. Inputs and outputs, fp32 unless said otherwise:
    text_encoder: `input_ids` int64 [n, tokens] to `last_hidden_state` [n, tokens, width];
    unet: `sample` [n, c, h, w], `timestep` [n], `encoder_hidden_states` [n, tokens, width] to `out_sample` [n, c, h, w];
    vae_decoder: `latent_sample` [n, c, h, w] to `sample` [n, 3, H, W] in about [-1, 1].
    Raises ModelError when a part is missing or of an unknown class.
    """
    for source, expected, _ in _MAKERS.values():
        _config(folder / source, expected)
    into = into or folder / "onnx"
    into.mkdir(parents=True, exist_ok=True)
    for part in _MAKERS:
        export_part(folder, part, into / f"{part}.onnx")


def export_part(folder: Path, part: str, path: Path) -> None:
    """Write `text_encoder`, `unet` or `vae_decoder` to `path`, and its weights' names and shapes beside it as JSON.

    Each file is replaced whole. Raises ModelError.
    """
    source, expected, make = _MAKERS[part]
    config = _config(folder / source, expected)
    import onnx_ir

    model = make(config)
    partial = path.with_suffix(".partial")
    shapes = {
        name: list(value.shape or ())
        for name, value in model.graph.initializers.items()
        if isinstance(value.const_value, onnx_ir.ExternalTensor)
    }
    partial.write_bytes(msgspec.json.encode({"opset": OPSET, "weights": shapes}))
    partial.replace(path.with_suffix(".json"))
    onnx_ir.save(model, partial)
    partial.replace(path)


def _text_encoder(told: dict[str, Any]) -> "onnx_ir.Model":
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig.from_dict(told)
    # "eager" and "sdpa" differ in speed only; sdpa exports to one Attention node
    model: Any = CLIPTextModel._from_config(config, attn_implementation="sdpa")
    # at least two tokens and two rows: the exporter takes a size of one for a constant
    ids = torch.randint(0, config.vocab_size, (2, config.max_position_embeddings))
    return _graph(
        _module(model, lambda m, x: m(input_ids=x, return_dict=False)[0]), (ids,), {"input_ids": {0: "batch"}}, "last_hidden_state"
    )


def _unet(config: dict[str, Any]) -> "onnx_ir.Model":
    import torch
    from diffusers import UNet2DConditionModel

    model: Any = UNet2DConditionModel.from_config(config)
    side = max(8, 2 ** len(model.config["block_out_channels"]))
    inputs = (torch.randn(2, model.config["in_channels"], side, side), torch.tensor([500.0, 20.0]), torch.randn(2, 7, _text_width(config)))
    shapes = {"sample": {0: "batch", 2: "height", 3: "width"}, "timestep": {0: "batch"}, "encoder_hidden_states": {0: "batch", 1: "tokens"}}
    return _graph(_module(model, lambda m, *x: m(*x, return_dict=False)[0]), inputs, shapes, "out_sample")


def _vae_decoder(config: dict[str, Any]) -> "onnx_ir.Model":
    import torch
    from diffusers import AutoencoderKL

    model: Any = AutoencoderKL.from_config(config)
    model.encoder, model.quant_conv = torch.nn.Identity(), torch.nn.Identity()
    latent = torch.randn(2, model.config["latent_channels"], 8, 8)
    shapes = {"latent_sample": {0: "batch", 2: "height", 3: "width"}}
    return _graph(_module(model, lambda m, z: m.decode(z, return_dict=False)[0]), (latent,), shapes, "sample")


def _text_width(config: dict[str, Any]) -> int:
    width = config.get("cross_attention_dim", 1280)
    if not isinstance(width, int):
        raise ModelError(f"unet/config.json: cross_attention_dim {width!r} is not one number; only Stable Diffusion 1.x layouts are served")
    return width


def _config(folder: Path, expected: str) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); the directory must be in diffusers layout") from None
    found = config.get("_class_name") or next(iter(config.get("architectures") or [expected]))
    if found != expected:
        raise ModelError(f"{path}: is a {found}; only {expected} is served")
    return config


def _module(model: Any, call: Callable[..., "torch.Tensor"]) -> "torch.nn.Module":
    """`call(model, *inputs)` as a module whose weights are named `model.…`."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return call(self.model, *inputs)

    return Wrapped().float().eval().requires_grad_(False)  # a config may ask for half precision


def _graph(
    module: "torch.nn.Module", inputs: tuple["torch.Tensor", ...], shapes: dict[str, dict[int, str]], output: str
) -> "onnx_ir.Model":
    """Export structure only: weights are free inputs while the graph is optimised, so no value can be folded into it."""
    import onnx_ir as ir
    import torch
    from onnxscript import optimizer

    names = {name.removeprefix("model."): value for name, value in module.state_dict().items()}
    program = torch.onnx.export(
        module, inputs, dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
        input_names=list(shapes), output_names=[output], dynamic_shapes=(tuple(shapes.values()),),
    )  # fmt: skip
    assert program is not None
    graph = program.model.graph
    weights = {}
    for name in [n for n in graph.initializers if n.removeprefix("model.") in names]:
        value = graph.initializers.pop(name)
        value.name, value.const_value = name.removeprefix("model."), None
        weights[value.name] = value
        graph.inputs.append(value)
    optimizer.optimize_ir(program.model)
    for name, value in weights.items():
        graph.inputs.remove(value)
        shape = ir.Shape(list(names[name].shape))
        value.const_value = ir.ExternalTensor(
            "safetensors", 0, names[name].numel() * 4, ir.DataType.FLOAT, shape=shape, name=name, base_dir=""
        )
        graph.initializers[name] = value
    if lost := sorted(set(names) - set(weights)):
        raise ModelError(f"the exporter dropped the weights {lost[:3]}; report this with the versions of torch and diffusers")
    ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    program.model.graph.name = output
    return program.model


_MAKERS: dict[str, tuple[str, str, Callable[[dict[str, Any]], "onnx_ir.Model"]]] = {
    "text_encoder": ("text_encoder", "CLIPTextModel", _text_encoder),
    "unet": ("unet", "UNet2DConditionModel", _unet),
    "vae_decoder": ("vae", "AutoencoderKL", _vae_decoder),
}

if __name__ == "__main__":
    export_directory(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
