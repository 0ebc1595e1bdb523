"""Arms to serve: random LoRAs in finetune's shape, and copies of a model with one of them merged in."""

import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from serving.adapters.lora import FILE, read_adapter
from serving.adapters.merge import merge
from serving.model import locate
from serving.weights import read_part

# finetune.lora.TARGETS, without its torch
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")
STRENGTH = 0.1  # the change of a weight, as a share of its own spread


def write_adapters(model: str, many: int, folder: Path, rank: int = 8) -> list[Path]:
    """`many` folders with a LoRA of `rank` each for every module that finetune trains; the same numbers on every machine."""
    weights = read_part(locate(model) / "unet")
    modules = {
        name.removesuffix(".weight"): array for name, array in weights.items() if name.endswith(tuple(f".{t}.weight" for t in TARGETS))
    }
    paths = []
    for number in range(many):
        draw = np.random.default_rng(number)
        file: dict[str, np.ndarray] = {}
        for name, weight in modules.items():
            inputs = math.prod(weight.shape[1:])
            spread = STRENGTH * float(weight.std()) * math.sqrt(inputs / rank)
            up = (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
            file[f"unet.{name}.lora_A.weight"] = draw.standard_normal((rank, *weight.shape[1:]), np.float32) / np.float32(math.sqrt(inputs))
            file[f"unet.{name}.lora_B.weight"] = draw.standard_normal(up, np.float32) * np.float32(spread)
        paths.append(folder / f"arm-{number}")
        paths[-1].mkdir(parents=True)
        save_file(file, paths[-1] / FILE)
    return paths


def write_merged(model: str, adapter: Path, folder: Path) -> Path:
    """A model directory of its own with the adapter merged into the UNet; everything else is linked."""
    source, folder = locate(model), folder / f"merged-{adapter.name}"
    (folder / "unet").mkdir(parents=True)
    for part in source.iterdir():
        if part.name != "unet":
            (folder / part.name).symlink_to(part)
    (folder / "unet/config.json").symlink_to(source / "unet/config.json")
    weights = merge(read_part(source / "unet"), read_adapter(adapter), "unet", 1.0)
    save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, folder / "unet/diffusion_pytorch_model.safetensors")
    return folder
