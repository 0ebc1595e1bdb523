"""Slots: images in the making, and the step that moves those of one session forward together."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.lane import COMFORTABLE_AREA, Array, Session
from serving.samplers import Table


def initial_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal numbers by numpy's Philox 4x64 counter generator keyed by `seed` (its low 64 bits): the same on every machine."""
    return np.random.Generator(np.random.Philox(key=seed & (2**64 - 1))).standard_normal(shape, np.float32)


@dataclass(slots=True)
class Slot:
    """One image: latent `x` [c, h, w], the estimate before it, where it is in its table. Guidance up to 1 takes one row, else two."""

    session: Session
    table: Table
    guidance: float
    prompt: str
    negative_prompt: str
    seed: int
    future: Future[Any]
    submitted: float
    admitted: float = 0.0
    step: int = 0
    x: Array = field(default_factory=lambda: np.empty(0, np.float32))
    estimate: Array = field(default_factory=lambda: np.empty(0, np.float32))
    positive: Array = field(default_factory=lambda: np.empty(0, np.float32))
    negative: Array = field(default_factory=lambda: np.empty(0, np.float32))

    @property
    def rows(self) -> int:
        return 2 if self.guidance > 1 else 1

    @property
    def load(self) -> float:
        """Rows, weighted by latent area: what the batch cap counts."""
        _, height, width = self.session.lane.latent_shape
        return self.rows * max(1.0, height * width / COMFORTABLE_AREA)

    @property
    def remaining_seconds(self) -> float:
        """Predicted work left, alone on the engine."""
        lane = self.session.lane
        return self.rows * (self.table.steps - self.step) * lane.row_seconds + lane.decode_seconds

    @property
    def done(self) -> bool:
        return self.step == self.table.steps

    def start(self) -> None:
        """Draw the initial noise."""
        self.x = initial_noise(self.seed, self.session.lane.latent_shape) * np.float32(self.table.start)
        self.estimate = np.zeros_like(self.x)


def embed(slots: Sequence[Slot]) -> None:
    """Give slots of one text encoder their embeddings, all in one call."""
    guided = [slot for slot in slots if slot.rows == 2]
    arrays = slots[0].session.text([slot.prompt for slot in slots] + [slot.negative_prompt for slot in guided])
    for slot, array in zip(slots, arrays, strict=False):
        slot.positive = array
    for slot, array in zip(guided, arrays[len(slots) :], strict=True):
        slot.negative = array


def advance(slots: Sequence[Slot]) -> None:
    """One UNet call and one sampler step for slots of one session, whatever their steps, guidance and sampler."""
    lane, guided = slots[0].session.lane, [i for i, slot in enumerate(slots) if slot.rows == 2]
    columns = [[getattr(slot.table, name)[slot.step] for slot in slots] for name in ("timesteps", "p", "q", "a", "b", "c")]
    timesteps, p, q, a, b, c = np.array(columns, np.float32)[:, :, None, None, None]
    x = np.stack([slot.x for slot in slots])
    timestep = timesteps.reshape(-1)
    started = time.perf_counter()
    output = slots[0].session.unet(
        sample=np.concatenate([x, x[guided]]),
        timestep=np.concatenate([timestep, timestep[guided]]),
        encoder_hidden_states=np.stack([slot.positive for slot in slots] + [slots[i].negative for i in guided]),
    )
    lane.row_seconds += 0.1 * ((time.perf_counter() - started) / len(output) - lane.row_seconds)
    m = output[: len(slots)]
    if guided:
        strength = np.array([slots[i].guidance for i in guided], np.float32)[:, None, None, None]
        m[guided] = output[len(slots) :] + strength * (m[guided] - output[len(slots) :])
    estimate = p * x + q * m
    x = a * x + b * estimate + c * np.stack([slot.estimate for slot in slots])
    for i, slot in enumerate(slots):
        slot.x, slot.estimate, slot.step = x[i], estimate[i], slot.step + 1
