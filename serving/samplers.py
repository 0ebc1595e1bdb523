"""DDIM, Euler, DPM++ 2M and flow-matching Euler as tables of coefficients: rows of different samplers and steps share one update.

With model output m, every deterministic step of the four is linear:
    x0' = p x + q m                 the model's estimate of the clean latent
    x   = a x + b x0' + c x0        x0: the estimate of the step before
Tables are calculated in fp64, the update is fp32. As in Stable Diffusion pipelines the estimate is never clipped.
"""

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.errors import ModelError
from serving.variant import Scheduler

Floats = NDArray[np.float64]
Latents = NDArray[np.float32]
_SPACING_WHEN_UNSAID = {"ddim": "leading", "euler": "linspace", "dpm++": "linspace"}
# the fp16 number next to zero stands for a terminal SNR of zero where sigma = sqrt((1 - a) / a) must be finite
_ALMOST_ZERO = 2.0**-24


class SchedulerConfig(msgspec.Struct, frozen=True):
    """The part of `scheduler_config.json` that decides the pixels.

    The class named in it says only whether the model was trained by flow matching: the variant's scheduler draws.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: Literal["leading", "trailing", "linspace"] | None = None
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    class_name: str = msgspec.field(default="", name="_class_name")
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    shift_terminal: float | None = None
    invert_sigmas: bool = False
    stochastic_sampling: bool = False

    @property
    def flow(self) -> bool:
        """Trained by flow matching, with velocities from the image to the noise as its output?"""
        return self.class_name.startswith("FlowMatch")


class Table(msgspec.Struct, frozen=True):
    """One sampler at one number of steps: arrays of shape [steps], but `start`, the deviation of the initial noise."""

    start: float
    timesteps: Latents
    p: Latents
    q: Latents
    a: Latents
    b: Latents
    c: Latents

    @property
    def steps(self) -> int:
        return len(self.timesteps)


def alphas_cumprod(config: SchedulerConfig) -> Floats:
    """The product of 1 - beta, shape [num_train_timesteps], as diffusers' schedulers define it.

    `squaredcos_cap_v2` is Nichol and Dhariwal 2021, eq. 17, with betas capped at 0.999; `rescale_betas_zero_snr` is
    Lin et al. 2024 (2305.08891), algorithm 1.
    """
    n = config.num_train_timesteps
    betas: Floats
    if config.trained_betas is not None:
        betas = np.array(config.trained_betas, np.float64)
    elif config.beta_schedule == "linear":
        betas = np.linspace(config.beta_start, config.beta_end, n)
    elif config.beta_schedule == "scaled_linear":
        betas = np.square(np.linspace(config.beta_start**0.5, config.beta_end**0.5, n))
    else:
        bar: Floats = np.square(np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2))
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    product: Floats = np.cumprod(1.0 - betas, dtype=np.float64)
    if config.rescale_betas_zero_snr:
        root = np.sqrt(product)
        product = np.square((root - root[-1]) * root[0] / (root[0] - root[-1]))
    return product


def usual(config: SchedulerConfig) -> Scheduler:
    """A scheduler that the model can be sampled with."""
    return "flow-euler" if config.flow else "ddim"


def table(config: SchedulerConfig, scheduler: Scheduler, steps: int) -> Table:
    """The coefficients of `scheduler` at `steps`. Raises ModelError when the model's schedule cannot be sampled so."""
    _check(config, scheduler, steps)
    with np.errstate(all="ignore"):
        if scheduler == "flow-euler":
            result = _flow_euler(config, steps)
        else:
            made = {"ddim": _ddim, "euler": _euler, "dpm++": _dpm}[scheduler]
            result = made(config, alphas_cumprod(config), steps, config.timestep_spacing or _SPACING_WHEN_UNSAID[scheduler])
    if not all(np.isfinite(column).all() for column in (result.p, result.q, result.a, result.b, result.c)):
        raise ModelError(
            f"scheduler {scheduler} with {steps} steps divides by zero on this model's schedule (prediction_type "
            f"{config.prediction_type}, rescale_betas_zero_snr {config.rescale_betas_zero_snr}); use fewer steps or another scheduler"
        )
    return result


def _check(config: SchedulerConfig, scheduler: Scheduler, steps: int) -> None:
    told = "scheduler_config.json"
    if config.flow != (scheduler == "flow-euler"):
        fix = 'set scheduler = "flow-euler"' if config.flow else 'set scheduler = "ddim", "euler" or "dpm++"'
        raise ModelError(f"scheduler {scheduler!r}: the model's {told} is a {config.class_name or 'diffusion scheduler'}; {fix}")
    if config.class_name.startswith("EDM"):
        raise ModelError(f"{told}: {config.class_name} is not served; only models with a schedule of betas, or of flow matching, are")
    if config.use_karras_sigmas or config.use_exponential_sigmas or config.use_beta_sigmas:
        raise ModelError(f"{told}: use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas are not served; set them to false")
    for name in ("use_dynamic_shifting", "shift_terminal", "invert_sigmas", "stochastic_sampling"):
        if config.flow and getattr(config, name):
            raise ModelError(f"{told}: {name} is {getattr(config, name)!r}, which is not served; only a fixed shift is")
    if config.flow and not config.shift > 0:
        raise ModelError(f"{told}: shift is {config.shift:g}; it must be above 0")
    if not 1 <= steps <= config.num_train_timesteps:
        raise ModelError(f"steps: {steps} is not between 1 and the model's num_train_timesteps, {config.num_train_timesteps}")


