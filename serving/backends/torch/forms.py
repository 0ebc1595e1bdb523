"""How rows of one call get different LoRAs: three forms of the same sum, y + B[entry] A[entry] x for every row.

A bank has one entry per adapter, entry 0 is no adapter. A layer's `down` maps to its rank and `up` back; alpha / rank and
the adapter's scale are in `up` (Hu et al. 2021, eq. 3). A k × k convolution is k² matrices on shifted pictures: `down` makes
all k² products of a pixel at once, and shifting adds them up, so its cost does not depend on the number of adapters.
"""

from typing import NamedTuple, Protocol

import torch
from torch.nn import functional

from serving.errors import ModelError
from serving.settings import LoraForm


class Shape(NamedTuple):
    """A layer that has LoRAs: sizes of its input, output and (padded) rank; of a convolution also how it moves."""

    inputs: int
    outputs: int
    rank: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def pointwise(self) -> bool:
        """Does a pixel depend on itself only?"""
        return self.taps == 1 and self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def down_size(self) -> int:
        return self.rank * self.taps * self.inputs

    @property
    def up_size(self) -> int:
        return self.outputs * self.rank


class Form(Protocol):
    """In the bank `down` is [rank · taps, inputs] per entry and layer, the taps of a rank in reverse, then `up` [outputs, rank]."""

    def choose(self, bank: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        """Called once before each network call, with the bank [entries, size] and the entry of each row, int64 [rows].

        Returns what it keeps for each row.
        """
        ...

    def tokens(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        """y [rows, tokens, outputs] + the LoRA's part of x [rows, tokens, inputs]; `at`: where in an entry the layer begins."""
        ...

    def pictures(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        """y [rows, outputs, h', w'] + the LoRA's part of x [rows, inputs, h, w]."""
        ...


class Gathered:
    """One gather of the rows' entries for the whole network, then two batched products per layer. The default."""

    def __init__(self) -> None:
        self._chosen = torch.empty(0)

    def choose(self, bank: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        if bank.is_cpu and self._chosen.shape == (len(entries), bank.shape[1]):
            # without new memory, whose pages must first be made; a CUDA graph has its own
            torch.index_select(bank, 0, entries, out=self._chosen)
        else:
            self._chosen = bank.index_select(0, entries)
        return self._chosen

    def tokens(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        down, up = matrices(self._chosen, shape, at)
        return torch.baddbmm(y, torch.bmm(x, down.mT), up.mT)

    def pictures(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        down, up = matrices(self._chosen, shape, at)
        if not pixels_last(y):
            z = shifted(torch.bmm(down, x.flatten(2)).unflatten(2, x.shape[2:]), shape)
            return torch.baddbmm(y.flatten(2), up, z.flatten(2)).view_as(y)
        z = shifted(as_picture(torch.bmm(as_tokens(x), down.mT), x.shape), shape)
        return as_picture(torch.baddbmm(as_tokens(y), as_tokens(z), up.mT), y.shape)


class Concatenated:
    """All entries side by side as one wide layer, and a mask that keeps each row's own. Work grows with the entries."""

    def __init__(self) -> None:
        self._bank = self._mask = torch.empty(0)

    def choose(self, bank: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        self._bank = bank
        self._mask = (entries[:, None] == torch.arange(len(bank), device=bank.device)).to(bank.dtype)
        return self._mask

    def tokens(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        down, up = matrices(self._bank, shape, at)
        z = functional.linear(x, down.reshape(-1, shape.inputs)) * self._mask.repeat_interleave(shape.rank, 1)[:, None]
        return y + functional.linear(z, up.permute(1, 0, 2).reshape(shape.outputs, -1))

    def pictures(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        down, up = matrices(self._bank, shape, at)
        kernels = down.reshape(-1, *shape.kernel, shape.inputs).permute(0, 3, 1, 2).flip(2, 3)
        z = functional.conv2d(x, kernels, None, shape.stride, shape.padding, shape.dilation)
        z = z * self._mask.repeat_interleave(shape.rank, 1)[:, :, None, None]
        return y + functional.conv2d(z, up.permute(1, 0, 2).reshape(shape.outputs, -1, 1, 1))


def pixels_last(x: torch.Tensor) -> bool:
    """Are the channels of a pixel beside each other in memory (torch.channels_last)?"""
    return x.stride(1) == 1 and x.shape[1] > 1


def as_tokens(x: torch.Tensor) -> torch.Tensor:
    """[rows, c, h, w] as [rows, h · w, c]: a view when the channels lie last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def as_picture(x: torch.Tensor, like: torch.Size) -> torch.Tensor:
    """[rows, h · w, c] as [rows, c, h, w], with the height and width of `like`, channels last."""
    return x.reshape(len(x), *like[2:], x.shape[-1]).permute(0, 3, 1, 2)


def matrices(bank: torch.Tensor, shape: Shape, at: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`down` and `up` of the layer that begins at `at` of each line of `bank`."""
    middle = at + shape.down_size
    down = bank[:, at:middle].unflatten(1, (shape.rank * shape.taps, shape.inputs))
    return down, bank[:, middle : middle + shape.up_size].unflatten(1, (shape.outputs, shape.rank))


def shifted(products: torch.Tensor, shape: Shape) -> torch.Tensor:
    """[rows, rank · taps, h, w], the products of every pixel with every tap, to [rows, rank, h', w'], what the convolution sums.

    Taps are in reverse, the last of the kernel first.
    """
    if shape.pointwise:
        return products
    size = tuple(
        (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for side, kernel, stride, padding, dilation in zip(products.shape[2:], *shape[3:], strict=True)
    )
    padding = tuple(d * (k - 1) - p for k, p, d in zip(shape.kernel, shape.padding, shape.dilation, strict=True))
    if shape.stride == (1, 1) and min(padding) >= 0 and not torch.compiler.is_compiling():
        moved: torch.Tensor = functional.fold(products.flatten(2), size, shape.kernel, shape.dilation, padding)
        return moved
    # slices, which a compiler makes one kernel of
    taps = functional.pad(products, (shape.padding[1],) * 2 + (shape.padding[0],) * 2).unflatten(1, (shape.rank, *shape.kernel))
    last = [kernel - 1 for kernel in shape.kernel]
    return sum(
        (
            taps[:, :, last[0] - i, last[1] - j][
                ...,
                slice(i * shape.dilation[0], i * shape.dilation[0] + (size[0] - 1) * shape.stride[0] + 1, shape.stride[0]),
                slice(j * shape.dilation[1], j * shape.dilation[1] + (size[1] - 1) * shape.stride[1] + 1, shape.stride[1]),
            ]
            for i in range(shape.kernel[0])
            for j in range(shape.kernel[1])
        ),
        start=products.new_zeros(()),
    )


def form_named(name: LoraForm, *, tuned: bool = True) -> Form:
    """`tuned`: may kernels be chosen by measuring (grouped only)?"""
    if name == "gathered":
        return Gathered()
    if name == "concatenated":
        return Concatenated()
    from serving.backends.torch.grouped import Grouped

    return Grouped(tuned=tuned)


def check_form(name: LoraForm, device: torch.device, dtype: torch.dtype) -> None:
    """Compare a form with `gathered` on this device, on a layer of each kind. Raises ModelError when it cannot run or differs."""
    if name == "gathered":
        return
    if name == "grouped" and device.type != "cuda":
        raise ModelError('lora = "grouped" needs a CUDA device; set lora = "gathered" in [engines.…]')
    token, picture = Shape(96, 80, 8), Shape(32, 48, 8, (3, 3), (1, 1), (1, 1))
    random = torch.Generator().manual_seed(0)
    bank = torch.randn(3, token.down_size + token.up_size + picture.down_size + picture.up_size, generator=random)
    bank[0] = 0
    x, y = torch.randn(3, 50, 96, generator=random), torch.randn(3, 50, 80, generator=random)
    u, v = torch.randn(3, 32, 6, 6, generator=random), torch.randn(3, 48, 6, 6, generator=random)
    bank, x, y, u, v = (value.to(device, dtype) for value in (bank, x, y, u, v))
    entries, made = torch.tensor([2, 0, 1], device=device), []
    for form in (Gathered(), _opened(name)):
        form.choose(bank, entries)
        tokens = form.tokens(y.clone(), x, token, 0)
        made.append((tokens, form.pictures(v.clone(), u, picture, token.down_size + token.up_size)))
    for expected, found in zip(*made, strict=True):
        apart = float((expected - found).abs().max() / expected.abs().max())
        if not apart < _TOLERANCE[dtype]:
            raise ModelError(
                f'lora = "{name}" is off by {apart:.1e} of "gathered" in {dtype} on this device; set lora = "gathered", and report this'
            )


_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # fp32 may be TF32


def _opened(name: LoraForm) -> Form:
    try:
        return form_named(name, tuned=False)
    except ImportError as error:
        raise ModelError(
            f'lora = "{name}" needs the package triton ({error}); pip install \'salon[gpu]\', or set lora = "gathered"'
        ) from None
