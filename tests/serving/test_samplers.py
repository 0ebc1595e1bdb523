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

    # what diffusers knows: by the names in the file, without what only flow matching has
    known = {key: value for key, value in msgspec.to_builtins(config).items() if value is not None and key != "_class_name"}
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


def _flow(**told: object) -> SchedulerConfig:
    return msgspec.convert({"_class_name": "FlowMatchEulerDiscreteScheduler", **told}, SchedulerConfig)


@pytest.mark.parametrize("steps", [1, 2, 7, 28, 50])
@pytest.mark.parametrize("told", [{}, {"shift": 3.0}, {"shift": 0.5, "num_train_timesteps": 500}])
def test_flow_matching_is_that_of_diffusers(steps: int, told: dict) -> None:
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    noise = np.random.default_rng(2).standard_normal((1, 4, 6, 6)).astype(np.float32)
    schedule = FlowMatchEulerDiscreteScheduler(**told)
    schedule.set_timesteps(steps)
    x = torch.from_numpy(noise)
    for t in schedule.timesteps:
        x = schedule.step(torch.from_numpy(model(x.numpy(), float(t))), t, x).prev_sample
    assert np.allclose(table(_flow(**told), "flow-euler", steps).timesteps, schedule.timesteps.numpy(), rtol=1e-5)
    assert np.abs(ours(_flow(**told), "flow-euler", steps, noise) - x.numpy()).max() <= 1e-5 * np.abs(x.numpy()).max()


def test_flow_matching_by_hand() -> None:
    """Shift 3 of a schedule of 1000: the last sigma is shifted twice, 3 * (1/1000) / (1 + 2/1000), and again."""
    once = 3 / 1000 / (1 + 2 / 1000)
    t = table(_flow(shift=3.0), "flow-euler", 2)
    assert t.timesteps.tolist() == pytest.approx([1000, 1000 * 3 * once / (1 + 2 * once)])
    assert t.a.tolist() == pytest.approx([3 * once / (1 + 2 * once), 0]) and t.b.tolist() == pytest.approx([1 - t.a[0], 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.floats(0.2, 12))
def test_a_straight_flow_lands_on_the_image_whatever_the_steps(steps: int, shift: float) -> None:
    """Where the velocity is noise - image along the whole way, Euler's method is exact."""
    rng = np.random.default_rng(steps)
    clean, x = rng.standard_normal((2, 4, 2, 2))
    velocity, before = x - clean, np.zeros_like(clean)
    t = table(_flow(shift=shift), "flow-euler", steps)
    for i in range(steps):
        estimate = t.p[i] * x + t.q[i] * velocity
        x, before = t.a[i] * x + t.b[i] * estimate + t.c[i] * before, estimate
    assert np.abs(x - clean).max() < 1e-4


@pytest.mark.parametrize(
    ("told", "scheduler", "match"),
    [
        ({}, "ddim", 'is a FlowMatchEulerDiscreteScheduler; set scheduler = "flow-euler"'),
        ({"_class_name": "DDIMScheduler"}, "flow-euler", 'is a DDIMScheduler; set scheduler = "ddim"'),
        ({"_class_name": "EDMEulerScheduler"}, "euler", "EDMEulerScheduler is not served"),
        ({"use_dynamic_shifting": True}, "flow-euler", "use_dynamic_shifting is True, which is not served"),
        ({"shift_terminal": 0.1}, "flow-euler", "shift_terminal is 0.1"),
        ({"use_karras_sigmas": True}, "flow-euler", "use_karras_sigmas"),
        ({"shift": -1.0}, "flow-euler", "shift is -1; it must be above 0"),
    ],
)
def test_a_schedule_of_the_other_kind_is_refused(told: dict, scheduler, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        table(_flow(**told), scheduler, 4)


def test_what_cannot_be_sampled_is_refused() -> None:
    zero_snr_epsilon = msgspec.structs.replace(PACKAGED, prediction_type="epsilon")
    with pytest.raises(ModelError, match="divides by zero"):
        table(zero_snr_epsilon, "ddim", 10)
    with pytest.raises(ModelError, match="steps: 1001 is not between 1 and"):
        table(SD15, "ddim", 1001)
    with pytest.raises(ModelError, match="use_karras_sigmas"):
        table(msgspec.structs.replace(SD15, use_karras_sigmas=True), "euler", 10)
