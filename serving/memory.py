"""What a device can hold, and what a model needs of it."""

from pathlib import Path

from serving.errors import ModelError
from serving.model import Model, weight_paths
from serving.settings import EngineSettings
from serving.weights import elements

_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_SHARE = 0.9
# Activations of one call beside the weights, as a share of them; measured on the packaged model (benchmarks/serving).
_ACTIVATIONS = 0.2


def budget_bytes(settings: EngineSettings) -> int:
    """`memory_mb`, or 90 % of what is free on the device now. Raises ModelError for a device that is not there."""
    if settings.memory_mb is not None:
        return int(settings.memory_mb * 1e6)
    return int(_SHARE * (_free_host() if settings.device == "cpu" else _free_cuda(settings.device)))


def needed_bytes(model: Model, settings: EngineSettings) -> int:
    """Weights in the engine's precision, and room for one call."""
    numbers = sum(elements(path) for path in weight_paths(model))
    return int(numbers * _ITEM_BYTES[settings.precision] * (1 + _ACTIVATIONS))


def check_fits(name: str, needed: int, used: int, budget: int) -> None:
    """Raises ModelError unless a model fits beside what is loaded."""
    if needed + used > budget:
        left = max(0, budget - used) / 1e6
        raise ModelError(
            f"model {name!r} needs about {needed / 1e6:,.0f} MB, and {left:,.0f} of {budget / 1e6:,.0f} MB are left on this engine; "
            "unload a variant, raise memory_mb in [engines.…], or give the model an engine of its own"
        )


def _free_host() -> int:
    free = 1 << 62
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = _number(Path("/sys/fs/cgroup/memory.max")), _number(Path("/sys/fs/cgroup/memory.current"))
    return min(free, limit - used) if limit is not None and used is not None else free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def _free_cuda(device: str) -> int:
    import torch

    if not torch.cuda.is_available():
        raise ModelError(f'device {device!r}: torch finds no CUDA device on this machine; set device = "cpu"')
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise ModelError(f"device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; name one from cuda:0 on")
    return int(torch.cuda.mem_get_info(index)[0])
