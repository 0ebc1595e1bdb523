"""Remake the golden pictures: `python tests/serving/goldens/make.py`, after a change that is meant to change pixels.

Each is drawn by the ONNX backend and by diffusers' own pipeline (torch, LoRA by peft) from the same noise; nothing is written unless
the two are at most one level of 255 apart.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from cases import FOLDER, cases, write_adapter
from PIL import Image

from serving.engine import LocalEngine
from serving.job import Job
from serving.model import PACKAGED
from serving.noise import initial_noise
from serving.registry import Registry

SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler"}


def by_diffusers(job: Job) -> np.ndarray:
    """uint8 [64, 64, 3]."""
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(PACKAGED / "emoji-64", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = getattr(diffusers, SCHEDULERS[job.variant.scheduler]).from_config(pipeline.scheduler.config)
    if job.variant.adapter:
        pipeline.load_lora_weights(job.variant.adapter)
    image = pipeline(
        job.prompt, negative_prompt=job.negative_prompt, num_inference_steps=job.variant.steps, guidance_scale=job.variant.guidance,
        latents=torch.from_numpy(initial_noise(job.seed, (1, 4, 16, 16))), output_type="np",
        cross_attention_kwargs={"scale": job.variant.adapter_scale} if job.variant.adapter else None,
    ).images[0]  # fmt: skip
    return (image * 255).round().astype(np.uint8)


def main() -> int:
    with tempfile.TemporaryDirectory() as told:
        folder = Path(told)
        write_adapter(folder)
        engine = LocalEngine(Registry(str(folder / "registry")), cache=folder / "cache")
        drawn = {}
        for name, job in cases(folder).items():
            engine.load(job.variant)
            drawn[name] = engine.submit(job).result(120).rgb
            apart = int(np.abs(drawn[name].astype(int) - by_diffusers(job)).max())
            print(f"{name}: at most {apart} of 255 from diffusers")
            if apart > 1:
                return 1
        engine.close()
    for name, picture in drawn.items():
        Image.fromarray(picture).save(FOLDER / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
