"""The coefficient tables against diffusers' own schedulers, and by hand where those do otherwise."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import ModelError
from serving.samplers import SchedulerConfig, alphas_cumprod, table

CLASSES = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler"}
PACKAGED = SchedulerConfig(
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    steps_offset=1,
)
SD15 = SchedulerConfig(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False
)


def model(x: np.ndarray, t: float) -> np.ndarray:
    """A smooth stand-in for a UNet, so that an error in one step shows in all later ones."""
    return (np.tanh(1.3 * x + 0.1) + 0.01 * np.sin(t / 100) * x).astype(np.float32)


def ours(config: SchedulerConfig, scheduler, steps: int, noise: np.ndarray) -> np.ndarray:
    t = table(config, scheduler, steps)
    x, before = noise * np.float32(t.start), np.zeros_like(noise)
    for i in range(steps):
        estimate = t.p[i] * x + t.q[i] * model(x, float(t.timesteps[i]))
        x, before = t.a[i] * x + t.b[i] * estimate + t.c[i] * before, estimate
    return x


def theirs(config: SchedulerConfig, scheduler: str, steps: int, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import diffusers
    import torch

    known = {key: value for key, value in msgspec.structs.asdict(config).items() if value is not None}
    given = known | ({"clip_sample": False} if scheduler == "ddim" else {})
    schedule = getattr(diffusers, CLASSES[scheduler]).from_config(given)
    schedule.set_timesteps(steps)
    x = torch.from_numpy(noise) * schedule.init_noise_sigma
    for t in schedule.timesteps:
        output = model(schedule.scale_model_input(x, t).numpy(), float(t))
        x = schedule.step(torch.from_numpy(output), t, x).prev_sample
    return x.numpy(), schedule.timesteps.numpy()


CONFIGS = [PACKAGED, SD15] + [
    msgspec.structs.replace(SD15, beta_schedule=beta, prediction_type=kind, timestep_spacing=spacing, rescale_betas_zero_snr=zero)
    for beta, kind, spacing, zero in itertools.product(
        ["linear", "squaredcos_cap_v2"], ["epsilon", "v_prediction"], ["leading", "trailing", "linspace", None], [False, True]
    )
    if not (zero and kind == "epsilon")
]


@pytest.mark.parametrize("scheduler", CLASSES)
@pytest.mark.parametrize("steps", [1, 4, 10, 20, 25])
def test_tables_are_the_schedulers_of_diffusers(scheduler, steps) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    for config in CONFIGS:
        if scheduler == "ddim" and (
            config.timestep_spacing == "linspace" or (not config.set_alpha_to_one and config.timestep_spacing != "leading")
        ):
            continue  # there diffusers steps to t - N // steps, which is not on its own list: next test
        expected, timesteps = theirs(config, scheduler, steps, noise)
        got = ours(config, scheduler, steps, noise)
        assert np.allclose(table(config, scheduler, steps).timesteps, timesteps, atol=1e-3), config
        # diffusers' Euler rounds x of several thousand to fp32 where the terminal SNR is (almost) zero
        tolerance = 1e-2 if scheduler == "euler" and config.beta_schedule == "squaredcos_cap_v2" else 6e-4
        assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max(), config
    assert np.abs(ours(PACKAGED, "ddim", steps, noise) - theirs(PACKAGED, "ddim", steps, noise)[0]).max() < 1e-4


@pytest.mark.parametrize("steps", [7, 12, 30])
def test_ddim_steps_to_the_next_of_its_own_timesteps(steps) -> None:
    """Independent: DDIM by eq. 12 of Song et al., for steps that do not divide 1000, where t - 1000 // steps is off the list."""
    noise = np.random.default_rng(1).standard_normal((1, 4, 4, 4)).astype(np.float32)
    alphas = alphas_cumprod(PACKAGED)
    timesteps = [round(1000 - i * 1000 / steps) - 1 for i in range(steps)]
    x = noise.astype(np.float64)
    for t, then in zip(timesteps, [*timesteps[1:], None], strict=True):
        a, b = alphas[t], 1.0 if then is None else alphas[then]
        v = model(x.astype(np.float32), t)
        clean, noisy = a**0.5 * x - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * x
        x = b**0.5 * clean + (1 - b) ** 0.5 * noisy
    assert np.abs(ours(PACKAGED, "ddim", steps, noise) - x).max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(CLASSES)), st.integers(1, 200), st.sampled_from([PACKAGED, SD15]))
def test_a_model_that_knows_the_clean_latent_is_followed_exactly(scheduler, steps, config) -> None:
    """With the true noise predicted from any x, every sampler must land on x0 at sigma 0, whatever the steps."""
    rng = np.random.default_rng(steps)
    clean = rng.standard_normal((4, 2, 2))
    t = table(msgspec.structs.replace(config, set_alpha_to_one=True), scheduler, steps)
    x, before = rng.standard_normal((4, 2, 2)) * t.start, np.zeros((4, 2, 2))
    for i in range(steps):
        output = (clean - t.p[i] * x) / t.q[i]
        estimate = t.p[i] * x + t.q[i] * output
        x, before = t.a[i] * x + t.b[i] * estimate + t.c[i] * before, estimate
    assert np.abs(x - clean).max() < 1e-3


def test_what_cannot_be_sampled_is_refused() -> None:
    zero_snr_epsilon = msgspec.structs.replace(PACKAGED, prediction_type="epsilon")
    with pytest.raises(ModelError, match="divides by zero"):
        table(zero_snr_epsilon, "ddim", 10)
    with pytest.raises(ModelError, match="steps: 1001 is not between 1 and"):
        table(SD15, "ddim", 1001)
    with pytest.raises(ModelError, match="use_karras_sigmas"):
        table(msgspec.structs.replace(SD15, use_karras_sigmas=True), "euler", 10)
