"""LoRAs laid out in one tensor on the device, an adapter a line."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from serving.adapters.lora import Adapter
from serving.backends.torch.forms import Shape
from serving.backends.torch.layers import shape_of
from serving.backends.torch.names import Names, factors
from serving.errors import ModelError


class Layout(NamedTuple):
    """Which layers have LoRAs: `layers[name]` is its shape and where it begins in a line; a line has `size` numbers."""

    layers: dict[str, tuple[Shape, int]]
    size: int


def targets(network: torch.nn.Module, part: str, adapter: Adapter) -> dict[str, Shape]:
    """The shape of each layer of `network` that `adapter` changes as its `part`, at the adapter's own rank.

    Raises ModelError where it does not fit.
    """
    layers = {name: shape for name, module in network.named_modules() if (shape := shape_of(module, 0))}
    names, found = Names(layers), dict[str, Shape]()
    for module, lora in adapter.modules.get(part, {}).items():
        name = names.find(module)
        if name is None:
            raise ModelError(
                f"{adapter.path}: the {part} has no layer {module} that can have a LoRA; the adapter was made for another model"
            )
        down, up = factors(adapter.path, module, lora)
        shape = layers[name]._replace(rank=len(down))
        if down.size != shape.down_size or up.size != shape.up_size or len(up) != shape.outputs:
            raise ModelError(
                f"{adapter.path}: {module} is {list(up.shape)} · {list(down.shape)}, the model's layer maps {shape.inputs} to "
                f"{shape.outputs} by {shape.kernel[0]} × {shape.kernel[1]}; the adapter was made for another model"
            )
        found[name] = shape
    return found


def widened(layout: Layout | None, wanted: Mapping[str, Shape]) -> Layout:
    """A layout that holds what `layout` does and `wanted` too; ranks are padded to powers of two. The same one if it already does."""
    shapes = {name: shape for name, (shape, _) in layout.layers.items()} if layout else {}
    changed = False
    for name, shape in wanted.items():
        rank = max(4, 1 << (shape.rank - 1).bit_length())
        if name not in shapes or shapes[name].rank < rank:
            shapes[name], changed = shape._replace(rank=rank), True
    if layout is not None and not changed:
        return layout
    layers, at = {}, 0
    for name, shape in shapes.items():
        layers[name] = (shape, at)
        # 16 numbers: what lies behind stays aligned for vector loads
        at += -(-(shape.down_size + shape.up_size) // 16) * 16
    return Layout(layers, at)


def line(layout: Layout, part: str, adapter: Adapter, scale: float) -> torch.Tensor:
    """`adapter` as a line of a bank, float32 [size] on the CPU: alpha / rank and `scale` are folded into `up`."""
    packed, names = np.zeros(layout.size, np.float32), Names(layout.layers)
    for module, lora in adapter.modules.get(part, {}).items():
        shape, at = layout.layers[names.find(module) or module]
        down, up = factors(adapter.path, module, lora)
        rank, middle = len(down), at + shape.down_size
        # rank · taps rows, taps within a rank; layers are padded with ranks of zero
        taps = down.reshape(rank, shape.inputs, shape.taps).transpose(0, 2, 1)
        packed[at : at + taps.size] = taps.reshape(-1)
        packed[middle : middle + shape.up_size].reshape(shape.outputs, shape.rank)[:, :rank] = up.reshape(shape.outputs, rank) * np.float32(
            scale
        )
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
