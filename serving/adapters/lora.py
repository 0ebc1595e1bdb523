"""LoRA files as diffusers, peft, kohya and LyCORIS write them."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.adapters.config import Told, read_told
from serving.adapters.khatri_rao import as_lora
from serving.errors import ModelError
from serving.weights import Weights, read_file

FILE = "pytorch_lora_weights.safetensors"
_MARKS = {
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_A.default.weight": "down", ".lora_B.default.weight": "up",
    ".lora_down.weight": "down", ".lora_up.weight": "up", ".lora.down.weight": "down", ".lora.up.weight": "up", ".alpha": "alpha",
    ".lora_magnitude_vector": "magnitude", ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude", ".dora_scale": "magnitude",
    ".hada_w1_a": "hada_w1_a", ".hada_w1_b": "hada_w1_b", ".hada_w2_a": "hada_w2_a", ".hada_w2_b": "hada_w2_b",
}  # fmt: skip
_HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_PARTS = {
    "unet.": "unet", "transformer.": "transformer", "text_encoder.": "text_encoder", "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3", "base_model.model.": "unet", "lora_unet_": "unet", "lora_transformer_": "transformer",
    "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2", "lora_te3_": "text_encoder_3",
}  # fmt: skip
_MERGE = "merge it into a copy of the model and name that as the variant's model"
_REFUSED = {
    ".lora_mid.weight": f"a third matrix of a convolution (Tucker form); train it without `use_tucker`, or {_MERGE}",
    ".hada_t": f"a core of a LoHa convolution (Tucker form); train it without `use_tucker`, or {_MERGE}",
    ".lokr_": f"a LoKr factor, which has no small LoRA; {_MERGE}",
    ".lora_embedding_": f"a LoRA of an embedding; train it on linear layers and convolutions, or {_MERGE}",
    ".lora_B.bias": f"a bias beside a LoRA; train it with lora_bias=False, or {_MERGE}",
    ".lora_up.bias": f"a bias beside a LoRA; train it without, or {_MERGE}",
    ".diff.": f"a whole weight's difference, not a LoRA; {_MERGE}",
    ".diff_b.": f"a bias's difference, not a LoRA; {_MERGE}",
    ".w_norm": f"a change of a normalisation; train it without norms, or {_MERGE}",
    ".b_norm": f"a change of a normalisation; train it without norms, or {_MERGE}",
    ".modules_to_save": f"a whole layer trained beside the LoRA; train it without modules_to_save, or {_MERGE}",
    ".ia3_": f"an IA3 factor, not a LoRA; {_MERGE}",
    ".oft_": f"an OFT rotation, not a LoRA; {_MERGE}",
}


class Lora(msgspec.Struct):
    """One module's matrices: `down` [rank, in, …], `up` [out, rank, …]; `alpha` is the rank when the file says nothing.

    `magnitude` [out] where the adapter is a DoRA (Liu et al. 2024).
    """

    down: NDArray[np.float32] | None = None
    up: NDArray[np.float32] | None = None
    alpha: float | None = None
    magnitude: NDArray[np.float32] | None = None


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA: `modules[part][module]`, parts as the model's directory names them (`unet`, `text_encoder`); `digest` of the file's bytes."""

    path: Path
    digest: str
    modules: dict[str, dict[str, Lora]]


def read_adapter(folder: Path) -> Adapter:
    """Read `pytorch_lora_weights.safetensors` in `folder` (or the only .safetensors there, or the file itself).

    Takes diffusers' and peft's names, and kohya's; LoRA and DoRA as they are, and LoHa as the LoRA that it equals. alpha may stand in the
    tensors, in the file's header or in peft's adapter_config.json. Raises ModelError with the reason for what is no sum of small
    matrices.
    """
    path = _file(folder)
    try:
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    found: dict[str, dict[str, Weights]] = {}
    for name, array in read_file(path).items():
        part, module, mark = _place(path, name)
        found.setdefault(part, {}).setdefault(module, {})[mark] = array
    if not found:
        raise ModelError(f"{path}: holds no LoRA weights; name another adapter")
    told = read_told(path)
    if told:
        # alpha decides the pixels, and does not stand in the tensors
        digest = "sha256:" + hashlib.sha256(msgspec.json.encode([digest, told], order="deterministic")).hexdigest()
    modules = {
        part: {module: _lora(path, module, arrays, told.get(part) or told.get("")) for module, arrays in each.items()}
        for part, each in found.items()
    }
    return Adapter(path, digest, modules)


def _place(path: Path, name: str) -> tuple[str, str, str]:
    """The part, the module and the meaning of one tensor."""
    if reason := next((reason for mark, reason in _REFUSED.items() if mark in f"{name}."), None):
        raise ModelError(f"{path}: {name} is {reason}")
    mark = next((m for m in _MARKS if name.endswith(m)), None)
    prefix = next((p for p in _PARTS if name.startswith(p)), None)
    if mark is None or prefix is None:
        raise ModelError(f"{path}: {name} is not a LoRA weight of a part that is served; convert the file to diffusers' LoRA format")
    return _PARTS[prefix], name.removeprefix(prefix).removesuffix(mark), _MARKS[mark]


def _lora(path: Path, module: str, arrays: Weights, told: Told | None) -> Lora:
    alpha = float(arrays["alpha"].reshape(-1)[0]) if "alpha" in arrays else None
    first = next((arrays[name] for name in ("down", "hada_w1_b") if name in arrays), None)
    if alpha is None and told is not None and first is not None:
        alpha = told.of_rank(len(first))
    if any(name in arrays for name in _HADA):
        if missing := [name for name in _HADA if name not in arrays]:
            raise ModelError(f"{path}: {module} has no {missing[0]}; the file is damaged, copy it again")
        try:
            down, up = as_lora(*(arrays[name] for name in _HADA))
        except ValueError as error:
            raise ModelError(f"{path}: {module}: {error}; the file is damaged, copy it again") from None
        # alpha is told for the rank that the file has, not for the product
        factor = 1.0 if alpha is None else alpha / len(arrays["hada_w1_b"])
        return Lora(down, up * np.float32(factor), magnitude=arrays.get("magnitude"))
    return Lora(arrays.get("down"), arrays.get("up"), alpha, arrays.get("magnitude"))


def _file(folder: Path) -> Path:
    if folder.is_file():
        return folder
    if (usual := folder / FILE).is_file():
        return usual
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise ModelError(f"{folder}: has {len(found)} .safetensors files and no {FILE}; name the adapter's directory or file")
    return found[0]
