"""The forward-process loop: no sampling, only noise on logged pictures. One process, fp32, resumable, bounded in time."""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from finetune import lora
from finetune.batches import Batch, Batches, TrainingSet
from finetune.disk import replace_file
from finetune.losses.dpo import dpo
from finetune.losses.kto import kto
from finetune.losses.rwr import rwr
from finetune.losses.weighted import self_normalised_mean
from finetune.model import DiffusionModel
from finetune.parameterization import mix, target
from finetune.propensity import class_weights
from finetune.training import Progress, Training

_MEASURED_STEPS = 3


class Trained(msgspec.Struct):
    """The LoRA and the log of its making."""

    adapter: lora.Adapter
    log: list[Progress]


def train(
    model: DiffusionModel, data: TrainingSet, settings: Training, checkpoint: Path, say: Callable[[Progress], None] = lambda _: None
) -> Trained:
    """Train one LoRA; goes on from `checkpoint` when it holds the same settings and data. The UNet is left as it was.

    Every batch depends on seed and step alone, so a training that was killed ends with the same weights.
    Raises ValueError when the data cannot feed the loss.
    """
    torch.set_num_threads(settings.threads)
    batches = Batches(
        data, settings.loss, settings.batch, settings.liked_share, settings.empty_prompt_share, settings.seed, settings.temperature
    )
    weights = lora.put_on(model.unet, settings.rank, settings.seed)
    try:
        return _Run(model, data, settings, weights, checkpoint).go(batches, say)
    finally:
        lora.take_off(model.unet)


class _Run:
    """One training in flight: weights, optimiser, step, and the time spent before a kill."""

    def __init__(
        self, model: DiffusionModel, data: TrainingSet, settings: Training, weights: dict[str, torch.nn.Parameter], checkpoint: Path
    ) -> None:
        self.model, self.settings, self.weights, self.checkpoint = model, settings, weights, checkpoint
        self.optimiser = torch.optim.AdamW(weights.values(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
        self.text = model.embed([*data.prompts, ""])
        self.beta = settings.beta_sum * data.latents[0].numel()
        self.fingerprint = _fingerprint(settings, data)
        self.step, self.steps, self.spent, self.log = 0, settings.steps, 0.0, list[Progress]()
        self._resume()

    def go(self, batches: Batches, say: Callable[[Progress], None]) -> Trained:
        started, saved = time.monotonic() - self.spent, time.monotonic()
        first = self.step
        while self.step < self.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = self.settings.learning_rate * self._pace()
            noted = self._one(batches.draw(self.step))
            self.step, self.spent = self.step + 1, time.monotonic() - started
            self.log.append(msgspec.structs.replace(noted, step=self.step, steps=self.steps, seconds=round(self.spent, 3)))
            if self.step == first + _MEASURED_STEPS == _MEASURED_STEPS and self.settings.max_seconds:
                self.steps = min(self.steps, max(self.step, int(self.settings.max_seconds / (self.spent / self.step))))
            if self.settings.max_seconds and self.spent > 1.25 * self.settings.max_seconds:
                self.steps = self.step
            say(self.log[-1])
            if time.monotonic() - saved >= self.settings.checkpoint_seconds or self.step == self.steps:
                self._save()
                saved = time.monotonic()
        return Trained(lora.of(self.model.unet), self.log)

    def _pace(self) -> float:
        """Linear warm-up, then a cosine to a tenth."""
        warm = min(1.0, (self.step + 1) / (self.settings.warm_up_steps + 1))
        return warm * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * self.step / max(1, self.steps))))

    def _errors(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Squared error of model and reference, [n] each, at the same t and noise."""
        schedule, unet = self.model.schedule, self.model.unet
        level = (batch.level * len(schedule)).long().clamp(max=len(schedule) - 1)
        signal, noise_level = schedule.signal[level], schedule.noise_level[level]
        noisy = mix(batch.latents, batch.noise, signal, noise_level)
        goal = target(schedule.kind, batch.latents, batch.noise, signal, noise_level)
        inputs = (noisy, schedule.timestep[level])
        text = self.text[batch.prompt]
        with torch.no_grad():
            unet.disable_adapters()
            try:
                reference = (unet(*inputs, encoder_hidden_states=text).sample - goal).square().flatten(1).mean(1)
            finally:
                unet.enable_adapters()
        error = (unet(*inputs, encoder_hidden_states=text).sample - goal).square().flatten(1).mean(1)
        return error, reference

    def _one(self, batch: Batch) -> Progress:
        error, reference = self._errors(batch)
        value = self._loss(batch, error, reference)
        self.optimiser.zero_grad()
        value.backward()
        frozen = [name for name, p in self.weights.items() if p.grad is None]
        if frozen:
            raise RuntimeError(f"{len(frozen)} LoRA weights got no gradient (first: {frozen[0]}); the adapter is not active")
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.settings.gradient_norm)
        if not torch.isfinite(norm):
            raise ArithmeticError(
                f"the gradient is {norm.item()} at step {self.step}; lower learning_rate ({self.settings.learning_rate:g})"
            )
        self.optimiser.step()
        gained = (reference - error).detach()
        return Progress(
            loss=self.settings.loss, step=self.step, steps=self.steps, seconds=0.0, value=value.item(),
            gained_liked=_mean(gained[batch.liked]), gained_unliked=_mean(gained[~batch.liked]),
        )  # fmt: skip

    def _loss(self, batch: Batch, error: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        if self.settings.loss == "rwr":
            return self_normalised_mean(rwr(error, batch.share, batch.group_size), batch.weight)
        if self.settings.loss == "dpo":
            (winner, loser), (winner_reference, loser_reference) = error.chunk(2), reference.chunk(2)
            terms = dpo(winner, winner_reference, loser, loser_reference, beta=self.beta, click_noise=self.settings.click_noise)
            return self_normalised_mean(terms.losses, batch.weight[: len(winner)])
        mass_liked, mass_unliked = batch.weight[batch.liked].sum().item(), batch.weight[~batch.liked].sum().item()
        liked, unliked = class_weights(mass_liked, mass_unliked)
        kto_terms = kto(error, reference, batch.liked, beta=self.beta, weight_liked=liked, weight_unliked=unliked)
        return self_normalised_mean(kto_terms.losses, batch.weight)

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        if state["fingerprint"] != self.fingerprint:
            return
        with torch.no_grad():
            for name, parameter in self.weights.items():
                parameter.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.steps, self.spent = state["step"], state["steps"], state["spent"]
        self.log = msgspec.json.decode(state["log"], type=list[Progress])

    def _save(self) -> None:
        state = {
            "fingerprint": self.fingerprint,
            "weights": {name: p.detach() for name, p in self.weights.items()},
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "spent": self.spent,
            "log": msgspec.json.encode(self.log).decode(),
        }
        with replace_file(self.checkpoint) as fresh:
            torch.save(state, fresh)


def _fingerprint(settings: Training, data: TrainingSet) -> str:
    steady = msgspec.structs.replace(settings, threads=1, checkpoint_seconds=0.0)
    digest = hashlib.sha256(msgspec.json.encode(steady))
    digest.update(msgspec.json.encode(data.prompts))
    columns: list[NDArray[Any]] = [data.latents.numpy(), data.prompt, data.liked, data.weight]
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _mean(values: torch.Tensor) -> float:
    return values.mean().item() if len(values) else 0.0
