"""A directory in Stable Diffusion 3's layout, a transformer trained by flow matching, draws what diffusers draws."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.engine import Job, LocalEngine
from serving.errors import ModelError
from serving.model import at_size, graphs_folder, open_model
from serving.noise import initial_noise
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.tokenizer import open_tokenizers
from serving.variant import Variant


@pytest.fixture(scope="module")
def engine(cache: Path, tmp_path_factory: pytest.TempPathFactory):
    engine = LocalEngine(Registry(str(tmp_path_factory.mktemp("registry"))), cache=cache, settings=EngineSettings(threads=1))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pipeline(dit: Path):
    import diffusers
    import torch

    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(dit, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def without_t5(dit: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub's directory is where T5 was left out to save memory."""
    folder = shutil.copytree(dit, tmp_path_factory.mktemp("models") / "without-t5")
    shutil.copytree(graphs_folder(open_model(str(dit), cache), cache), folder / "onnx")
    for name in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(folder / name)
    (folder / "onnx/text_encoder_3.onnx").unlink()
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}))
    return folder


def draw(pipeline, prompt: str, seed: int, *, width: int = 32, height: int = 32, **said) -> np.ndarray:
    """diffusers' StableDiffusion3Pipeline in torch, fp32, from the engine's initial noise: uint8 [h, w, 3]."""
    import torch

    latents = torch.from_numpy(initial_noise(seed, (1, 16, height // 4, width // 4)))
    image = pipeline(prompt, width=width, height=height, latents=latents, output_type="np", **said).images[0]
    return (image * 255).round().astype(np.uint8)


CASES = [
    # size, steps, guidance, prompt, negative prompt
    (None, 5, 7.0, "a red cat, don't smile", ""),
    ("48x24", 3, 4.0, "pizza", "dark skin tone"),
    (None, 4, 1.0, "", ""),
    (None, 2, 3.0, "a smiling dog of a doctor " * 60, ""),
]


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_a_transformer_is_served_as_diffusers_draws_it(engine: LocalEngine, dit: Path, pipeline, backend) -> None:
    common = {"model": str(dit), "backend": backend, "scheduler": "flow-euler"}
    variants = [Variant(**common, size=size, steps=n, guidance=g) for size, n, g, _, _ in CASES]
    for variant in variants:
        engine.load(variant)
    jobs = [
        Job(variant=variant, prompt=case[3], negative_prompt=case[4], seed=i)
        for i, (variant, case) in enumerate(zip(variants, CASES, strict=True))
    ]
    pictures = [future.result(60).rgb for future in engine.submit_all(jobs)]
    for i, (size, steps, guidance, prompt, negative) in enumerate(CASES):
        width, height = (int(side) for side in (size or "32x32").split("x"))
        said = {"num_inference_steps": steps, "guidance_scale": guidance, "negative_prompt": negative or None}
        expected = draw(pipeline, prompt, i, width=width, height=height, **said)
        assert pictures[i].shape == expected.shape and expected.std() > 5
        assert np.abs(pictures[i].astype(int) - expected).max() <= 1, CASES[i]


def test_without_t5_zeros_stand_in_its_place(engine: LocalEngine, dit: Path, without_t5: Path, pipeline) -> None:
    variants = [Variant(model=str(folder), scheduler="flow-euler", steps=3, guidance=5.0) for folder in (dit, without_t5)]
    for variant in variants:
        engine.load(variant)
    futures = engine.submit_all([Job(variant=variant, prompt="a red heart", seed=4) for variant in variants])
    with_t5, without = [future.result(60).rgb.astype(int) for future in futures]
    held = pipeline.text_encoder_3
    pipeline.text_encoder_3 = None
    try:
        expected = draw(pipeline, "a red heart", 4, num_inference_steps=3, guidance_scale=5.0)
    finally:
        pipeline.text_encoder_3 = held
    assert np.abs(without - expected).max() <= 1 < np.abs(without - with_t5).max()


def test_t5_tokens_are_those_of_transformers(dit: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs, model = AutoTokenizer.from_pretrained(dit / "tokenizer_3"), open_model(str(dit), tmp_path)
    ours = open_tokenizers(model)["text_encoder_3"]
    for text in ("", "a red cat", "  pizza,\n\tpizza ", "Ärger über 2024", "a smiling woman " * 100):
        expected = theirs(text, padding="max_length", max_length=256, truncation=True)["input_ids"]
        assert ours(text).tolist() == expected
    (folder := shutil.copytree(dit, tmp_path / "copy")).joinpath("tokenizer_3/tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer_3/tokenizer\.json: is missing, and spiece\.model alone is not read"):
        open_tokenizers(open_model(str(folder), tmp_path))


def test_what_does_not_suit_a_transformer_is_refused(engine: LocalEngine, dit: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'FlowMatchEulerDiscreteScheduler; set scheduler = "flow-euler"'):
        engine.load(Variant(model=str(dit)))
    model = open_model(str(dit), tmp_path)
    assert (at_size(model, "96x8").width, at_size(model, "96x8").height) == (96, 8)
    # a patch is 2 x 2 latent pixels of 4 x 4 pixels, and the transformer knows 12 patches a side
    with pytest.raises(ModelError, match="the width 104 is not a multiple of 8 between 8 and 96; 96 would be"):
        at_size(model, "104x32")
    with pytest.raises(ModelError, match="the height 36 is not a multiple of 8"):
        at_size(model, "32x36")
