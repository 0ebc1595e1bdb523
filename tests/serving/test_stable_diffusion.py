"""A directory in Stable Diffusion 1.5's layout is served unchanged, and draws what diffusers draws."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving.engine import Job, LocalEngine
from serving.noise import initial_noise
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.variant import Variant


def reference(folder: Path, prompt: str, seed: int, steps: int, guidance: float, *, variant: str | None, scheduler: str) -> np.ndarray:
    """diffusers' StableDiffusionPipeline in torch, fp32, from the engine's initial noise: uint8 [h, w, 3]."""
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, variant=variant, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config)
    side = pipeline.unet.config.sample_size
    latents = torch.from_numpy(initial_noise(seed, (1, 4, side, side)))
    image = pipeline(prompt, num_inference_steps=steps, guidance_scale=guidance, latents=latents, output_type="np").images[0]
    return (image * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def engine(cache: Path, tmp_path_factory: pytest.TempPathFactory):
    engine = LocalEngine(Registry(str(tmp_path_factory.mktemp("registry"))), cache=cache, settings=EngineSettings(threads=1))
    yield engine
    engine.close()


@pytest.mark.parametrize(
    ("scheduler", "name"), [("ddim", "DDIMScheduler"), ("euler", "EulerDiscreteScheduler"), ("dpm++", "DPMSolverMultistepScheduler")]
)
def test_the_layout_of_stable_diffusion_is_served_unchanged(engine: LocalEngine, stable_diffusion: Path, scheduler, name) -> None:
    before = sorted((p, p.stat().st_mtime_ns) for p in stable_diffusion.rglob("*"))
    variant = Variant(model=str(stable_diffusion), steps=5, guidance=7.5, scheduler=scheduler)
    loaded = engine.load(variant)
    picture = engine.submit(Job(variant=variant, prompt="a red cat, don't smile", seed=11)).result(60)
    expected = reference(stable_diffusion, "a red cat, don't smile", 11, 5, 7.5, variant="fp16", scheduler=name)
    assert (loaded.width, loaded.height) == (64, 64) == picture.rgb.shape[:2]
    assert expected.std() > 5  # not a flat picture, which any decoder would get right
    assert np.abs(picture.rgb.astype(int) - expected).max() <= 1
    assert sorted((p, p.stat().st_mtime_ns) for p in stable_diffusion.rglob("*")) == before


def test_the_packaged_layout_draws_what_diffusers_draws(engine: LocalEngine, tiny_model: Path) -> None:
    variant = Variant(model=str(tiny_model), steps=10, guidance=2.0)
    engine.load(variant)
    picture = engine.submit(Job(variant=variant, prompt="a smiling dog", seed=3)).result(60)
    expected = reference(tiny_model, "a smiling dog", 3, 10, 2.0, variant=None, scheduler="DDIMScheduler")
    assert np.abs(picture.rgb.astype(int) - expected).max() <= 1


def test_old_names_shards_and_convolutions_for_attention_are_the_same_model(
    engine: LocalEngine, stable_diffusion: Path, tmp_path: Path, cache: Path
) -> None:
    """The hub's own files: sharded UNet, `text_model.` prefix with position ids, the VAE's attention as before diffusers 0.18."""
    old = tmp_path / "old"
    for path in stable_diffusion.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            (old / path.relative_to(stable_diffusion)).parent.mkdir(parents=True, exist_ok=True)
            (old / path.relative_to(stable_diffusion)).write_bytes(path.read_bytes())
    unet = load_file(stable_diffusion / "unet/diffusion_pytorch_model.fp16.safetensors")
    names = sorted(unet)
    shards = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for shard, part in shards.items():
        save_file({name: unet[name] for name in part}, old / "unet" / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (old / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    text = load_file(stable_diffusion / "text_encoder/model.fp16.safetensors")
    renamed = {f"text_model.{name.removeprefix('text_model.')}": array for name, array in text.items()}
    save_file(renamed | {"text_model.embeddings.position_ids": np.arange(77)[None]}, old / "text_encoder/model.safetensors")
    vae = load_file(stable_diffusion / "vae/diffusion_pytorch_model.fp16.safetensors")
    for new, former in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        for name in [n for n in vae if f".{new}." in n]:
            array = vae.pop(name)
            vae[name.replace(f".{new}.", f".{former}.")] = array[:, :, None, None] if array.ndim == 2 else array
    save_file(vae, old / "vae/diffusion_pytorch_model.safetensors")
    pictures = []
    for folder in (stable_diffusion, old):
        variant = Variant(model=str(folder), steps=3)
        engine.load(variant)
        pictures.append(engine.submit(Job(variant=variant, prompt="pizza", seed=5)).result(60).rgb)
    assert (pictures[0] == pictures[1]).all()


def test_serving_never_imports_torch(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from serving.engine import Job, LocalEngine\nfrom serving.registry import Registry\nfrom serving.variant import Variant\n"
        f"engine = LocalEngine(Registry({str(tmp_path)!r}), cache=pathlib.Path({str(cache)!r}))\n"
        f"variant = Variant(model={str(tiny_model)!r}, steps=2)\nengine.load(variant)\n"
        "assert engine.submit(Job(variant=variant, prompt='a', seed=1)).result(60).rgb.shape == (32, 32, 3)\n"
        "assert not {'torch', 'diffusers', 'transformers', 'onnx'} & set(sys.modules), 'imported a training package'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
