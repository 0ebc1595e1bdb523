"""Stage 1: the autoencoder. 64 × 64 × 3 pixels to 16 × 16 × 4 latents of unit variance and back."""

import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from finetune.pretrain import progress
from finetune.pretrain.parallel import average_gradients

STEPS, BATCH, CROP, RATE = 3000, 48, 32, 2.5e-3
KL_WEIGHT = 3e-4


def build() -> AutoencoderKL:
    """The network: f = 4, four latent channels, no attention (0.92 M parameters)."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def to_tensor(rgb: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def chroma(x: torch.Tensor) -> torch.Tensor:
    """Cb and Cr of BT.601: [n, 3, h, w] to [n, 2, h, w]."""
    r, g, b = x.unbind(1)
    return torch.stack((-0.169 * r - 0.331 * g + 0.5 * b, 0.5 * r - 0.419 * g - 0.081 * b), 1)


def loss(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    """L1 + squared error + chroma L1 + gradient L1 + a little KL, all means. Chroma keeps rare hues true."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample
    pixel = F.l1_loss(y, x) + 2.0 * F.mse_loss(y, x) + 1.0 * F.l1_loss(chroma(y), chroma(x))
    edges = F.l1_loss(y.diff(dim=-1), x.diff(dim=-1)) + F.l1_loss(y.diff(dim=-2), x.diff(dim=-2))
    total: torch.Tensor = pixel + 0.5 * edges + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
    return total


def saturation_weights(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How often to draw each picture: saturated hues twice as often as grey ones."""
    spread = (rgb.max(-1).astype(float) - rgb.min(-1)).mean((1, 2)) / 255.0
    weights: NDArray[np.float64] = 0.5 + np.minimum(spread / 0.25, 1.0)
    weights /= weights.sum()
    return weights


def _crops(images: torch.Tensor, weights: NDArray[np.float64], n: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    picks = rng.choice(len(images), n, p=weights)
    corner = np.clip(rng.normal(16, 12, (n, 2)).round(), 0, 64 - CROP).astype(int)
    return torch.stack([images[i, :, y : y + CROP, x : x + CROP] for i, (y, x) in zip(picks, corner, strict=True)])


def train(rank: int, workers: int, rgb: NDArray[np.uint8], folder: Path, device: torch.device, seed: int, until: int = STEPS) -> None:
    """Train to `until` of STEPS, resuming from `folder/autoencoder.pt`; every worker takes its share of each batch."""
    torch.manual_seed(seed)
    vae = build().to(device)
    parameters = list(vae.parameters())
    optimiser = torch.optim.AdamW(parameters, RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    checkpoint, first = folder / "autoencoder.pt", 0
    if state := progress.resume(checkpoint, device):
        vae.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    images, weights = to_tensor(rgb).to(device), saturation_weights(rgb)
    started, running = time.monotonic(), 0.0
    for step in range(first, until):
        torch.manual_seed(seed + step * workers + rank)
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        value = loss(vae, _crops(images, weights, BATCH // workers, seed * 7919 + step * workers + rank))
        optimiser.zero_grad()
        value.backward()
        average_gradients(parameters, workers)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        running = 0.98 * running + 0.02 * value.item() if running else value.item()
        if rank == 0 and ((step + 1) % 200 == 0 or step + 1 == until):
            progress.save(checkpoint, {"model": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
            progress.say("autoencoder", step + 1, STEPS, started, loss=running, psnr=psnr(vae, images[::16]))


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Mean over images of 10 log10(1 / mse), pixels in [0, 1], decoded from the latent mean. Unit dB."""
    out = torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1) for x in images.split(32)])
    mse = ((out - images) / 2).pow(2).mean((1, 2, 3))
    return float((-10 * mse.log10()).mean())


@torch.no_grad()
def unit_latents(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode all images, fold per-channel mean and deviation into quant_conv and post_quant_conv (in place).

    Diffusion pipelines ignore a VAE's latents_mean and latents_std; folding them is exact. Returns latent means
    [n, 4, 16, 16], each channel of zero mean and unit deviation.
    """
    z = torch.cat([vae.encode(x).latent_dist.mode() for x in images.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant is not None and post is not None
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += torch.einsum("oi,i->o", post.weight[:, :, 0, 0], mean)
    post.weight *= std.view(1, -1, 1, 1)
    return (z - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)
