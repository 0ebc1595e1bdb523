"""One command that trains, assembles and measures the packaged model: `python -m finetune.pretrain`. Resumable."""

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from finetune import judge as judges
from finetune.judge import Judge
from finetune.pretrain import autoencoder, diffusion, judge_training, parallel, tokenizer
from finetune.pretrain import pictures as data
from finetune.pretrain.assemble import assemble
from finetune.pretrain.card import write_card

MODEL = Path(__file__).parents[2] / "serving/models/emoji-64"


def main() -> None:
    """Run every stage that is not done yet; rerun after a crash to go on."""
    parser = argparse.ArgumentParser("python -m finetune.pretrain", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("var/pretrain"), help="checkpoints and downloaded pictures")
    parser.add_argument("--out", type=Path, default=MODEL, help="where the model goes, in diffusers layout")
    parser.add_argument("--judge", type=Path, default=judges.HOME, help="where the judge goes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes on CPU (use 1 on a GPU)")
    parser.add_argument("--steps", type=int, default=5200, help="diffusion steps of 48 pictures; more later goes on from the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure-only", action="store_true", help="do not train: measure --out and write its card again")
    args = parser.parse_args()
    device = torch.device(args.device)
    workers = 1 if device.type == "cuda" else args.workers
    pictures = data.load(data.fetch(args.work / "data"))
    if not args.measure_only:
        train(args, pictures, device, workers)
    write_card(args.out, Judge.load(args.judge), pictures, args.work / "cache")


def train(args: argparse.Namespace, pictures: data.PictureSet, device: torch.device, workers: int) -> None:
    """Autoencoder, judge, tokenizer and text encoder, diffusion; then the model's directory."""
    parallel.launch(autoencoder.train, workers, pictures.rgb, args.work, device, args.seed)
    judge_training.train(pictures, args.work, args.seed).save(args.judge)
    vae = autoencoder.build()
    vae.load_state_dict(torch.load(args.work / "autoencoder.pt", map_location="cpu", weights_only=True)["model"])
    latents = autoencoder.unit_latents(vae.eval(), autoencoder.to_tensor(pictures.rgb))
    words = tokenizer_of(pictures, args.work / "tokenizer", args.seed)
    diffusion.train_text(pictures, words, args.work, device, args.seed)
    parallel.launch(diffusion.train, workers, pictures, latents, words, args.work, device, args.seed, args.steps)
    unet, text = diffusion.averaged(words, args.work)
    assemble(vae, unet, text, words, diffusion.build_scheduler(), args.out)
    facts = {
        "seed": args.seed,
        "device": f"{device.type}, {workers} processes",
        "autoencoder_steps": f"{autoencoder.STEPS} of {autoencoder.BATCH} crops",
        "text_encoder_steps": f"{diffusion.TEXT_STEPS} of {diffusion.TEXT_BATCH} captions",
        "diffusion_steps": f"{args.steps} of {diffusion.BATCH} pictures",
        "judge_steps": f"{judge_training.STEPS} of {judge_training.BATCH} pictures",
        "pictures": len(pictures.pictures),
        "torch": torch.__version__,
    }
    (args.out / "training.json").write_text(json.dumps(facts, indent=1))


def tokenizer_of(pictures: data.PictureSet, folder: Path, seed: int) -> CLIPTokenizer:
    """The tokenizer in `folder`, trained on 200,000 sampled captions when it is not there."""
    if (folder / "tokenizer_config.json").exists():
        return CLIPTokenizer.from_pretrained(folder)
    shutil.rmtree(folder, ignore_errors=True)
    rng = random.Random(seed)
    return tokenizer.build((data.sample_caption(pictures, rng)[1] for _ in range(200_000)), folder)


if __name__ == "__main__":
    main()
