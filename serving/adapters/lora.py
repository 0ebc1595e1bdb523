"""LoRA files as diffusers, peft and kohya write them."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelError
from serving.weights import read_file

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
