import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import lora
from finetune.batches import Batches, TrainingSet, pairs
from finetune.model import DiffusionModel
from finetune.parameterization import estimate, mix
from finetune.trainer import train
from finetune.training import Training
from serving.errors import ModelError


@pytest.fixture
def model(nano_folder):
    return DiffusionModel.read(nano_folder)


def planted(n=160, seed=0):
    """People like pictures whose first latent channel is high: 80 % of those above 0, 10 % of the others."""
    rng = np.random.default_rng(seed)
    latents = torch.from_numpy(rng.normal(0, 0.6, (n, 4, 8, 8)).astype(np.float32))
    bright = rng.random(n) < 0.5
    latents[:, 0] += torch.from_numpy(np.where(bright, 1.0, -1.0).astype(np.float32))[:, None, None]
    liked = rng.random(n) < np.where(bright, 0.8, 0.1)
    prompt = rng.integers(0, 8, n)
    return TrainingSet(latents, [f"a {c}" for c in "bcdefghi"], prompt, np.arange(n) // 4, liked, np.ones(n))


def guessed_brightness(model, data):
    """Mean first channel of the clean picture that the model sees in pure-ish noise."""
    rng = torch.Generator().manual_seed(9)
    level = torch.full((64,), 900)
    signal, noise_level = model.schedule.signal[level], model.schedule.noise_level[level]
    noisy = mix(data.latents[:64] * 0, torch.randn(64, 4, 8, 8, generator=rng), signal, noise_level)
    with torch.no_grad():
        out = model.unet(noisy, level.float(), encoder_hidden_states=model.embed(data.prompts)[data.prompt[:64]]).sample
    return estimate("v_prediction", noisy, out, signal, noise_level).clean[:, 0].mean().item()


@pytest.mark.parametrize("loss", ["kto", "rwr", "dpo"])
def test_a_planted_taste_moves_the_model_towards_it(model, loss, tmp_path):
    data = planted()
    before = guessed_brightness(model, data)
    found = train(model, data, Training(loss=loss, steps=40, batch=32, learning_rate=3e-3, beta_sum=0.3), tmp_path / "c.pt")
    assert guessed_brightness(model, data) == before
    lora.merge(model.unet, found.adapter)
    assert guessed_brightness(model, data) > before + 0.05
    tail = found.log[-10:]
    if loss != "rwr":
        assert sum(p.gained_liked - p.gained_unliked for p in tail) > 0


def test_a_killed_training_ends_with_the_same_weights(model, tmp_path):
    data, settings = planted(64), Training(steps=9, batch=8, checkpoint_seconds=0.0)
    whole = train(model, data, settings, tmp_path / "whole.pt")

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 4:
            raise Killed

    with pytest.raises(Killed):
        train(model, data, settings, tmp_path / "cut.pt", kill)
    steps = []
    resumed = train(model, data, settings, tmp_path / "cut.pt", lambda p: steps.append(p.step))
    assert steps[0] in (4, 5) and steps[-1] == 9
    assert [p.step for p in resumed.log] == list(range(1, 10))
    for name, (down, up) in whole.adapter.items():
        assert torch.equal(down, resumed.adapter[name][0]) and torch.equal(up, resumed.adapter[name][1])


def test_other_data_or_settings_do_not_resume(model, tmp_path):
    train(model, planted(64), Training(steps=3, batch=8, checkpoint_seconds=0.0), tmp_path / "c.pt")
    for data, settings in ((planted(64, seed=1), Training(steps=3, batch=8)), (planted(64), Training(steps=3, batch=8, seed=5))):
        steps = []
        train(model, data, settings, tmp_path / "c.pt", lambda p, steps=steps: steps.append(p.step))
        assert steps[0] == 1


def test_the_time_budget_shortens_the_training(model, tmp_path):
    found = train(model, planted(64), Training(steps=100_000, batch=8, max_seconds=1.0), tmp_path / "c.pt")
    assert 3 <= len(found.log) < 2000 and found.log[-1].step == found.log[-1].steps and found.log[-1].seconds < 2.5


def test_merged_adapter_answers_as_the_live_one(model, tmp_path):
    rng = torch.Generator().manual_seed(1)
    x, t, text = torch.randn(3, 4, 8, 8, generator=rng), torch.tensor([10.0, 400.0, 990.0]), model.embed(["a b", "c", ""])
    weights = lora.put_on(model.unet, 4, seed=2)
    with torch.no_grad():
        for p in weights.values():
            p.copy_(torch.randn(p.shape, generator=rng) * 0.1)
        live = model.unet(x, t, encoder_hidden_states=text).sample
        lora.write(lora.of(model.unet), tmp_path / "adapter")
        lora.take_off(model.unet)
        plain = model.unet(x, t, encoder_hidden_states=text).sample
        first = lora.read(tmp_path / "adapter")
        lora.merge(model.unet, first)
        merged = model.unet(x, t, encoder_hidden_states=text).sample
    assert (plain - live).abs().max() > 1e-2
    assert (merged - live).abs().max() < 1e-5


def test_stacked_adapters_do_what_both_do(model):
    rng = torch.Generator().manual_seed(1)
    shapes = {n: p.shape for n, p in lora.put_on(model.unet, 2, seed=2).items()}
    lora.take_off(model.unet)
    modules = sorted({n.split(".lora_")[0] for n in shapes})

    def draw():
        return {m: tuple(torch.randn(shapes[f"{m}.lora_{s}.default.weight"], generator=rng) * 0.1 for s in "AB") for m in modules}

    first, second = draw(), draw()
    both = lora.stacked(first, lora.scaled(second, 0.5))
    original = {m: model.unet.get_submodule(m).weight.clone() for m in modules}
    lora.merge(model.unet, both)
    at_once = {m: model.unet.get_submodule(m).weight.clone() for m in modules}
    for m in modules:
        model.unet.get_submodule(m).weight.data = original[m]
    lora.merge(model.unet, first)
    lora.merge(model.unet, lora.scaled(second, 0.5))
    for m in modules:
        assert torch.allclose(model.unet.get_submodule(m).weight, at_once[m], atol=1e-6)


def test_diffusers_reads_the_adapter_folder(model, nano_folder, tmp_path):
    from diffusers import StableDiffusionPipeline

    weights = lora.put_on(model.unet, 4, seed=2)
    with torch.no_grad():
        for p in weights.values():
            p.add_(0.05)
    lora.write(lora.of(model.unet), tmp_path / "adapter")
    lora.take_off(model.unet)
    lora.merge(model.unet, lora.read(tmp_path / "adapter"))
    pipe = StableDiffusionPipeline.from_pretrained(nano_folder, safety_checker=None)
    pipe.load_lora_weights(tmp_path / "adapter")
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([10.0, 400.0]), model.embed(["a b", "c"])
    with torch.no_grad():
        theirs, ours = (u(x, t, encoder_hidden_states=text).sample for u in (pipe.unet, model.unet))
    assert (theirs - ours).abs().max() < 1e-5


def test_adapters_of_other_models_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="another model"):
        lora.merge(model.unet, {"down_blocks.9.x": (torch.ones(1, 2), torch.ones(2, 1))})
    with pytest.raises(FileNotFoundError, match="pytorch_lora_weights"):
        lora.read(tmp_path)


