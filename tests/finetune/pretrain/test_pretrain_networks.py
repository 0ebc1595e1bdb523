"""The packaged model's stages: latents of unit variance, one loss by hand, resuming, and what was shipped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.judge import Judge, Towers
from finetune.pretrain import autoencoder, diffusion
from finetune.pretrain.assemble import size_mb
from finetune.pretrain.measure import hue, wilson

MODEL = Path(__file__).parents[3] / "serving/models/emoji-64"


def test_folding_the_latents_statistics_changes_no_picture() -> None:
    torch.manual_seed(0)
    vae = autoencoder.build().eval()
    images = torch.rand(6, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mode()).sample
        latents = autoencoder.unit_latents(vae, images)
        again = vae.encode(images).latent_dist.mode()
        after = vae.decode(again).sample
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    assert torch.allclose(again, latents, atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_v_loss_of_a_perfect_guess_is_zero_and_of_a_zero_guess_is_the_weighted_power() -> None:
    """At alpha = 1/2: snr + 1 = 2, weight 1; v = (noise - x0) / sqrt 2, so a guess of 0 costs mean v^2."""
    alphas = torch.full((1000,), 0.5)
    x0, noise, t = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.tensor([3, 900])

    class Guess(torch.nn.Module):
        def __init__(self, answer: torch.Tensor) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            return type("Output", (), {"sample": self.answer})

    v = (noise - x0) / 2**0.5
    assert diffusion.v_loss(Guess(v), x0, noise, t, torch.zeros(2, 20, 128), alphas).item() == pytest.approx(0, abs=1e-10)
    zero = diffusion.v_loss(Guess(torch.zeros_like(x0)), x0, noise, t, torch.zeros(2, 20, 128), alphas)
    assert zero.item() == pytest.approx(v.pow(2).mean().item(), rel=1e-5)


def test_timesteps_are_stratified() -> None:
    t = diffusion.timesteps(10, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert [int(x) // 100 for x in t] == list(range(10))


def test_autoencoder_training_resumes_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after 2 of 4 steps and started again, it ends with the very weights of an uninterrupted run."""
    rgb = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    monkeypatch.setattr(autoencoder, "BATCH", 2)
    arguments = (0, 1, rgb)
    weights = {}
    for name, stops in (("whole", (4,)), ("halves", (2, 4))):
        for stop in stops:
            autoencoder.train(*arguments, tmp_path / name, torch.device("cpu"), 0, stop)
        weights[name] = torch.load(tmp_path / name / "autoencoder.pt", weights_only=True)["model"]
    assert all(torch.equal(weights["whole"][k], weights["halves"][k]) for k in weights["whole"])


def test_hue_and_wilson_by_hand() -> None:
    pure = np.zeros((1, 64, 64, 3), np.uint8)
    pure[..., 1] = 255
    degrees, strong = hue(pure)
    assert strong.all()
    assert abs(degrees - 120).max() < 1
    low, high = wilson(90, 100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


def test_the_judge_survives_a_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    judge = Judge(Towers(4), {"red": 1, "blue": 2, "heart": 3}, "")
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    rgb = np.random.default_rng(2).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    assert np.allclose(np.linalg.norm(again.image_features(rgb), axis=1), 1, atol=1e-5)
    assert np.allclose(again.text_features(["A red, HEART!"]), again.text_features(["red heart"]))
    assert np.abs(again.image_features(rgb) - judge.image_features(rgb)).max() < 5e-3
    assert again.digest.startswith("sha256:")


def test_the_shipped_model_is_small_and_whole() -> None:
    assert size_mb(MODEL) <= 25
    for part in ("model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae", "onnx", "README.md"):
        assert (MODEL / part).exists()
