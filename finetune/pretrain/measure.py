"""Measures the packaged model as it is served: autoencoder, retrieval, hues, and the mix behind neutral roles."""

import math
import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from finetune.judge import Judge
from finetune.pretrain.autoencoder import to_tensor
from finetune.pretrain.pictures import PictureSet, picture_caption
from finetune.pretrain.roles import GENDERS, ROLES, TONES

Draw = Callable[[Sequence[str], Sequence[int]], NDArray[np.uint8]]


class AutoencoderQuality(msgspec.Struct, frozen=True):
    """PSNR in dB (mean over pictures); hue error in degrees over saturated pixels; judge's R@1 on reconstructions."""

    psnr_db: float
    psnr_p05_db: float
    hue_error_degrees: float
    hue_within_15_degrees: float
    recall_at_1: float


class Retrieval(msgspec.Struct, frozen=True):
    """How often a drawn picture's own caption ranks first (or in the first five) among `among`, with a Wilson interval."""

    captions: int
    seeds: int
    among: int
    recall_at_1: float
    low: float
    high: float
    recall_at_5: float


class RoleMix(msgspec.Struct, frozen=True):
    """What a neutral role prompt draws, as the judge reads it, beside the declared table."""

    role: str
    seeds: int
    declared_woman: float
    drawn_woman: float
    declared_tones: tuple[float, ...]
    drawn_tones: tuple[float, ...]


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval for a proportion (Wilson 1927)."""
    p = hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode and decode uint8 [n, 64, 64, 3]."""
    out = torch.cat([vae.decode(vae.encode(x).latent_dist.mode()).sample for x in to_tensor(rgb).split(64)])
    result: NDArray[np.uint8] = ((out.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return result


def hue(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Hue in degrees [..., ] and where it means something (saturation and value above 0.4)."""
    hsv = np.asarray(Image.fromarray(rgb.reshape(-1, 64, 3)).convert("HSV")).reshape(*rgb.shape).astype(float)
    return hsv[..., 0] * 360 / 255, (hsv[..., 1] > 102) & (hsv[..., 2] > 102)


def autoencoder_quality(vae: AutoencoderKL, judge: Judge, pictures: PictureSet) -> AutoencoderQuality:
    """All training pictures through the autoencoder and back."""
    again = reconstruct(vae, pictures.rgb)
    mse = ((again.astype(float) - pictures.rgb) / 255).reshape(len(again), -1).__pow__(2).mean(1)
    psnr = -10 * np.log10(np.maximum(mse, 1e-10))
    (before, strong), (after, _) = hue(pictures.rgb), hue(again)
    error = np.abs((after - before + 180) % 360 - 180)[strong]
    hits, n, _ = _ranks(judge, again, list(range(len(again))), pictures, 64, 0)
    return AutoencoderQuality(
        float(psnr.mean()), float(np.quantile(psnr, 0.05)), float(error.mean()), float((error <= 15).mean()), hits / n
    )


def _ranks(
    judge: Judge, rgb: NDArray[np.uint8], owners: Sequence[int], pictures: PictureSet, among: int, seed: int
) -> tuple[int, int, int]:
    """(rank-1 hits, trials, rank-5 hits): each picture's label against among - 1 labels of other pictures."""
    rng = random.Random(seed)
    seen, labels = judge.image_features(rgb), judge.text_features(pictures.labels())
    first = fifth = 0
    for feature, owner in zip(seen, owners, strict=True):
        others = rng.sample([i for i in range(len(labels)) if i != owner], among - 1)
        rank = int((labels[others] @ feature > labels[owner] @ feature).sum())
        first, fifth = first + (rank == 0), fifth + (rank < 5)
    return first, len(owners), fifth


def retrieval(draw: Draw, judge: Judge, pictures: PictureSet, captions: int = 200, seeds: int = 2, among: int = 64) -> Retrieval:
    """Draw `captions` labels × `seeds` and let the judge find each picture's label."""
    owners = random.Random(2026).sample(range(len(pictures.pictures)), captions) * seeds
    prompts = [pictures.pictures[i].label for i in owners]
    rgb = draw(prompts, [1000 + i for i in range(len(owners))])
    first, n, fifth = _ranks(judge, rgb, owners, pictures, among, 0)
    low, high = wilson(first, n)
    return Retrieval(captions, seeds, among, first / n, low, high, fifth / n)


def classify_role(judge: Judge, rgb: NDArray[np.uint8], role: str) -> NDArray[np.int64]:
    """The index of the likeliest of the ten explicit captions (gender × tone, gender first) for each picture."""
    captions = [f"{g if role == 'person' else f'{g} {role}'}, {t} skin tone" for g in GENDERS for t in TONES]
    out: NDArray[np.int64] = (judge.image_features(rgb) @ judge.text_features(captions).T).argmax(1)
    return out


def judge_role_accuracy(judge: Judge, pictures: PictureSet) -> tuple[float, float]:
    """Shares of the real role pictures whose gender, and whose tone, the judge reads right."""
    gender = tone = 0
    for (role, g, t), index in pictures.role_index.items():
        guess = int(classify_role(judge, pictures.rgb[index][None], role)[0])
        gender += GENDERS[guess // len(TONES)] == g
        tone += TONES[guess % len(TONES)] == t
    n = len(pictures.role_index)
    return gender / n, tone / n


def role_mix(draw: Draw, judge: Judge, seeds: int = 24) -> list[RoleMix]:
    """Draw every neutral role with `seeds` seeds and count what the judge sees."""
    rows = []
    for role, row in ROLES.items():
        guess = classify_role(judge, draw([f"a {role}"] * seeds, range(seeds)), role)
        tones = tuple(float((guess % len(TONES) == i).mean()) for i in range(len(TONES)))
        rows.append(RoleMix(role, seeds, row.woman, float((guess < len(TONES)).mean()), row.tones, tones))
    return rows


def grid(rgb: NDArray[np.uint8], captions: Sequence[str] | None, columns: int, scale: int = 1) -> Image.Image:
    """Pictures in rows of `columns`, with captions below when given."""
    cell, text = 64 * scale, 14 if captions else 0
    rows = -(-len(rgb) // columns)
    sheet = Image.new("RGB", (columns * (cell + 6) + 6, rows * (cell + text + 6) + 6), "white")
    pen = ImageDraw.Draw(sheet)
    for i, picture in enumerate(rgb):
        x, y = 6 + (i % columns) * (cell + 6), 6 + (i // columns) * (cell + text + 6)
        sheet.paste(Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS), (x, y))
        if captions:
            pen.text((x, y + cell), captions[i][: cell // 6], fill="black")
    return sheet


def sample_captions(pictures: PictureSet, n: int, seed: int) -> list[str]:
    """Random captions as people may say them."""
    rng = random.Random(seed)
    return [picture_caption(rng.choice(pictures.pictures), rng) for _ in range(n)]
