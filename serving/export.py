"""A diffusers directory to ONNX graphs. Needs torch and diffusers; what it writes is served without them.

The graphs hold no weights: each initializer carries the name of the weight in the directory's own safetensors and is
marked external. serving.graph reads the weights from there at load, so that one copy lies on disk and an adapter can
be merged into plain matrices.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from serving.errors import ModelError
from serving.layouts import Layout, read_layout

if TYPE_CHECKING:
    import onnx_ir
    import torch

    from serving.traced import Traced

OPSET = 23  # attention stays one node; ONNX Runtime 1.24 or later runs it


def export_directory(folder: Path, into: Path | None = None) -> list[str]:
    """Write the graphs of the directory's layout under `into` (default `folder/onnx`); returns their names.

    Batch, height and width are free. Inputs and outputs, fp32 unless said otherwise:

    - `text_encoder`, of Stable Diffusion 1.x: `input_ids` int64 [n, tokens] to `last_hidden_state` [n, tokens, width]; of SDXL:
      the same, of the layer before the last. With a projection: to `hidden_state` of that layer and `text_embeds` [n, width].
    - `unet`, `transformer`: `sample` [n, c, h, w], `timestep` [n], `encoder_hidden_states` [n, tokens, width], SDXL besides
      `text_embeds` [n, width] and `time_ids` [n, 6], Stable Diffusion 3 `pooled_projections` [n, width]; to `out_sample`
      [n, c, h, w].
    - `vae_decoder`: `latent_sample` [n, c, h, w] to `sample` [n, 3, H, W] in about [-1, 1].

    Raises ModelError when a part is missing or of an unknown class.
    """
    layout = directory_layout(folder)
    for part in layout.parts:
        _config(folder, layout, part)
    into = into or folder / "onnx"
    into.mkdir(parents=True, exist_ok=True)
    for graph in layout.graphs:
        export_part(folder, graph, into / f"{graph}.onnx")
    return list(layout.graphs)


def directory_layout(folder: Path) -> Layout:
    """What `model_index.json` says. Raises ModelError."""
    path = folder / "model_index.json"
    return read_layout(_json(path), str(path))


def export_part(folder: Path, graph: str, path: Path) -> None:
    """Write one of the layout's graphs to `path`, and its weights' names and shapes beside it as JSON.

    Each file is replaced whole. Raises ModelError.
    """
    layout = directory_layout(folder)
    part = layout.graphs[graph]
    config = _config(folder, layout, part)
    import onnx_ir
    from accelerate import init_empty_weights

    from serving.traced import traced

    with init_empty_weights(include_buffers=False):
        made = traced(layout, part, config)
    _give_room(made.module)
    model = _graph(made)
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


def _config(folder: Path, layout: Layout, part: str) -> dict[str, Any]:
    path, expected = folder / part / "config.json", layout.parts[part]
    config = _json(path)
    found = config.get("_class_name") or next(iter(config.get("architectures") or [expected]))
    if found != expected:
        raise ModelError(f"{path}: is a {found}; only {expected} is served there ({layout.name} layout)")
    return config


def _json(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path}: cannot be read ({error}); the directory must be in diffusers layout") from None
    return config


def _graph(part: "Traced") -> "onnx_ir.Model":
    """Export structure only: weights are free inputs while the graph is optimised, so no value can be folded into it."""
    import onnx_ir as ir
    import torch
    from onnxscript import optimizer

    names = _weights(part.module)
    program = torch.onnx.export(
        part.module, part.inputs, dynamo=True, optimize=False, opset_version=OPSET, verbose=False,
        input_names=list(part.axes), output_names=list(part.outputs), dynamic_shapes=(tuple(part.axes.values()),),
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
    found = {id(names[name]) for name in weights}
    if lost := sorted(name for name, tensor in names.items() if id(tensor) not in found):
        raise ModelError(f"the exporter dropped the weights {lost[:3]}; report this with the versions of torch and diffusers")
    ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    program.model.graph.name = part.outputs[0]
    return program.model


def _give_room(module: "torch.nn.Module") -> None:
    """Weights of no value for those without: memory that nobody writes to takes none, and first values would take minutes."""
    import torch

    rooms: dict[int, torch.nn.Parameter] = {}
    for layer in module.modules():
        for name, weight in layer.named_parameters(recurse=False):
            empty = torch.nn.Parameter(torch.empty_like(weight, device="cpu"), requires_grad=False)
            setattr(layer, name, rooms.setdefault(id(weight), empty))
    if tie := getattr(module.model, "tie_weights", None):  # transformers' own; weights without room were made one by one
        tie()


def _weights(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """Every parameter and kept buffer by its name in the part's files; tied ones are one tensor under several names."""
    held = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
    return {name.removeprefix("model."): held[name] for name in module.state_dict()}


if __name__ == "__main__":
    export_directory(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
