"""LoRA as two Triton kernels: a program per row of the call and tile of its tokens reads that row's entry of the bank.

Rows with entry 0 leave at once, and nothing is gathered: each program reads the matrices where they lie. A row's tokens are
beside each other, so nothing is sorted, unlike the segmented kernels of language models (Chen et al. 2023, Punica, 2310.18547).
Sums are fp32. With TRITON_INTERPRET=1, set before triton is imported, the kernels run on the CPU.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped"

import os
from typing import Any

import torch
import triton
import triton.language as tl

from serving.backends.torch.forms import Shape, as_picture, as_tokens, pixels_last, shifted

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_TILES = {"TOKENS": 32, "WIDE": 32, "DEEP": 64}


@triton.jit
def multiply(
    y, x, bank, entries, tokens,
    y_row, y_token, y_channel, x_row, x_token, x_channel, entry_stride, at,
    IN: tl.constexpr, OUT: tl.constexpr, ADD: tl.constexpr, UPCAST: tl.constexpr,
    TOKENS: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    """y[row, token, :OUT] (+)= x[row, token, :IN] M[entry]^T, with M [OUT, IN] at offset `at` of the row's entry.

    IN is a constant because the loop over it must have constant bounds in Triton 3.6's interpreter.
    """
    row = tl.program_id(0)
    entry = tl.load(entries + row)
    if entry != 0:
        token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
        out = tl.program_id(2) * WIDE + tl.arange(0, WIDE)
        here, there = token < tokens, out < OUT
        # 64 bits: a bank of many large adapters has more than 2^31 numbers
        matrix = bank + entry.to(tl.int64) * entry_stride + at
        x_base = x + row.to(tl.int64) * x_row
        total = tl.zeros((TOKENS, WIDE), tl.float32)
        for begin in range(0, IN, DEEP):
            deep = begin + tl.arange(0, DEEP)
            inside = deep < IN
            a = tl.load(x_base + token[:, None] * x_token + deep[None, :] * x_channel, here[:, None] & inside[None, :], 0.0)
            b = tl.load(matrix + out[None, :] * IN + deep[:, None], there[None, :] & inside[:, None], 0.0)
            if UPCAST:  # the interpreter's dot is wrong for bfloat16
                a, b = a.to(tl.float32), b.to(tl.float32)
            total += tl.dot(a, b, input_precision="ieee")
        target = y + row.to(tl.int64) * y_row + token[:, None] * y_token + out[None, :] * y_channel
        mask = here[:, None] & there[None, :]
        if ADD:
            total += tl.load(target, mask, 0.0).to(tl.float32)
        tl.store(target, total.to(y.dtype.element_ty), mask)


_CHOICES = [
    triton.Config({"TOKENS": tokens, "WIDE": wide, "DEEP": deep}, num_warps=warps, num_stages=stages)
    for tokens, wide, deep, warps, stages in (
        (32, 16, 64, 2, 3), (64, 16, 64, 4, 3), (64, 32, 64, 4, 3), (64, 64, 32, 4, 3),
        (128, 64, 32, 4, 3), (128, 32, 64, 4, 3), (64, 128, 32, 8, 3),
    )
]  # fmt: skip
# Measured once per layer shape. Rows and tokens are no part of the key: else a batch of another size would be measured anew.
_tuned: Any = None if INTERPRETED else triton.autotune(_CHOICES, key=["IN", "OUT", "ADD"], restore_value=["y"])(multiply)


class Grouped:
    """See `serving.backends.torch.forms.Form`. `y` is changed in place."""

    def __init__(self, *, tuned: bool) -> None:
        """`tuned`: tiles are chosen by measuring at first use on a GPU; False: always the same, so that sums are too."""
        self._tuned = tuned and not INTERPRETED
        self._bank = self._entries = torch.empty(0)

    def choose(self, bank: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
        self._bank, self._entries = bank, entries
        return entries

    def tokens(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        z = x.new_empty(*x.shape[:2], shape.rank * shape.taps)
        self._multiply(z, x, shape.inputs, at, add=False)
        return self._multiply(y, z, shape.rank, at + shape.down_size, add=True)

    def pictures(self, y: torch.Tensor, x: torch.Tensor, shape: Shape, at: int) -> torch.Tensor:
        products = x.new_empty(len(x), x.shape[2] * x.shape[3], shape.rank * shape.taps)
        self._multiply(products, _tokens(x), shape.inputs, at, add=False)
        z = shifted(as_picture(products, x.shape), shape)
        self._multiply(_tokens(y), _tokens(z), shape.rank, at + shape.down_size, add=True)
        return y

    def _multiply(self, y: torch.Tensor, x: torch.Tensor, inputs: int, at: int, *, add: bool) -> torch.Tensor:
        """y [rows, tokens, outputs], x [rows, tokens, inputs], any strides."""
        rows, tokens, outputs = y.shape

        def grid(tiles: dict[str, int]) -> tuple[int, int, int]:
            return rows, triton.cdiv(tokens, tiles["TOKENS"]), triton.cdiv(outputs, tiles["WIDE"])

        kernel, fixed = (_tuned, {}) if self._tuned else (multiply, _TILES)
        kernel[grid](
            y, x, self._bank, self._entries, tokens, *y.stride(), *x.stride(), self._bank.stride(0), at,
            IN=inputs, OUT=outputs, ADD=add, UPCAST=INTERPRETED, **fixed,
        )  # fmt: skip
        return y


def _tokens(picture: torch.Tensor) -> torch.Tensor:
    """A view, whatever the order in memory."""
    return as_tokens(picture) if pixels_last(picture) else picture.flatten(2).mT
