"""LoRA files, merged into weights: W + scale · alpha / rank · B A."""

import hashlib
import re
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelError
from serving.weights import Weights, read_file

FILE = "pytorch_lora_weights.safetensors"
_MARKS = {
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_A.default.weight": "down", ".lora_B.default.weight": "up",
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora.down.weight": "down", ".lora.up.weight": "up", ".alpha": "alpha",
}  # fmt: skip
_PARTS = {"unet.": "unet", "text_encoder.": "text_encoder", "base_model.model.": "unet", "lora_unet_": "unet", "lora_te_": "text_encoder"}


class Lora(msgspec.Struct):
    """One module's matrices: `down` [rank, in, …], `up` [out, rank, …]; `alpha` is the rank when the file says nothing."""

    down: NDArray[np.float32] | None = None
    up: NDArray[np.float32] | None = None
    alpha: float | None = None


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA: `modules[part][module]`, parts `unet` and `text_encoder`; `digest` of the file's bytes."""

    path: Path
    digest: str
    modules: dict[str, dict[str, Lora]]


def read_adapter(folder: Path) -> Adapter:
    """Read `pytorch_lora_weights.safetensors` in `folder` (or the only .safetensors there, or the file itself).

    Takes diffusers' and peft's names, and kohya's. Raises ModelError.
    """
    path = _file(folder)
    try:
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    modules: dict[str, dict[str, Lora]] = {}
    for name, array in read_file(path).items():
        mark = next((m for m in _MARKS if name.endswith(m)), None)
        prefix = next((p for p in _PARTS if name.startswith(p)), None)
        if mark is None or prefix is None:
            raise ModelError(f"{path}: {name} is not a LoRA weight of a UNet or text encoder; convert the file to diffusers' LoRA format")
        lora = modules.setdefault(_PARTS[prefix], {}).setdefault(name.removeprefix(prefix).removesuffix(mark), Lora())
        if _MARKS[mark] == "alpha":
            lora.alpha = float(array.reshape(-1)[0])
        else:
            setattr(lora, _MARKS[mark], array)
    if not modules:
        raise ModelError(f"{path}: holds no LoRA weights; name another adapter")
    return Adapter(path, digest, modules)


def _file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    if (usual := folder / FILE).is_file():
        return usual
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(f"{folder}: has {len(found)} .safetensors files and no {FILE}; name the adapter's directory or file")
    return found[0]


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
