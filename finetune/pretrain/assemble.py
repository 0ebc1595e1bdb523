"""Puts the trained parts together as a directory in diffusers layout, with ONNX graphs beside, in fp16."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from serving.export import export_directory


def assemble(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler, out: Path
) -> None:
    """Write the model to `out`; an older one there is replaced only when the new one is whole."""
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16)
    pipeline.save_pretrained(part, safe_serialization=True)
    pipeline.to(torch.float32)
    if not _same_architecture(part, out):
        export_directory(part)
    else:
        shutil.copytree(out / "onnx", part / "onnx")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def _same_architecture(new: Path, old: Path) -> bool:
    """Whether the weightless graphs of `old` fit `new`: every part has the same configuration."""
    parts = [Path(name) / "config.json" for name in ("text_encoder", "unet", "vae")]
    return (old / "onnx").is_dir() and all((old / p).is_file() and (new / p).read_bytes() == (old / p).read_bytes() for p in parts)


def size_mb(out: Path) -> float:
    """Megabytes (10^6) of weights."""
    return sum(p.stat().st_size for p in out.rglob("*.safetensors")) / 1e6
