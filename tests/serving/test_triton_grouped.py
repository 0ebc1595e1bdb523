"""The Triton kernels of grouped LoRA, interpreted on the CPU in a process of its own: triton looks at its environment once."""

import os
import subprocess
import sys

CODE = """
import torch
from serving.backends.torch.forms import Shape, form_named
from serving.backends.torch.grouped import INTERPRETED
assert INTERPRETED

torch.manual_seed(0)
def check(shape, dtype, tolerance, *, tokens=None, size=None, last=False):
    numbers = shape.down_size + shape.up_size
    bank = torch.randn(4, 5 + numbers).to(dtype)
    bank[0] = torch.nan  # entry 0 leaves before it reads anything
    entries = torch.tensor([2, 0, 3])
    if size:
        x = torch.randn(3, shape.inputs, *size)
        geometry = zip(size, shape.kernel, shape.stride, shape.padding, shape.dilation)
        y = torch.randn(3, shape.outputs, *[(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in geometry])
    else:
        x, y = torch.randn(3, tokens, shape.inputs), torch.randn(3, tokens, shape.outputs)
    order = {"memory_format": torch.channels_last} if last else {}
    x, y = x.to(dtype, **order), y.to(dtype, **order)
    found, exact = form_named("grouped"), form_named("gathered")
    found.choose(bank, entries)
    clean = bank.double(); clean[0] = 0
    exact.choose(clean, entries)
    call = "pictures" if size else "tokens"
    a = getattr(found, call)(y.clone(), x, shape, 5)
    b = getattr(exact, call)(y.double(), x.double(), shape, 5)
    assert a.dtype == dtype and (a[1] == y[1]).all()
    error = (a - b).abs().max() / b.abs().max()
    assert error < tolerance, (shape, dtype, error)

for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):
    check(Shape(70, 40, 4), dtype, tolerance, tokens=37)
check(Shape(64, 33, 8), torch.float32, 1e-6, tokens=1)
check(Shape(20, 24, 4, (3, 3), (1, 1), (1, 1)), torch.float32, 1e-6, size=(5, 6))
check(Shape(20, 24, 4, (3, 3), (2, 2), (1, 1)), torch.float32, 1e-6, size=(6, 4), last=True)
check(Shape(20, 24, 4, (1, 1)), torch.float32, 1e-6, size=(4, 4))
print("exact")
"""


def test_the_kernels_are_exact_and_entry_0_leaves_early() -> None:
    """Against batched products in fp64; the bank's entry 0 is filled with NaN, which must not be read."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "exact", done.stderr
