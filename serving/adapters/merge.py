"""Adapters merged into weights: W + scale · alpha / rank · B A (Hu et al. 2021, eq. 3)."""

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter, Lora
from serving.adapters.targets import factors, targets
from serving.weights import Weights

_END = ".weight"


def merge(weights: Weights, adapter: Adapter, part: str, scale: float) -> Weights:
    """`weights` of `part` with the adapter added at `scale`; arrays that it leaves alone are shared, none is changed.

    Raises ModelError for an unknown module or a shape that does not fit.
    """
    merged = dict(weights)
    layers = {name.removesuffix(_END): array.shape for name, array in weights.items() if name.endswith(_END)}
    for module, lora in targets(adapter, part, layers).items():
        merged[module + _END] = _changed(merged[module + _END], lora, scale)
    return merged


def _changed(weight: NDArray[np.float32], lora: Lora, scale: float) -> NDArray[np.float32]:
    down, up = factors(lora, scale)
    changed = weight + (up @ down).reshape(weight.shape)
    if lora.magnitude is not None:
        # Liu et al. 2024 (DoRA), eq. 5: m (W + ΔW) / ‖W + ΔW‖, the norm of each output's weights
        norm = np.linalg.norm(changed.reshape(len(changed), -1), axis=1)
        by_output = (lora.magnitude.reshape(-1) / norm).reshape(-1, *[1] * (changed.ndim - 1))
        changed = (changed * by_output).astype(np.float32)
    return changed
