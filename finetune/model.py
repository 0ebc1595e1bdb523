"""A model in diffusers layout, opened for training: text, pictures and latents, frozen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer

from finetune.parameterization import NoiseSchedule
from serving.errors import ModelError
from serving.export import directory_layout
from serving.layouts import STABLE_DIFFUSION


class DiffusionModel:
    """Text encoder, UNet, autoencoder and noise schedule in fp32, without gradients: only a LoRA on the UNet is ever trained.

    `unet` is a UNet2DConditionModel, `text` a CLIPTextModel, `tokenizer` its CLIPTokenizer, `vae` an AutoencoderKL; these
    classes are not typed.
    """

    def __init__(self, unet: Any, schedule: NoiseSchedule, text: Any, tokenizer: Any, vae: Any) -> None:
        self.unet, self.schedule, self.text, self.tokenizer, self.vae = unet, schedule, text, tokenizer, vae
        for part in (unet, text, vae):
            part.requires_grad_(False)
            part.eval()

    @classmethod
    def read(cls, folder: Path) -> "DiffusionModel":
        """Open a diffusers directory (Stable Diffusion 1.x layout).

        Raises FileNotFoundError naming the missing part, ModelError for another layout.
        """
        for part in ("unet", "text_encoder", "tokenizer", "vae", "scheduler"):
            if not (folder / part).is_dir():
                raise FileNotFoundError(f"{folder / part}: is missing; a round trains models in diffusers layout (Stable Diffusion 1.x)")
        if (layout := directory_layout(folder)) != STABLE_DIFFUSION:
            raise ModelError(f"{folder}/model_index.json: is of the {layout.name} layout; a round trains {STABLE_DIFFUSION.name} only")
        return cls(
            _part(UNet2DConditionModel, folder / "unet"),
            NoiseSchedule.read(folder / "scheduler"),
            _part(CLIPTextModel, folder / "text_encoder"),
            CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            _part(AutoencoderKL, folder / "vae"),
        )

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts to float32 [n, tokens, width], as the UNet hears them when it serves."""
        length = min(self.tokenizer.model_max_length, self.text.config.max_position_embeddings)
        rows = []
        for start in range(0, len(prompts), 64):
            part = list(prompts[start : start + 64])
            coded = self.tokenizer(part, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
            rows.append(self.text(torch.as_tensor(coded["input_ids"])).last_hidden_state)
        return torch.cat(rows)

    @torch.no_grad()
    def encode(self, rgb: NDArray[np.uint8], batch: int = 32) -> torch.Tensor:
        """uint8 [n, height, width, 3] to the autoencoder's mean, scaled as the UNet sees it: float32 [n, channels, h, w]."""
        shift, factor = self.vae.config.shift_factor or 0.0, self.vae.config.scaling_factor
        rows = []
        for start in range(0, len(rgb), batch):
            x = torch.from_numpy(np.ascontiguousarray(rgb[start : start + batch])).permute(0, 3, 1, 2).float() / 127.5 - 1.0
            rows.append((self.vae.encode(x).latent_dist.mean - shift) * factor)
        return torch.cat(rows)


def _part(kind: Any, folder: Path) -> Any:
    plain = any(folder.glob("*model.safetensors*"))
    variant = "fp16" if not plain and any(folder.glob("*.fp16.safetensors*")) else None
    return kind.from_pretrained(folder, variant=variant).float()
