"""The LoRA of a round: put on, taken off, written to disk and stacked on the champion's own (Hu et al. 2021)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from finetune.disk import replace_folder

FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
Adapter = dict[str, tuple[torch.Tensor, torch.Tensor]]


def put_on(unet: Any, rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """Add a LoRA that starts as zero to attention and residual convolutions. Returns what is to be trained, by name.

    alpha equals the rank, so that nothing needs to be folded in on export. Raises ValueError when the UNet has no such layers.
    """
    torch.manual_seed(seed)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    trainable = {name: p for name, p in unet.named_parameters() if ".default." in name and p.requires_grad}
    others = [name for name, p in unet.named_parameters() if p.requires_grad and name not in trainable]
    if not trainable or others:
        raise ValueError(
            f"the LoRA found {len(trainable)} weights to train and left {len(others)} others unfrozen; is this a UNet2DConditionModel?"
        )
    return trainable


def take_off(unet: Any) -> None:
    """Remove the LoRA again; the base weights are untouched."""
    unet.delete_adapters("default")


def read(folder: Path) -> Adapter:
    """Read an adapter folder: module name to (A, B). Raises ValueError for what this project does not write."""
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is missing; an adapter is a folder with {FILE}")
    weights = load_file(path)
    found: Adapter = {}
    for name, down in weights.items():
        if name.endswith(".lora_A.weight") and name.startswith("unet."):
            module = name.removeprefix("unet.").removesuffix(".lora_A.weight")
            up = weights.get(f"unet.{module}.lora_B.weight")
            if up is None:
                raise ValueError(f"{path}: {name} has no lora_B beside it; the file is damaged")
            found[module] = (down.float(), up.float())
    if 2 * len(found) != len(weights):
        odd = sorted(n for n in weights if ".lora_A." not in n and ".lora_B." not in n)[:1]
        raise ValueError(f"{path}: holds weights that are not unet.MODULE.lora_A / lora_B (first: {odd}); fold alpha into lora_B first")
    return found


def of(unet: Any) -> Adapter:
    """The LoRA that is on, as (A, B) per module."""
    weights: Mapping[str, torch.Tensor] = get_peft_model_state_dict(unet)
    names = [n.removesuffix(".lora_A.weight") for n in weights if n.endswith(".lora_A.weight")]
    return {n: (weights[f"{n}.lora_A.weight"].detach().clone(), weights[f"{n}.lora_B.weight"].detach().clone()) for n in names}


def scaled(adapter: Adapter, scale: float) -> Adapter:
    """The adapter at another strength: a free knob between reference (0) and trained (1) (Clark et al. 2023, §4)."""
    return {module: (down, up * scale) for module, (down, up) in adapter.items()}


def stacked(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that does what both do: ranks add up, B1 A1 + B2 A2 = [B1 B2] [A1; A2], exactly."""
    out = dict(first)
    for module, (down, up) in second.items():
        if module in out:
            below, above = out[module]
            out[module] = (torch.cat([below, down], 0), torch.cat([above, up], 1))
        else:
            out[module] = (down, up)
    return out


def write(adapter: Adapter, folder: Path) -> None:
    """Write an adapter folder in diffusers' names, atomically; `StableDiffusionPipeline.load_lora_weights` reads it too."""
    weights = {}
    for module, (down, up) in adapter.items():
        weights[f"unet.{module}.lora_A.weight"] = down.contiguous()
        weights[f"unet.{module}.lora_B.weight"] = up.contiguous()
    with replace_folder(folder) as fresh:
        save_file(weights, fresh / FILE)


def merge(unet: Any, adapter: Adapter) -> None:
    """Add every B A to the weight of its module, in place. Raises ValueError for a module that the UNet lacks."""
    modules = dict(unet.named_modules())
    with torch.no_grad():
        for name, (down, up) in adapter.items():
            weight = getattr(modules.get(name), "weight", None)
            if weight is None:
                raise ValueError(f"the adapter changes {name}, which the model lacks; it was made for another model")
            change = up.flatten(1) @ down.flatten(1)
            if change.numel() != weight.numel():
                raise ValueError(
                    f"the adapter's {name} has shape {list(change.shape)}, the model's {list(weight.shape)}; it was made for another model"
                )
            weight += change.reshape(weight.shape).to(weight.dtype)
