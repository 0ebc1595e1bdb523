"""Compares a network that has adapters in banks with torch and merged weights, on random inputs. Needs torch and diffusers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from serving.adapters.lora import Adapter, Lora
from serving.backends.onnx.graph import Cores, expected_weights
from serving.backends.onnx.network import Network
from serving.backends.onnx.session import free_inputs
from serving.backends.onnx.surgery import layers
from serving.cores import cores
from serving.export import directory_layout
from serving.verify import SIZES, Compared, difference, oracle, random_inputs, scaled
from serving.weights import read_part

if TYPE_CHECKING:
    import torch

# What `salon finetune` trains, and most LoRAs that people share.
_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
_RANKS = (4, 8, 3)  # of three adapters, of which the third is padded
_STRENGTH = 0.3  # of B A against a unit matrix of the layer's size: changes outputs by several percent
# Adapters of the rows of each call, 0 for none: each beside the others, and some twice.
_ROWS = ((0, 1, 2, 3), (3, 1, 1, 0, 2))


def compare_adapters(folder: Path, graphs: Path, seed: int = 0) -> list[Compared]:
    """The network with three random LoRAs in one call against torch, where each is merged into weights of its own: W + B A.

    Raises ModelError for a graph that cannot take them.
    """
    import onnx

    layout = directory_layout(folder)
    part = layout.network
    path = graphs / f"{part}.onnx"
    config = msgspec.json.decode((folder / part / "config.json").read_bytes(), type=dict[str, Any])
    rng = np.random.default_rng(seed)
    shapes = {name.removesuffix(".weight"): shape for name, shape in expected_weights(path).items()}
    modules = sorted(name for name in layers(onnx.load(path, load_external_data=False)) if name.endswith(_TARGETS))
    adapters = [_adapter(f"random-{rank}", part, {module: shapes[module] for module in modules}, rank, rng) for rank in _RANKS]
    running = Cores(cores(), by_row=False)
    try:
        network = Network(path, part, read_part(folder / part), running, len(adapters), strict=False)
        for entry, adapter in enumerate(adapters, 1):
            network.admit(adapter, 1.0)
            network.attach(entry, adapter, 1.0)
        module = oracle(folder, layout, part, config)
        return list(_compare(part, network, module, adapters, free_inputs(path.read_bytes()), config, rng))
    finally:
        running.close()


def _adapter(name: str, part: str, shapes: Mapping[str, tuple[int, ...]], rank: int, rng: np.random.Generator) -> Adapter:
    loras: dict[str, Lora] = {}
    for module, (outputs, *inputs) in shapes.items():
        down = rng.standard_normal((rank, *inputs), np.float32) / np.float32(np.sqrt(np.prod(inputs)))
        up = rng.standard_normal((outputs, rank, *(1 for _ in inputs[1:])), np.float32) * np.float32(_STRENGTH / np.sqrt(rank))
        loras[module] = Lora(down, up)
    return Adapter(Path(name), name, {part: loras})


def _compare(
    part: str,
    network: Network,
    module: "torch.nn.Module",
    adapters: list[Adapter],
    inputs: Mapping[str, list[int | str]],
    config: Mapping[str, Any],
    rng: np.random.Generator,
) -> Iterator[Compared]:
    import torch

    weights = dict(module.named_parameters())
    for sizes, entries in zip(SIZES, _ROWS, strict=True):
        made = random_inputs(inputs, scaled(sizes, config) | {"batch": len(entries)}, config, rng)
        got = network(entries, made)
        wanted = np.empty_like(got)
        with torch.inference_mode():
            for row, entry in enumerate(entries):
                merged = _merged(weights, adapters[entry - 1].modules[part]) if entry else {}
                mine = tuple(torch.from_numpy(array[row : row + 1]) for array in made.values())
                wanted[row] = torch.func.functional_call(module, merged, mine).numpy()[0]
        yield Compared(f"{part} with adapters", "out_sample", {n: list(a.shape) for n, a in made.items()}, difference(got, wanted))


def _merged(weights: Mapping[str, "torch.Tensor"], loras: Mapping[str, Lora]) -> dict[str, "torch.Tensor"]:
    import torch

    merged: dict[str, torch.Tensor] = {}
    for module, lora in loras.items():
        assert lora.down is not None and lora.up is not None
        name, rank = f"model.{module}.weight", len(lora.down)
        delta = torch.from_numpy(lora.up.reshape(-1, rank).astype(np.float64) @ lora.down.reshape(rank, -1).astype(np.float64))
        merged[name] = (weights[name].double() + delta.reshape(weights[name].shape)).float()
    return merged
