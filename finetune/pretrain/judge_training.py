"""Trains the retrieval judge on real pictures and captions (CLIP's symmetric loss, Radford et al. 2021)."""

import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from finetune.judge import Judge, Towers, words_of
from finetune.pretrain import progress
from finetune.pretrain.autoencoder import to_tensor
from finetune.pretrain.pictures import PictureSet, picture_caption, sample_caption
from finetune.pretrain.roles import ROLES

STEPS, BATCH, RATE, ROLE_SHARE = 1100, 112, 2e-3, 0.3


def vocabulary_of(pictures: PictureSet, seed: int) -> dict[str, int]:
    """Every word of 200,000 sampled captions; numbers start at 1."""
    rng = random.Random(seed)
    words = {w for _ in range(200_000) for w in words_of(sample_caption(pictures, rng)[1])}
    return {w: i for i, w in enumerate(sorted(words), 1)}


def roles_by_picture(pictures: PictureSet) -> torch.Tensor:
    """int64 [n]: the number of a picture's role, or -1 - index where it has none."""
    out = -1 - torch.arange(len(pictures.pictures))
    names = list(ROLES)
    for (role, _, _), index in pictures.role_index.items():
        out[index] = names.index(role)
    return out


def disturb(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Shift, scale, colour, blur and noise: [n, 3, 64, 64], so that the judge reads drawings that are not exact."""
    n = len(x)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 0.9 + 0.25 * torch.rand(n, generator=rng)
    theta[:, :, 2] = 0.16 * (torch.rand(n, 2, generator=rng) - 0.5)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="border", align_corners=False)
    x = x * (0.9 + 0.2 * torch.rand(n, 3, 1, 1, generator=rng)) + 0.12 * (torch.rand(n, 3, 1, 1, generator=rng) - 0.5)
    soft = torch.rand(n, 1, 1, 1, generator=rng).clamp(max=0.8)
    x = x * (1 - soft) + F.avg_pool2d(x, 3, 1, 1) * soft
    return x + 0.08 * torch.rand(n, 1, 1, 1, generator=rng) * torch.randn(x.shape, generator=rng)


def loss(towers: Towers, x: torch.Tensor, ids: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy over the batch; `same` [n, n] marks pairs that may not count as negatives."""
    logits = towers.log_scale.clamp(max=4.6).exp() * towers.embed_images(x) @ towers.embed_text(ids).T
    logits = logits.masked_fill(same & ~torch.eye(len(x), dtype=torch.bool), -1e4)
    target = torch.arange(len(x))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train(pictures: PictureSet, folder: Path, seed: int) -> Judge:
    """Train to STEPS, resuming from `folder/judge.pt`."""
    torch.manual_seed(seed)
    checkpoint, first = folder / "judge.pt", 0
    state = progress.resume(checkpoint, torch.device("cpu"))
    vocabulary = state["vocabulary"] if state else vocabulary_of(pictures, seed)
    judge = Judge(Towers(len(vocabulary) + 1), vocabulary, "untrained")
    towers = judge.towers.train()
    optimiser = torch.optim.AdamW(towers.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.05)
    if state:
        towers.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    images, roles, started = to_tensor(pictures.rgb), roles_by_picture(pictures), time.monotonic()
    for step in range(first, STEPS):
        rng, noise = random.Random(seed * 7919 + step), torch.Generator().manual_seed(seed * 7919 + step)
        explicit = step % 2 == 0
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        index, captions = zip(*(sample_caption(pictures, rng, ROLE_SHARE, explicit) for _ in range(BATCH)), strict=True)
        chosen = torch.tensor(index)
        key = chosen if explicit else roles[chosen]
        value = loss(towers, disturb(images[chosen], noise), judge.ids(captions), key[:, None] == key[None, :])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if (step + 1) % 200 == 0 or step + 1 == STEPS:
            towers.eval()
            score = recall_at_1(judge, pictures.rgb, pictures, seed=1)
            towers.train()
            state = {"model": towers.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1, "vocabulary": vocabulary}
            progress.save(checkpoint, state)
            progress.say("judge", step + 1, STEPS, started, loss=value.item(), recall_at_1=score)
    towers.eval()
    return judge


def recall_at_1(judge: Judge, rgb: np.ndarray, pictures: PictureSet, seed: int, among: int = 64, draws: int = 400) -> float:
    """Share of `draws` pictures `rgb[i]` whose own caption scores highest among `among` captions of different pictures."""
    rng = random.Random(seed)
    hits = 0
    for _ in range(draws):
        chosen = rng.sample(range(len(pictures.pictures)), among)
        captions = [picture_caption(pictures.pictures[i], rng) for i in chosen]
        scores = judge.image_features(rgb[chosen[0]][None]) @ judge.text_features(captions).T
        hits += int(scores[0].argmax() == 0)
    return hits / draws
