import pytest
import torch

from finetune.parameterization import NoiseSchedule, estimate, mix, target


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(3)
    return torch.randn(5, 4, 3, 3, generator=rng, dtype=torch.float64), torch.randn(5, 4, 3, 3, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_perfect_outputs_give_back_picture_and_noise(kind, pair):
    clean, noise = pair
    level = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.99], dtype=torch.float64)
    signal = 1 - level if kind == "flow" else (1 - level**2).sqrt()
    found = estimate(kind, mix(clean, noise, signal, level), target(kind, clean, noise, signal, level), signal, level)
    assert (found.clean - clean).abs().max() < 1e-6
    assert (found.noise - noise).abs().max() < 1e-6


def test_epsilon_and_velocity_agree_on_one_prediction(pair):
    clean, noise = pair
    level = torch.full((5,), 0.6, dtype=torch.float64)
    signal = (1 - level**2).sqrt()
    noisy, wrong = mix(clean, noise, signal, level), noise + 0.1
    by_noise = estimate("epsilon", noisy, wrong, signal, level)
    velocity = signal[0] * by_noise.noise - level[0] * by_noise.clean
    by_velocity = estimate("v_prediction", noisy, velocity, signal, level)
    assert (by_noise.clean - by_velocity.clean).abs().max() < 1e-6


def test_schedule_reads_diffusers_and_refuses_what_it_cannot_train():
    read = NoiseSchedule.of(
        {"_class_name": "DDIMScheduler", "num_train_timesteps": 100, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    )
    assert read.kind == "v_prediction" and len(read) == 100
    assert read.signal[-1].item() == pytest.approx(0.0, abs=1e-3)
    assert torch.allclose(read.signal**2 + read.noise_level**2, torch.ones(100), atol=1e-6)
    flow = NoiseSchedule.of({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 10, "shift": 3.0})
    assert flow.kind == "flow" and flow.timestep[-1].item() == pytest.approx(10.0)
    with pytest.raises(ValueError, match="'sample'"):
        NoiseSchedule.of({"_class_name": "DDIMScheduler", "prediction_type": "sample"})
