"""LoRAs laid out in one tensor on the device, an adapter a line."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from serving.adapters.lora import Adapter
from serving.adapters.targets import factors, targets
from serving.backends.torch.forms import Shape
from serving.backends.torch.layers import shape_of
from serving.errors import ModelError

PREFIX = "model."  # modules of serving.traced wrap the part so
_SMALLEST_RANK = 4
_ALIGNED = 16  # numbers: what lies behind can be loaded as vectors


class Layout(NamedTuple):
    """Which layers have LoRAs: `layers[name]` is its shape and where it begins in a line; a line has `size` numbers."""

    layers: dict[str, tuple[Shape, int]]
    size: int


def wanted(network: torch.nn.Module, part: str, adapter: Adapter) -> dict[str, Shape]:
    """The shape of each layer of `network` that `adapter` changes as its `part`, at the adapter's own rank. Raises ModelError."""
    modules = {name.removeprefix(PREFIX): module for name, module in network.named_modules()}
    weights = {
        name: tuple(module.weight.shape) for name, module in modules.items() if isinstance(getattr(module, "weight", None), torch.Tensor)
    }
    found: dict[str, Shape] = {}
    for name, lora in targets(adapter, part, weights).items():
        assert lora.down is not None  # `targets` checked
        shape = shape_of(modules[name], len(lora.down))
        if shape is None:
            raise ModelError(
                f"{adapter.path}: {name} is neither a linear layer nor a plain convolution, so no LoRA can be added beside it; "
                "merge the adapter into a copy of the model and name that as the variant's model"
            )
        found[name] = shape
    return found


def widened(layout: Layout | None, shapes: Mapping[str, Shape]) -> Layout:
    """A layout that holds what `layout` does and `shapes` too; ranks are padded to powers of two. The same one if it already does."""
    held = {name: shape for name, (shape, _) in layout.layers.items()} if layout else {}
    changed = False
    for name, shape in shapes.items():
        rank = max(_SMALLEST_RANK, 1 << (shape.rank - 1).bit_length())
        if name not in held or held[name].rank < rank:
            held[name], changed = shape._replace(rank=rank), True
    if layout is not None and not changed:
        return layout
    layers, at = {}, 0
    for name, shape in held.items():
        layers[name] = (shape, at)
        at += -(-(shape.down_size + shape.up_size) // _ALIGNED) * _ALIGNED
    return Layout(layers, at)


def line(layout: Layout, part: str, adapter: Adapter, scale: float) -> torch.Tensor:
    """`adapter` as a line of a bank, float32 [size] on the CPU: alpha / rank and `scale` are folded into `up`."""
    packed = np.zeros(layout.size, np.float32)
    weights = {name: (shape.outputs, shape.inputs, *shape.kernel) for name, (shape, _) in layout.layers.items()}
    for name, lora in targets(adapter, part, weights).items():
        shape, at = layout.layers[name]
        down, up = factors(lora, scale)
        rank, middle = len(down), at + shape.down_size
        # rank · taps rows, the taps of a rank beside each other in reverse; ranks that the adapter lacks stay zero
        packed[at : at + down.size] = down.reshape(rank, shape.inputs, shape.taps)[:, :, ::-1].transpose(0, 2, 1).reshape(-1)
        packed[middle : middle + shape.up_size].reshape(shape.outputs, shape.rank)[:, :rank] = up
    return torch.from_numpy(packed)


def relaid(old: Layout, new: Layout, lines: torch.Tensor) -> torch.Tensor:
    """Lines [entries, size] of layout `old` as lines of `new`, which holds all that `old` does."""
    made = lines.new_zeros(len(lines), new.size)
    for name, (before, at) in old.layers.items():
        after, to = new.layers[name]
        made[:, to : to + before.down_size] = lines[:, at : at + before.down_size]
        up = lines[:, at + before.down_size : at + before.down_size + before.up_size].unflatten(1, (before.outputs, before.rank))
        middle = to + after.down_size
        made[:, middle : middle + after.up_size].unflatten(1, (after.outputs, after.rank))[:, :, : before.rank] = up
    return made
