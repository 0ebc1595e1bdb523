"""One adaptor for what a diffusion model predicts: noise, velocity or flow, to clean picture and noise.

Everywhere x_t = signal * x0 + noise_level * eps: `signal` is sqrt(alphas_cumprod) for variance-preserving schedules
and 1 - sigma for flows, `noise_level` is sqrt(1 - alphas_cumprod) or sigma.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

Prediction = Literal["epsilon", "v_prediction", "flow"]


class Estimate(NamedTuple):
    """What a prediction says of the clean picture and of the noise, each shaped as x_t."""

    clean: torch.Tensor
    noise: torch.Tensor


def mix(clean: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
    """The noisy x_t. `signal` and `noise_level` are [n] and broadcast over the other axes."""
    return _wide(signal, clean) * clean + _wide(noise_level, clean) * noise


def target(kind: Prediction, clean: torch.Tensor, noise: torch.Tensor, signal: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
    """What a perfect model would answer: eps; v = signal eps - noise_level x0 (Salimans & Ho 2022, §4); or u = eps - x0."""
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return _wide(signal, clean) * noise - _wide(noise_level, clean) * clean
    return noise - clean


def estimate(kind: Prediction, noisy: torch.Tensor, output: torch.Tensor, signal: torch.Tensor, noise_level: torch.Tensor) -> Estimate:
    """(x_t, t, output) to (x0, eps). With `epsilon`, `signal` must be above 0: no picture is left at zero signal."""
    a, s = _wide(signal, noisy), _wide(noise_level, noisy)
    if kind == "epsilon":
        return Estimate((noisy - s * output) / a, output)
    if kind == "v_prediction":
        return Estimate(a * noisy - s * output, s * noisy + a * output)
    return Estimate(noisy - s * output, noisy + a * output)


class NoiseSchedule:
    """The noise levels that a model was trained with: `signal`, `noise_level` and `timestep` are float [levels]."""

    def __init__(self, kind: Prediction, signal: torch.Tensor, noise_level: torch.Tensor, timestep: torch.Tensor) -> None:
        self.kind, self.signal, self.noise_level, self.timestep = kind, signal, noise_level, timestep

    def __len__(self) -> int:
        return len(self.signal)

    @classmethod
    def read(cls, folder: Path) -> "NoiseSchedule":
        """From a diffusers `scheduler/` folder. Raises ValueError for a prediction type that is not known."""
        return cls.of(json.loads((folder / "scheduler_config.json").read_text("utf-8")), str(folder))

    @classmethod
    def of(cls, config: dict[str, Any], where: str = "scheduler") -> "NoiseSchedule":
        """From a diffusers scheduler configuration. Raises ValueError for a prediction type that is not known."""
        if "Flow" in str(config.get("_class_name", "")):
            count, shift = int(config.get("num_train_timesteps", 1000)), float(config.get("shift", 1.0))
            sigma = torch.arange(1, count + 1, dtype=torch.float64) / count
            sigma = shift * sigma / (1 + (shift - 1) * sigma)
            return cls("flow", (1 - sigma).float(), sigma.float(), (sigma * count).float())
        from diffusers import DDIMScheduler

        kind = config.get("prediction_type", "epsilon")
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"{where}: prediction_type is {kind!r}; a round can train epsilon, v_prediction and flow-matching models")
        alphas = DDIMScheduler.from_config(config).alphas_cumprod.double()
        return cls(kind, alphas.sqrt().float(), (1 - alphas).sqrt().float(), torch.arange(len(alphas), dtype=torch.float32))


def _wide(coefficient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return coefficient.reshape(-1, *[1] * (like.dim() - 1))
