"""A linear layer or a convolution with the LoRA of each row added to what it makes."""

from typing import Any

import torch

from serving.backends.torch.forms import Form, Shape


class Adapted(torch.nn.Module):
    """`layer` as it is, and the LoRA that lies at offset `at` of each entry of the bank. `on` is false while no row has one."""

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv2d, form: Form, shape: Shape, at: int, switch: "Switch") -> None:
        super().__init__()
        self.layer, self._form, self._shape, self._at, self._switch = layer, form, shape, at, switch
        self._pictures = isinstance(layer, torch.nn.Conv2d)

    @property
    def weight(self) -> torch.Tensor:
        """The layer's own: some modules look at its dtype."""
        return self.layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The layer's own."""
        return self.layer.bias

    def forward(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)
        if not self._switch.on:
            return y
        if self._pictures:
            return self._form.pictures(y, x, self._shape, self._at)
        if x.ndim == 3:
            return self._form.tokens(y, x, self._shape, self._at)
        # one vector per row, as the layers of the time embedding have, or an unflattened picture
        rows = len(x)
        return self._form.tokens(y.view(rows, -1, y.shape[-1]), x.reshape(rows, -1, x.shape[-1]), self._shape, self._at).view_as(y)


class Switch:
    """Do rows of this call have LoRAs at all?"""

    on = False


def shape_of(layer: torch.nn.Module, rank: int) -> Shape | None:
    """None for a layer that can have no LoRA: anything but a linear layer or an ungrouped convolution padded with zeros."""
    if isinstance(layer, torch.nn.Linear):
        return Shape(layer.in_features, layer.out_features, rank)
    if isinstance(layer, torch.nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        kernel, stride, padding, dilation = (_pair(value) for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation))
        return Shape(layer.in_channels, layer.out_channels, rank, kernel, stride, padding, dilation)
    return None


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    height, width = value
    return height, width
