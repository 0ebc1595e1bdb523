"""How an engine runs: its device, how it batches, what it may use."""

import re
from typing import Annotated, Literal

import msgspec

Dtype = Literal["float32", "float16", "bfloat16"]
LoraForm = Literal["gathered", "concatenated", "grouped"]
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One engine: one thread on one device.

    `mode` strict pads every network call to `rows` rows, so that a picture is the same to the bit in any company; fast lets
    the batch be as large as it happens to be. `rows` bounds a call; by default it is found by a short measurement at load
    (fast), or 8 (strict). `adapters` is how many LoRAs lie on the device at once, `memory_mb` what models and adapters may take
    of its memory (default: 90 % of what is free at the start). `dtype` is that of weights and activations; samplers are always
    fp32. `compile`, `cuda_graphs` and `lora`, how rows of one call get different adapters, concern torch. `threads` defaults to the
    cores that this process may use.
    """

    device: str = "cpu"
    mode: Literal["fast", "strict"] = "fast"
    rows: Annotated[int, msgspec.Meta(ge=2, le=256)] | None = None
    adapters: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    memory_mb: Annotated[float, msgspec.Meta(gt=0)] | None = None
    dtype: Dtype | None = None
    compile: bool = False
    cuda_graphs: bool = True
    lora: LoraForm = "gathered"
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f'device is {self.device!r}; use "cpu", "cuda" or "cuda:1"')

    @property
    def precision(self) -> Dtype:
        """`dtype`, or what suits the device: float32 on the CPU, float16 on CUDA."""
        return self.dtype or ("float32" if self.device == "cpu" else "float16")
