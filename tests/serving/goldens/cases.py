"""The pictures that every backend must draw, and an adapter for one of them, made from a seed."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from serving.adapters.lora import FILE
from serving.job import Job
from serving.model import PACKAGED
from serving.variant import Variant
from serving.weights import read_part

FOLDER = Path(__file__).parent
RANK = 4
DEVIATION = 0.14


def cases(adapter: Path) -> dict[str, Job]:
    """By the name of the picture; `adapter` is where `write_adapter` wrote."""
    base = Variant(model="salon/emoji-64", steps=12, guidance=2.0)
    return {
        "ddim": Job(variant=base, prompt="a red heart", seed=1),
        "euler": Job(
            variant=Variant(model="salon/emoji-64", steps=8, guidance=4.0, scheduler="euler"),
            prompt="a smiling cat", negative_prompt="a dog", seed=2,
        ),
        "dpm": Job(variant=Variant(model="salon/emoji-64", steps=6, guidance=1.0, scheduler="dpm++"), prompt="a slice of pizza", seed=3),
        "adapter": Job(
            variant=Variant(model="salon/emoji-64", steps=12, guidance=2.0, adapter=str(adapter), adapter_scale=0.8),
            prompt="a red heart", seed=1,
        ),
    }  # fmt: skip


def write_adapter(folder: Path) -> None:
    """A LoRA on what `salon finetune` trains, with diffusers' names."""
    rng, tensors = np.random.Generator(np.random.Philox(4)), {}
    for name, weight in sorted(read_part(PACKAGED / "emoji-64/unet").items()):
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.endswith((".to_q", ".to_k", ".to_v", ".to_out.0", ".conv1", ".conv2")):
            tail = (1,) * (weight.ndim - 2)
            tensors[f"unet.{module}.lora_A.weight"] = rng.normal(0, DEVIATION, (RANK, *weight.shape[1:])).astype(np.float32)
            tensors[f"unet.{module}.lora_B.weight"] = rng.normal(0, DEVIATION, (len(weight), RANK, *tail)).astype(np.float32)
    save_file(tensors, folder / FILE)