def _estimate(config: SchedulerConfig, signal: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """p and q for x = signal * x0 + noise * eps; v = signal * eps - noise * x0 (Salimans and Ho 2022)."""
    if config.prediction_type == "epsilon":
        return 1 / signal, -noise / signal
    if config.prediction_type == "v_prediction":
        return signal, -noise
    return np.zeros_like(signal), np.ones_like(signal)


def _ddim(config: SchedulerConfig, alphas: Floats, steps: int, spacing: str) -> Table:
    """Song et al. 2021, eq. 12 with eta = 0. The next timestep is the next of the list, not t - N / steps."""
    n = config.num_train_timesteps
    if spacing == "linspace":
        timesteps = np.linspace(0, n - 1, steps).round()[::-1]
    else:
        timesteps = _leading(n // steps, steps, config.steps_offset) if spacing == "leading" else _trailing(n, steps)
    # with an offset, as many steps as training timesteps would begin after the last
    now = alphas[np.minimum(timesteps, n - 1).astype(int)]
    then = np.append(now, 1.0 if config.set_alpha_to_one else alphas[0])
    return _deterministic(config, 1.0, timesteps, np.sqrt(then), np.sqrt(1 - then))


def _deterministic(config: SchedulerConfig, start: float, timesteps: Floats, signal: Floats, noise: Floats) -> Table:
    """Keep the predicted noise, change its share: from x = signal x0 + noise eps to the next signal and noise."""
    a = noise[1:] / noise[:-1]
    return _table(start, timesteps, *_estimate(config, signal[:-1], noise[:-1]), a, signal[1:] - a * signal[:-1], np.zeros_like(a))


def _euler(config: SchedulerConfig, alphas: Floats, steps: int, spacing: str) -> Table:
    """Karras et al. 2022, algorithm 1 without its second order.

    Written for x / sqrt(sigma² + 1), which is what the model sees: there an Euler step in sigma is DDIM's own
    between sigmas, and fp32 does not suffer from sigmas of several thousand.
    """
    n = config.num_train_timesteps
    if spacing == "linspace":
        timesteps = np.linspace(0, n - 1, steps)[::-1]
    else:
        timesteps = _leading(n // steps, steps, config.steps_offset) if spacing == "leading" else _trailing(n, steps)
    signal, noise = _signal_and_noise(config, alphas, timesteps)
    # diffusers scales the first noise by sigma, or for leading by sqrt(sigma² + 1)
    start = 1.0 if spacing == "leading" else float(noise[0])
    return _deterministic(config, start, timesteps, signal, noise)


def _dpm(config: SchedulerConfig, alphas: Floats, steps: int, spacing: str) -> Table:
    """DPM-Solver++(2M), Lu et al. 2022 (2211.01095), algorithm 2; the first and the last step are of first order."""
    n = config.num_train_timesteps
    if spacing == "linspace":
        timesteps = np.linspace(0, n - 1, steps + 1).round()[::-1][:-1]
    elif spacing == "leading":
        ratio = n // (steps + 1)
        timesteps = _leading(ratio, steps, config.steps_offset) + ratio
    else:
        timesteps = _trailing(n, steps)
    signal, noise = _signal_and_noise(config, alphas, timesteps)
    logsnr = np.log(signal) - np.log(noise)
    h = np.diff(logsnr)
    # written as in the paper, alpha (1 - e^-h); at the last step h is infinite
    gain = signal[1:] * -np.expm1(-h)
    second = np.zeros(steps)
    second[1:-1] = 0.5 * h[1:-1] / h[:-2]  # 1 / (2 r) of the paper
    p, q = _estimate(config, signal[:-1], noise[:-1])
    return _table(1.0, timesteps, p, q, noise[1:] / noise[:-1], gain * (1 + second), -gain * second)


def _flow_euler(config: SchedulerConfig, steps: int) -> Table:
    """Euler's method for x = (1 - sigma) x0 + sigma noise and m = noise - x0 (Lipman et al. 2023; Esser et al. 2024, section 3).

    Sigmas are even between the ends of the shifted training schedule, then shifted (again), as diffusers'
    FlowMatchEulerDiscreteScheduler has it; the shift is Esser et al.'s eq. 23.
    """
    n = config.num_train_timesteps
    ends = _shifted(config.shift, np.array([1.0, 1 / n]))
    sigma = np.append(_shifted(config.shift, np.linspace(ends[0], ends[1], steps)), 0.0)
    a = sigma[1:] / sigma[:-1]
    return _table(1.0, n * sigma[:-1], np.ones(steps), -sigma[:-1], a, 1 - a, np.zeros(steps))


def _shifted(shift: float, sigma: Floats) -> Floats:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _leading(ratio: int, steps: int, offset: int) -> Floats:
    leading: Floats = np.arange(steps, dtype=np.float64)[::-1] * ratio + offset
    return leading


def _trailing(n: int, steps: int) -> Floats:
    trailing: Floats = np.round(n - np.arange(steps) * (n / steps)) - 1
    return trailing


def _signal_and_noise(config: SchedulerConfig, alphas: Floats, timesteps: Floats) -> tuple[Floats, Floats]:
    """sqrt(a) and sqrt(1 - a) by sigma interpolated at `timesteps`, then 1 and 0: shape [steps + 1] each."""
    if config.rescale_betas_zero_snr:
        alphas = np.append(alphas[:-1], _ALMOST_ZERO)
    sigmas = np.sqrt((1 - alphas) / alphas)
    sigma = np.append(np.interp(timesteps, np.arange(len(sigmas)), sigmas), 0.0)
    return 1 / np.sqrt(sigma**2 + 1), sigma / np.sqrt(sigma**2 + 1)


def _table(start: float, *columns: Floats) -> Table:
    rounded: list[Any] = [np.ascontiguousarray(column, np.float32) for column in columns]
    return Table(start, *rounded)
