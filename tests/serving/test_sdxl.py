"""A directory in Stable Diffusion XL's layout is served unchanged, and draws what diffusers draws."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.backends.onnx.graph import Cores, Graph
from serving.engine import Job, LocalEngine
from serving.errors import ModelError
from serving.model import graphs_folder, open_model
from serving.noise import initial_noise
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.text_encoder import TextEncoder
from serving.tokenizer import open_tokenizers
from serving.variant import Variant
from serving.weights import read_part


@pytest.fixture(scope="module")
def engine(cache: Path, tmp_path_factory: pytest.TempPathFactory):
    engine = LocalEngine(Registry(str(tmp_path_factory.mktemp("registry"))), cache=cache, settings=EngineSettings(threads=1))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pipeline(sdxl: Path):
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline, scheduler: str, prompt: str, seed: int, *, width: int = 32, height: int = 32, **said) -> np.ndarray:
    """diffusers' StableDiffusionXLPipeline in torch, fp32, from the engine's initial noise: uint8 [h, w, 3]."""
    import diffusers
    import torch

    # Stable Diffusion's pipelines never clip the estimate; the hub's files say so, these schedulers' defaults do not
    told = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(pipeline.scheduler.config, **told)
    latents = torch.from_numpy(initial_noise(seed, (1, 4, height // 4, width // 4)))
    image = pipeline(prompt, width=width, height=height, latents=latents, output_type="np", **said).images[0]
    return (image * 255).round().astype(np.uint8)


CASES = [
    # scheduler, size, steps, guidance, prompt, negative prompt; an empty negative prompt is none: zeros stand against the prompt
    ("euler", None, 5, 7.5, "a red cat, don't smile", ""),
    ("euler", "48x32", 3, 5.0, "pizza", "dark skin tone"),
    ("ddim", None, 4, 1.0, "", ""),
    ("dpm++", None, 4, 3.0, "a smiling dog " * 40, ""),
]
NAMES = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler"}


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_the_layout_is_served_as_diffusers_draws_it_all_cases_in_one_batch(engine: LocalEngine, sdxl: Path, pipeline, backend) -> None:
    variants = [Variant(model=str(sdxl), backend=backend, scheduler=s, size=size, steps=n, guidance=g) for s, size, n, g, _, _ in CASES]
    loaded = [engine.load(variant) for variant in variants]
    assert {(one.width, one.height) for one in loaded} == {(32, 32), (48, 32)} and len({one.lane for one in loaded}) == 2
    jobs = [
        Job(variant=variant, prompt=case[4], negative_prompt=case[5], seed=i)
        for i, (variant, case) in enumerate(zip(variants, CASES, strict=True))
    ]
    pictures = [future.result(60).rgb for future in engine.submit_all(jobs)]
    for i, (scheduler, size, steps, guidance, prompt, negative) in enumerate(CASES):
        width, height = (int(side) for side in (size or "32x32").split("x"))
        said = {"num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": negative or None}
        expected = draw(pipeline, NAMES[scheduler], prompt, i, width=width, height=height, **said)
        assert pictures[i].shape == expected.shape and expected.std() > 5
        assert np.abs(pictures[i].astype(int) - expected).max() <= 1, CASES[i]


def _edited(sdxl: Path, folder: Path, file: str, **changes: object) -> Path:
    shutil.copytree(sdxl, folder)
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    return folder


def test_zeros_for_no_negative_prompt_only_where_the_model_says_so(engine: LocalEngine, sdxl: Path, pipeline, tmp_path: Path) -> None:
    encoded = _edited(sdxl, tmp_path / "encoded", "model_index.json", force_zeros_for_empty_prompt=False)
    variants = [Variant(model=str(folder), scheduler="euler", steps=3, guidance=7.0) for folder in (sdxl, encoded)]
    for variant in variants:
        engine.load(variant)
    jobs = [Job(variant=variant, prompt="heart", seed=5) for variant in variants]
    zeros, empty = [future.result(60).rgb.astype(int) for future in engine.submit_all(jobs)]
    said = {"num_inference_steps": 3, "guidance_scale": 7.0}
    assert np.abs(zeros - draw(pipeline, NAMES["euler"], "heart", 5, negative_prompt=None, **said)).max() <= 1
    assert np.abs(empty - draw(pipeline, NAMES["euler"], "heart", 5, negative_prompt="", **said)).max() <= 1
    assert np.abs(zeros - empty).max() > 10


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "_class_name is 'FluxPipeline'; the layouts served are StableDiffusionPipe"),
        ("model_index.json", {"text_encoder": [None, None]}, r"text_encoder is .*only CLIPTextModel .*\(Stable Diffusion XL layout\)"),
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "addition_embed_type is 'text_time'; Stable Diffusion 1.x has"),
        ("unet/config.json", {"addition_embed_type": None}, "addition_embed_type is None; Stable Diffusion XL has 'text_time'"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean is not served"),
    ],
)
def test_what_is_no_sdxl_is_refused_by_class_and_layout(sdxl: Path, tmp_path: Path, file: str, changes: dict, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        open_model(str(_edited(sdxl, tmp_path / "copy", file, **changes)), tmp_path / "cache")


def test_every_part_counts_for_the_digest(sdxl: Path, tmp_path: Path) -> None:
    digest = open_model(str(sdxl), tmp_path).digest
    for i, file in enumerate(("text_encoder_2/config.json", "tokenizer_2/tokenizer_config.json", "model_index.json")):
        assert open_model(str(_edited(sdxl, tmp_path / str(i), file, salon_note=1)), tmp_path).digest != digest


def test_texts_one_at_a_time_are_the_same_to_the_bit_in_any_company(sdxl: Path, cache: Path) -> None:
    """Mode strict."""
    model, folder = open_model(str(sdxl), cache), graphs_folder(open_model(str(sdxl), cache), cache)
    cores = Cores(1, by_row=True)
    graphs = {part: Graph(folder / f"{part}.onnx", read_part(sdxl / part), cores) for part in model.layout.text_encoders}
    encoders = [TextEncoder(model, graphs, open_tokenizers(model), at_once=1) for _ in range(2)]
    (alone,) = encoders[0](["a red cat"])
    together = encoders[1](["pizza", "a red cat", ""], ["", "dark"])
    assert len(together) == 5 and all((alone[name] == together[1][name]).all() for name in alone)
    # an empty negative prompt is none, an empty prompt is a prompt
    assert not together[3]["text_embeds"].any() and together[2]["text_embeds"].any()
    assert (together[3]["time_ids"] == [32, 32, 0, 0, 32, 32]).all()
