"""The names that LoRA files give to layers, and the factors they hold."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Lora
from serving.errors import ModelError

Factor = NDArray[np.float32]


class Names:
    """Finds a layer by any name that a file may give it."""

    def __init__(self, layers: Iterable[str]) -> None:
        # modules of serving.traced wrap the part as `model`
        self._by_flat = {_flat(layer.removeprefix("model.")): layer for layer in layers}

    def find(self, module: str) -> str | None:
        """The layer's own name; None when there is no such layer."""
        # diffusers before 0.22 named attention LoRAs after the processor
        module = re.sub(r"\.processor\.to_(q|k|v|out)_lora$", r".to_\1", module)
        return self._by_flat.get(_flat(module + ".0" if module.endswith(".to_out") else module))


def _flat(name: str) -> str:
    """kohya writes dots as underscores, so names are compared that way."""
    return name.replace(".", "_")


def factors(path: Path, module: str, lora: Lora) -> tuple[Factor, Factor]:
    """`down` [rank, …] and `up` [out, rank, …] of one layer, alpha / rank folded into `up`. Raises ModelError."""
    if lora.down is None or lora.up is None:
        raise ModelError(f"{path}: {module} has only one of its two LoRA matrices; the file is damaged, copy it again")
    if lora.up.ndim < 2 or lora.down.ndim < 2 or lora.up.shape[1] != len(lora.down):
        raise ModelError(
            f"{path}: {module} is {list(lora.up.shape)} · {list(lora.down.shape)}, whose ranks differ; the file is damaged, copy it again"
        )
    return lora.down, lora.up * np.float32(1.0 if lora.alpha is None else lora.alpha / len(lora.down))
