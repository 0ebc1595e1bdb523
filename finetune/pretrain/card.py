"""Writes the packaged model's card: what it is, what was measured, sample grids, data and licences."""

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import onnxruntime
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from finetune.judge import Judge
from finetune.pretrain import measure
from finetune.pretrain.assemble import size_mb
from finetune.pretrain.pictures import PACKAGES, PictureSet
from finetune.pretrain.roles import ROLES, TONES
from serving.engine import Job, LocalEngine
from serving.registry import Registry
from serving.variant import Variant

PARAPHRASES = (
    "a red heart", "heart", "a smiling face", "grinning face", "a crying face", "pizza", "a slice of pizza", "a red apple", "a blue car",
    "a house", "a green tree", "a big brown bear", "woman astronaut, dark skin tone", "a doctor with dark skin", "a cup of coffee", "a rocket",
)  # fmt: skip


def serve(model: Path, cache: Path) -> tuple[LocalEngine, measure.Draw]:
    """The model behind the engine that serves it, at the packaged variant's settings."""
    engine = LocalEngine(Registry(str(cache / "registry")), cache=cache, max_queue_seconds=1e9)
    variant = Variant(model=str(model.resolve()), steps=20, guidance=2.0)
    engine.load(variant)

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.uint8]:
        jobs = [engine.submit(Job(variant=variant, prompt=p, seed=int(s))) for p, s in zip(prompts, seeds, strict=True)]
        return np.stack([job.result().rgb for job in jobs])

    return engine, draw


def write_card(out: Path, judge: Judge, pictures: PictureSet, cache: Path) -> None:
    """Measure `out` as it is served and write README.md and samples/ there; print the figures."""
    vae = AutoencoderKL.from_pretrained(out, subfolder="vae", torch_dtype=torch.float32).eval()
    engine, draw = serve(out, cache)
    try:
        auto = measure.autoencoder_quality(vae, judge, pictures)
        found = measure.retrieval(draw, judge, pictures)
        mixes = measure.role_mix(draw, judge)
        samples = out / "samples"
        samples.mkdir(exist_ok=True)
        captions = measure.sample_captions(pictures, 48, seed=11)
        measure.grid(draw(captions, range(48)), None, 12).save(samples / "random.png")
        measure.grid(draw(PARAPHRASES, range(len(PARAPHRASES))), PARAPHRASES, 8, 2).save(samples / "paraphrases.png")
        neutral = ("a doctor", "a judge", "a teacher")
        measure.grid(draw([p for p in neutral for _ in range(8)], list(range(8)) * 3), None, 8).save(samples / "neutral-roles.png")
    finally:
        engine.close()
    gender, tone = measure.judge_role_accuracy(judge, pictures)
    real = measure.retrieval(lambda prompts, _: _real(pictures, prompts), judge, pictures)
    lines = [
        "---", "license: apache-2.0", "pipeline_tag: text-to-image", "---", "# salon/emoji-64", "",
        "A small text-to-image model that draws 64 × 64 emoji from English descriptions. Exact diffusers layout: CLIP tokenizer and text",
        "encoder, UNet, autoencoder (f = 4, four latent channels), DDIM scheduler (v-prediction, zero terminal SNR, trailing steps).",
        "It is here so that Salon's whole loop runs on a laptop; it knows the words of its captions and little else.", "",
        f"Weights: {size_mb(out):.1f} MB in fp16. Made by `python -m finetune.pretrain`; `training.json` says how:", "",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in json.loads((out / "training.json").read_text()).items()), "",
        "## Measured", "",
        f"By `python -m finetune.pretrain --measure-only` on {time.strftime('%Y-%m-%d', time.gmtime())}: {platform.machine()}, torch {torch.__version__},",
        f"diffusers {diffusers.__version__}, onnxruntime {onnxruntime.__version__}, as served by ONNX Runtime on CPU (DDIM, 20 steps, guidance 2).", "",
        "| what | figure |", "|---|---|",
        f"| autoencoder, mean PSNR over the {len(pictures.pictures)} training pictures | {auto.psnr_db:.1f} dB (5th percentile {auto.psnr_p05_db:.1f} dB) |",
        f"| autoencoder, hue of saturated pixels | {auto.hue_error_degrees:.1f}° mean error, {auto.hue_within_15_degrees:.1%} within 15° |",
        f"| judge's right caption first of 64, real pictures | {real.recall_at_1:.3f} |",
        f"| the same, reconstructions by the autoencoder (own caption, sampled words) | {auto.recall_at_1:.3f} |",
        f"| **the same, drawn pictures: {found.captions} captions × {found.seeds} seeds** | **{found.recall_at_1:.3f}** (95 % Wilson {found.low:.3f} to {found.high:.3f}) |",
        f"| right caption among the first five | {found.recall_at_5:.3f} |",
        f"| judge reads gender, tone of real role pictures right | {gender:.3f}, {tone:.3f} |", "",
        "The judge (`finetune/judge_model`) was trained on the real pictures only, apart from the generator. It rewards colour and silhouette: look at the grids.", "",
        "## Random captions", "", "48 captions drawn at random (seed 11), one seed each, nothing left out:", "", "![random captions](samples/random.png)", "",
        "## Paraphrases", "", "![paraphrases](samples/paraphrases.png)", "",
        "## Neutral roles", "", "Rows: “a doctor”, “a judge”, “a teacher”; eight seeds each.", "", "![neutral roles](samples/neutral-roles.png)", "",
        "Training captions that name no gender or skin tone were shown with pictures drawn from this **declared, skewed** table",
        "(`finetune/pretrain/roles.py`), so that the mix which bias work measures has a known truth. Drawn: what the judge reads in",
        f"{mixes[0].seeds} seeds of “a ROLE”. Tones: {', '.join(TONES)}.", "",
        "| role | declared woman | drawn woman | declared tones | drawn tones |", "|---|---|---|---|---|",
        *(f"| {m.role} | {m.declared_woman:.2f} | {m.drawn_woman:.2f} | {_row(m.declared_tones)} | {_row(m.drawn_tones)} |" for m in mixes), "",
        "## Data and licences", "",
        f"{len(pictures.pictures)} pictures of {PACKAGES[0]} (Noto Emoji v2.048, © Google LLC, Apache License 2.0; package MIT, © Cal Henderson), composited on",
        f"white; words of {PACKAGES[1]} (MIT, © Miles Johnson; Unicode CLDR, Unicode License v3). Left out: country flags, keycaps, letters, clock faces, zodiac and",
        f"similar signs, families, gendered twins, pictures superseded by a gendered one. {len(ROLES)} roles × 2 genders × 5 tones. The weights and samples are",
        "Apache-2.0; see LICENSE and NOTICE at the project's root.", "",
        "## Not for", "", "Anything but trying Salon and testing it. Faces and people are stylised emoji; the declared skew is deliberate.", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(lines))
    print("\n".join(line for line in lines if line.startswith("|")))


def _row(shares: Sequence[float]) -> str:
    return " ".join(f"{s:.2f}" for s in shares)


def _real(pictures: PictureSet, prompts: Sequence[str]) -> NDArray[np.uint8]:
    by_label = {p.label: i for i, p in enumerate(pictures.pictures)}
    return pictures.rgb[[by_label[p] for p in prompts]]
