"""Networks of known models with random weights: Stable Diffusion 1.5 and SDXL in their exact architecture, and tiny ones.

Speed does not depend on the weights. Nothing is downloaded: the numbers below are those of the models' public config.json files.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from serving.adapters.lora import Adapter, Lora
from serving.backends.torch.layers import shape_of
from serving.backends.torch.parts import Part
from serving.layouts import STABLE_DIFFUSION, STABLE_DIFFUSION_XL, Layout
from serving.model import locate
from serving.traced import traced

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_SD15: dict[str, Any] = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "attention_head_dim": 8, "cross_attention_dim": 768, "norm_num_groups": 32,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}  # fmt: skip
_SDXL: dict[str, Any] = {
    "sample_size": 128, "in_channels": 4, "out_channels": 4, "block_out_channels": [320, 640, 1280], "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048, "norm_num_groups": 32, "use_linear_projection": True,
    "transformer_layers_per_block": [1, 2, 10], "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
_NARROW_SD: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": [16, 16, 32, 32], "attention_head_dim": 2, "cross_attention_dim": 24, "norm_num_groups": 8
}  # fmt: skip
_NARROW_XL: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": [16, 16, 32], "attention_head_dim": [2, 2, 4], "transformer_layers_per_block": [1, 1, 2],
    "cross_attention_dim": 64, "norm_num_groups": 8, "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 20 + 6 * 8,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """`label` for people; `tokens` of the text; the UNet's `config`."""

    label: str
    layout: Layout
    config: dict[str, Any]
    tokens: int = 77


def shape(name: str, *, tiny: bool) -> Shape:
    """`sd15` or `sdxl`; tiny: narrow and small, of the same structure."""
    if name == "sd15":
        config = _SD15 | _NARROW_SD if tiny else _SD15
        return Shape("SD 1.5, 512x512" if not tiny else "tiny SD 1.5", STABLE_DIFFUSION, config)
    config = _SDXL | _NARROW_XL if tiny else _SDXL
    return Shape("SDXL, 1024x1024" if not tiny else "tiny SDXL", STABLE_DIFFUSION_XL, config)


def network(of: Shape, device: torch.device, dtype: torch.dtype) -> Part:
    """The UNet with random weights, on the device; channels last on CUDA, as Salon's torch backend has it."""
    torch.manual_seed(0)
    with torch.device(device):
        made = traced(of.layout, "unet", of.config)
    module = made.module.eval().requires_grad_(False).to(device, dtype)
    if device.type == "cuda":
        module.to(memory_format=torch.channels_last)
    return Part(module, tuple(made.axes), made.outputs)


def inputs(of: Shape, rows: int, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Sample (fp32), timesteps and conditionings of `rows` rows."""
    side, config = of.config["sample_size"], of.config
    told = {"encoder_hidden_states": torch.randn(rows, of.tokens, config["cross_attention_dim"], device=device, dtype=dtype)}
    if "addition_embed_type" in config:
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        told["text_embeds"] = torch.randn(rows, pooled, device=device, dtype=dtype)
        told["time_ids"] = torch.full((rows, 6), 8.0 * side, device=device, dtype=dtype)
    return torch.randn(rows, config["in_channels"], side, side, device=device), torch.full((rows,), 500.0, device=device), told


def flop(of: Shape) -> float:
    """Floating-point operations of one row of one step, counted on tensors without memory (a multiply-add is two)."""
    meta = torch.device("meta")
    with meta:
        module = traced(of.layout, "unet", of.config).module
    sample, timestep, told = inputs(of, 1, meta, torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(sample, timestep, *told.values())
    return float(counter.get_total_flops())


def adapter(part: Part, rank: int, targets: tuple[str, ...] = ATTENTION) -> Adapter:
    """A LoRA of zeros for every layer of `targets`: it gives a bank its form, which is then filled at random."""
    modules = {}
    for name, layer in part.module.named_modules():
        if name.endswith(targets) and (of := shape_of(layer, rank)):
            down, up = (rank, of.inputs), (of.outputs, rank)
            extra = of.kernel if isinstance(layer, torch.nn.Conv2d) else ()
            modules[name.removeprefix("model.")] = Lora(
                np.zeros((*down, *extra), np.float32), np.zeros((*up, *(1 for _ in extra)), np.float32)
            )
    return Adapter(Path("random"), "sha256:" + "0" * 64, {"unet": modules})


def write_directory(of: Shape, folder: Path, device: torch.device, *, tiny: bool) -> Path:
    """A Stable Diffusion 1.x directory with random fp16 weights, as LocalEngine reads it; the tokenizer is the packaged model's."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    assert of.layout is STABLE_DIFFUSION, "only Stable Diffusion 1.x is written"
    torch.manual_seed(0)
    width, wide = of.config["cross_attention_dim"], (8, 16, 16, 16) if tiny else (128, 256, 512, 512)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2 if tiny else 12, num_attention_heads=12,
        max_position_embeddings=of.tokens, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    with torch.device(device):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(of.config),
            "vae": AutoencoderKL(
                block_out_channels=wide, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2, latent_channels=4, norm_num_groups=8 if tiny else 32, sample_size=8 * of.config["sample_size"],
            ),
            "text_encoder": CLIPTextModel(text),
        }  # fmt: skip
    for name, module in parts.items():
        module.half().save_pretrained(folder / name)
    shutil.copytree(locate("salon/emoji-64") / "tokenizer", folder / "tokenizer")
    told = folder / "tokenizer/tokenizer_config.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"model_max_length": of.tokens}))
    scheduler = {
        "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False,
    }  # fmt: skip
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    index = {
        "_class_name": of.layout.pipeline,
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
