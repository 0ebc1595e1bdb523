"""The alpha that stands beside an adapter's matrices: in peft's adapter_config.json, or in the file's own header as diffusers writes it."""

from pathlib import Path
from typing import Any

import msgspec

from serving.errors import ModelError

_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_HEADER = "lora_adapter_metadata"
_LARGEST_HEADER = 100 << 20


class Told(msgspec.Struct, frozen=True):
    """`lora_alpha` (LoHa: `alpha`) for all modules; with `use_rslora` it is divided by the root of the rank (Kalajdzievski 2023)."""

    lora_alpha: float | None = None
    alpha: float | None = None
    use_rslora: bool = False
    alpha_pattern: dict[str, float] | None = None

    def of_rank(self, rank: int) -> float | None:
        """The alpha of matrices of `rank`, as files tell it that divide it by the rank; None: the rank itself."""
        alpha = self.alpha if self.lora_alpha is None else self.lora_alpha
        return alpha if alpha is None or not self.use_rslora else alpha * rank**0.5


def read_told(path: Path) -> dict[str, Told]:
    """By part of the model, `""` for all parts; empty when nothing is told. Raises ModelError."""
    facts = _peft(path) if path.name == _PEFT_FILE else _diffusers(path)
    try:
        told = {part: msgspec.convert(each, Told) for part, each in facts.items()}
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: its configuration is invalid ({error}); save the adapter again") from None
    if any(each.alpha_pattern for each in told.values()):
        raise ModelError(f"{path}: has an alpha_pattern, which is not read; save it with an alpha for each module in the file, as kohya")
    return told


def _peft(path: Path) -> dict[str, Any]:
    beside = path.with_name(_PEFT_CONFIG)
    if not beside.is_file():
        return {}
    try:
        return {"": msgspec.json.decode(beside.read_bytes())}
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{beside}: cannot be read ({error}); save the adapter again") from None


def _diffusers(path: Path) -> dict[str, Any]:
    facts: dict[str, dict[str, Any]] = {}
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = msgspec.json.decode(file.read(min(length, _LARGEST_HEADER)), type=dict[str, Any])
        told = msgspec.json.decode(header.get("__metadata__", {}).get(_HEADER, "{}"), type=dict[str, Any])
    except (OSError, ValueError, AttributeError, msgspec.MsgspecError):
        return {}  # what is wrong with the file is said by whoever reads its tensors
    for name, value in told.items():
        part, _, key = name.partition(".")
        facts.setdefault(part, {})[key] = value
    return facts