def test_kto_batches_keep_a_fifth_of_negatives_even_when_all_but_one_like():
    data = planted(64)
    data.liked[:] = True
    data.liked[3] = False
    batch = Batches(data, "kto", 10, 0.8, 0.0, 0).draw(0)
    assert int((~batch.liked).sum()) == 2 and int(batch.liked.sum()) == 8


def test_pairs_share_noise_and_level_and_are_of_one_generation():
    data = planted(64)
    for winner, loser in pairs(data):
        assert data.liked[winner] and not data.liked[loser]
        alone = not any((~data.liked) & (data.generation == data.generation[winner]))
        assert data.generation[winner] == data.generation[loser] or (alone and data.prompt[winner] == data.prompt[loser])
    batch = Batches(data, "dpo", 8, 0.5, 0.0, 0).draw(2)
    for column in (batch.noise, batch.level):
        assert torch.equal(*column.chunk(2))


def test_one_sided_feedback_is_refused():
    data = planted(16)
    data.liked[:] = False
    with pytest.raises(ValueError, match="0 liked and 16 other"):
        Batches(data, "kto", 8, 0.5, 0.0, 0)


def test_another_layout_than_stable_diffusion_is_refused(nano_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(nano_folder, tmp_path / "xl")
    index = json.loads((other / "model_index.json").read_text())
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    (other / "model_index.json").write_text(json.dumps(index | second | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(ModelError, match=r"of the Stable Diffusion XL layout; a round trains Stable Diffusion 1\.x only"):
        DiffusionModel.read(other)
