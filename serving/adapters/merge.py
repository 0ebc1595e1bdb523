"""Adapters merged into weights: W + scale · alpha / rank · B A (Hu et al. 2021, eq. 3)."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter, Lora
from serving.errors import ModelError
from serving.weights import Weights


def merge(weights: Weights, adapter: Adapter, part: str, scale: float) -> Weights:
    """`weights` of `part` with the adapter added at `scale`; arrays that it leaves alone are shared, none is changed.

    Raises ModelError for an unknown module or a shape that does not fit.
    """
    merged = dict(weights)
    loras = adapter.modules.get(part, {})
    flat = {_flat(name): name for name in weights if name.endswith(".weight")}
    for module, lora in loras.items():
        name = flat.get(_flat(f"{_modern(module)}.weight")) or flat.get(_flat(f"text_model.{_modern(module)}.weight"))
        name = name or flat.get(_flat(f"{_modern(module).removeprefix('text_model.')}.weight"))
        if name is None:
            raise ModelError(f"{adapter.path}: the {part} has no module {module}; the adapter was made for another model")
        merged[name] = merged[name] + _delta(adapter.path, module, lora, merged[name].shape) * np.float32(scale)
    return merged


def _flat(name: str) -> str:
    """kohya writes dots as underscores, so names are compared that way."""
    return name.replace(".", "_")


def _modern(module: str) -> str:
    """diffusers before 0.22 named attention LoRAs after the processor."""
    module = re.sub(r"\.processor\.to_(q|k|v|out)_lora$", r".to_\1", module)
    return module + ".0" if module.endswith(".to_out") else module


def _delta(path: Path, module: str, lora: Lora, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if lora.down is None or lora.up is None:
        raise ModelError(f"{path}: {module} has only one of its two LoRA matrices; the file is damaged, copy it again")
    down, up = lora.down, lora.up
    rank = down.shape[0]
    # a convolution's up is 1 × 1, so both kinds are one matrix product
    fits = up.ndim >= 2 and up.shape[:2] == (shape[0], rank) and up.size == shape[0] * rank
    if not fits or int(np.prod(down.shape[1:])) != int(np.prod(shape[1:])):
        found = f"{list(up.shape)} · {list(down.shape)}"
        raise ModelError(f"{path}: {module} is {found}, the model's weight is {list(shape)}; the adapter was made for another model")
    factor = np.float32(1.0 if lora.alpha is None else lora.alpha / rank)
    delta: NDArray[np.float32] = (up.reshape(-1, rank) @ down.reshape(rank, -1) * factor).reshape(shape)
    return delta
