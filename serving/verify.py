"""Compares exported graphs with the same parts in torch, on random inputs. Needs torch and diffusers."""

import hashlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.graph import Cores, Graph
from serving.backends.onnx.session import free_inputs
from serving.cores import cores
from serving.errors import ModelError
from serving.export import directory_layout
from serving.layouts import Layout
from serving.weights import read_part, weight_files

if TYPE_CHECKING:
    import torch

# Largest difference in an output, in standard deviations of that output: fp32 on both sides, other orders of summation.
TOLERANCE = 2e-4
MANIFEST = "export.json"
_PACKAGES = ("torch", "diffusers", "transformers", "onnx", "onnxscript", "onnxruntime", "salon")
# Two batches, two sizes that are not square, in the smallest sides that the network can halve, and two lengths of text.
SIZES = ({"batch": 1, "height": 2, "width": 1, "tokens": 11}, {"batch": 3, "height": 2, "width": 3, "tokens": 20})
_SMALLEST_SIDE = 4  # latent pixels, where a network says nothing


class Compared(msgspec.Struct, frozen=True):
    """One output of one graph against torch, for inputs of `shapes`.

    `error` is the largest absolute difference divided by the standard deviation of what torch says.
    """

    graph: str
    output: str
    shapes: dict[str, list[int]]
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE  # a NaN has not passed


class Record(msgspec.Struct, frozen=True):
    """What `export.json` says: SHA-256 of each file, versions, and how far the graphs were from torch."""

    layout: str
    files: dict[str, str]
    versions: dict[str, str]
    tolerance: float
    compared: list[Compared]


def compare(folder: Path, graphs: Path, seed: int = 0) -> list[Compared]:
    """Every graph in `graphs` against torch with the weights of the model directory `folder`: two batches, two sizes.

    torch reads the weights by diffusers' and transformers' own `from_pretrained`. Raises ModelError for a graph that cannot run.
    """
    layout = directory_layout(folder)
    found: list[Compared] = []
    for name, part in layout.graphs.items():
        path = graphs / f"{name}.onnx"
        config = msgspec.json.decode((folder / part / "config.json").read_bytes(), type=dict[str, Any])
        running = Cores(cores(), by_row=False)
        try:
            graph = Graph(path, read_part(folder / part), running)
            module = oracle(folder, layout, part, config)
            found += _compare(name, free_inputs(path.read_bytes()), config, graph, module, seed)
        finally:
            running.close()
    return found


def oracle(folder: Path, layout: Layout, part: str, config: dict[str, Any]) -> "torch.nn.Module":
    """`part` in torch, fp32, taking the graph's inputs in the graph's order."""
    import diffusers
    import torch
    import transformers
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from serving.traced import traced

    diffusers_logging.disable_progress_bar()  # the figures are what is to be read
    transformers_logging.disable_progress_bar()
    kind = layout.parts[part]
    source = getattr(diffusers, kind, None) or getattr(transformers, kind)
    variant = "fp16" if ".fp16." in weight_files(folder / part)[0].name else None
    weights = source.from_pretrained(folder / part, variant=variant, torch_dtype=torch.float32, low_cpu_mem_usage=False).state_dict()
    module = traced(layout, part, config).module
    told = module.load_state_dict({f"model.{name}": value for name, value in weights.items()}, strict=False, assign=True)
    if told.missing_keys:
        raise ModelError(f"{folder / part}: has no weight {told.missing_keys[0].removeprefix('model.')}; copy the whole model directory")
    return module


def _compare(
    name: str, inputs: Mapping[str, list[int | str]], config: Mapping[str, Any], graph: Graph, module: "torch.nn.Module", seed: int
) -> Iterable[Compared]:
    import torch

    rng = np.random.default_rng(seed)
    for sizes in SIZES:
        made = random_inputs(inputs, scaled(sizes, config), config, rng)
        with torch.inference_mode():
            said = module(*(torch.from_numpy(array) for array in made.values()))
        expected = [tensor.numpy() for tensor in (said if isinstance(said, tuple) else (said,))]
        for (output, got), wanted in zip(graph.outputs(**made).items(), expected, strict=True):
            yield Compared(name, output, {key: list(array.shape) for key, array in made.items()}, difference(got, wanted))


def random_inputs(
    inputs: Mapping[str, list[int | str]], sizes: Mapping[str, int], config: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Random arrays for declared inputs: token ids below the vocabulary's size, timesteps below 1,000, else standard normal.

    Raises ModelError for a free dimension that `sizes` do not name.
    """
    made: dict[str, NDArray[Any]] = {}
    for name, declared in inputs.items():
        if unknown := [size for size in declared if isinstance(size, str) and size not in sizes]:
            raise ModelError(f"input {name}: its free dimension {unknown[0]!r} is none of {', '.join(sizes)}; export the directory again")
        shape = [sizes[size] if isinstance(size, str) else size for size in declared]
        if name == "input_ids":
            made[name] = rng.integers(0, int(config["vocab_size"]), shape)
        elif name == "timestep":
            made[name] = rng.uniform(0, 999, shape).astype(np.float32)
        else:
            made[name] = rng.standard_normal(shape, np.float32)
    return made


def difference(got: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The largest absolute difference in standard deviations of `wanted`; infinite for another shape or a number that is none."""
    if got.shape != wanted.shape or not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        return float("inf")
    return float(np.abs(got - wanted).max() / max(float(wanted.std()), np.finfo(np.float32).tiny))


def scaled(sizes: Mapping[str, int], config: Mapping[str, Any]) -> dict[str, int]:
    """Sides as multiples of what the network can halve, or cut into patches."""
    levels = len(config.get("block_out_channels") or ()) - 1
    unit = max(_SMALLEST_SIDE, 2 ** max(0, levels), int(config.get("patch_size") or 1))
    return {name: size * unit if name in ("height", "width") else size for name, size in sizes.items()}


def record(folder: Path, graphs: Path, compared: list[Compared]) -> Record:
    """What is to be kept about the graphs in `graphs`, made from `folder`."""
    layout = directory_layout(folder)
    files: dict[str, str] = {}
    for name in sorted(f"{graph}.{kind}" for graph in layout.graphs for kind in ("onnx", "json")):
        with (graphs / name).open("rb") as file:
            files[name] = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    return Record(layout.name, files, {package: version(package) for package in _PACKAGES}, TOLERANCE, compared)
