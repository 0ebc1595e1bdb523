"""Which layers of a model an adapter changes, and by what."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from serving.adapters.lora import Adapter, Lora
from serving.adapters.original import original_names
from serving.errors import ModelError

Matrix = NDArray[np.float32]
Shape = tuple[int, ...]


class Names:
    """Finds a layer by any name that a file may give it."""

    def __init__(self, layers: Iterable[str]) -> None:
        known = list(layers)
        self._by_flat = {_flat(original): layer for original, layer in original_names(known).items()}
        self._by_flat |= {_flat(layer): layer for layer in known}

    def find(self, module: str) -> str | None:
        """The model's own name of a layer; None when it has no such layer."""
        flat = _flat(_modern(module))
        # transformers wrote `text_model.` in front of a text encoder's layers, and does so no more
        others = (flat, f"text_model_{flat}", flat.removeprefix("text_model_"))
        return next((self._by_flat[name] for name in others if name in self._by_flat), None)


def _flat(name: str) -> str:
    """kohya writes dots as underscores, so names are compared that way."""
    return name.replace(".", "_")


def _modern(module: str) -> str:
    """diffusers before 0.22 named attention LoRAs after the processor."""
    module = re.sub(r"\.processor\.to_(q|k|v|out)_lora$", r".to_\1", module)
    return module + ".0" if module.endswith(".to_out") else module


def targets(adapter: Adapter, part: str, layers: Mapping[str, Shape]) -> dict[str, Lora]:
    """The LoRA of each of `layers` (by module name, the shape of its weight) that the adapter changes in `part` of the model.

    Raises ModelError for a module that the model does not have, and for matrices that do not fit it.
    """
    names, found = Names(layers), dict[str, Lora]()
    for module, lora in modules_of(adapter, part).items():
        name = names.find(module)
        if name is None:
            raise ModelError(f"{adapter.path}: the {part} has no module {module}; the adapter was made for another model")
        _check(adapter, module, lora, layers[name])
        found[name] = lora
    return found


def modules_of(adapter: Adapter, part: str) -> dict[str, Lora]:
    """What the adapter holds for `part`; kohya and peft call whatever denoises the UNet."""
    return adapter.modules.get(part) or (adapter.modules.get("unet", {}) if part == "transformer" else {})


def check_parts(adapter: Adapter, parts: Iterable[str]) -> None:
    """Raises ModelError when the adapter changes a part that the model does not have."""
    known = set(parts)
    for part in adapter.modules:
        if part not in known and not (part == "unet" and "transformer" in known):
            raise ModelError(f"{adapter.path}: changes the {part}, which the model does not have; the adapter was made for another model")


def _check(adapter: Adapter, module: str, lora: Lora, shape: Shape) -> None:
    path = adapter.path
    if lora.down is None or lora.up is None:
        raise ModelError(f"{path}: {module} has only one of its two LoRA matrices; the file is damaged, copy it again")
    down, up, rank = lora.down, lora.up, len(lora.down)
    # a convolution's up is 1 × 1, so both kinds are one matrix product
    fits = rank > 0 and up.ndim >= 2 and up.shape[:2] == (shape[0], rank) and up.size == shape[0] * rank
    if not fits or int(np.prod(down.shape[1:])) != int(np.prod(shape[1:])):
        found = f"{list(up.shape)} · {list(down.shape)}"
        raise ModelError(f"{path}: {module} is {found}, the model's weight is {list(shape)}; the adapter was made for another model")
    if lora.magnitude is not None and lora.magnitude.size != shape[0]:
        raise ModelError(
            f"{path}: {module} has {lora.magnitude.size} DoRA magnitudes for {shape[0]} outputs; only magnitudes by output are served: "
            "train it with peft, or merge it into a copy of the model"
        )
    if not all(np.isfinite(array).all() for array in (down, up)):
        raise ModelError(f"{path}: {module} holds numbers that are not finite; train the adapter again")


def factors(lora: Lora, scale: float) -> tuple[Matrix, Matrix]:
    """`down` [rank, inputs · taps] and `up` [outputs, rank], `scale` · alpha / rank folded into `up` (Hu et al. 2021, §4.1)."""
    assert lora.down is not None and lora.up is not None  # `targets` checked
    rank = len(lora.down)
    factor = np.float32(scale * (1.0 if lora.alpha is None else lora.alpha / rank))
    return lora.down.reshape(rank, -1), lora.up.reshape(-1, rank) * factor
