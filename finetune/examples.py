"""Logged pictures to weighted examples."""

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from finetune.propensity import Examination, effective_size, examination, example_weights


class Logged(Protocol):
    """One shown picture, as analytics.warehouse.examples reads it."""

    @property
    def image_id(self) -> UUID: ...
    @property
    def generation_id(self) -> UUID: ...
    @property
    def unit(self) -> str: ...
    @property
    def experiment(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def position(self) -> int: ...
    @property
    def grid(self) -> int: ...
    @property
    def propensity(self) -> float | None: ...
    @property
    def liked(self) -> bool: ...
    @property
    def shown_at(self) -> datetime: ...


class NotEnough(LookupError):
    """Too little feedback for a round. The text says how much there is and how much is needed."""


class Examples(msgspec.Struct):
    """Columns [n]: `prompt` and `generation` are numbers, `weight` has mean 1; what they add up to is in `facts`."""

    image_ids: list[UUID]
    prompts: list[str]
    prompt: NDArray[np.int64]
    generation: NDArray[np.int64]
    units: list[str]
    liked: NDArray[np.bool_]
    weight: NDArray[np.float64]


class ExampleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a round learnt from, for its manifest. `units_sha256` is over the sorted units, a line each."""

    images: int
    likes: int
    units: int
    units_sha256: str
    prompts: int
    experiments: list[str]
    arms: dict[str, int]
    since: datetime | None
    until: datetime | None
    effective_images: float
    examination: Examination
    without_propensity: int
    pictures_gone: int = 0


def require(images: int, likes: int, units: int, *, minimum_images: int, minimum_likes: int, minimum_units: int, signal: str) -> None:
    """Raises NotEnough unless there is enough of everything."""
    lacking = [
        f"{have} {what} of the {need} needed"
        for have, need, what in (
            (images, minimum_images, "shown pictures"),
            (likes, minimum_likes, f"pictures with the signal {signal!r}"),
            (images - likes, minimum_likes, f"pictures without the signal {signal!r}"),
            (units, minimum_units, "units"),
        )
        if have < need
    ]
    if lacking:
        raise NotEnough(f"too little feedback for a round: {'; '.join(lacking)}. Collect more, or lower [finetune] minimum_*")


def weigh(rows: Sequence[Logged]) -> tuple[Examples, ExampleFacts]:
    """Weights by position and arm. A row without propensity counts as assigned for certain. Raises ValueError for a damaged log."""
    liked = np.array([row.liked for row in rows], np.bool_)
    grid, position = (np.array([getattr(row, name) for row in rows], np.int64) for name in ("grid", "position"))
    found = examination(grid, position, liked)
    propensity = np.array([1.0 if row.propensity is None else row.propensity for row in rows], np.float64)
    weight = example_weights(liked, found.of(grid, position), propensity, found.appeal)
    prompts, prompt = _numbered([row.prompt for row in rows])
    _, generation = _numbered([str(row.generation_id) for row in rows])
    arms = [row.arm for row in rows]
    units = sorted({row.unit for row in rows})
    times = [row.shown_at for row in rows]
    examples = Examples([row.image_id for row in rows], prompts, prompt, generation, [row.unit for row in rows], liked, weight)
    return examples, ExampleFacts(
        images=len(rows),
        likes=int(liked.sum()),
        units=len(units),
        units_sha256="sha256:" + hashlib.sha256("\n".join(units).encode()).hexdigest(),
        prompts=len(prompts),
        experiments=sorted({row.experiment for row in rows if row.experiment}),
        arms={arm: arms.count(arm) for arm in sorted(set(arms))},
        since=min(times, default=None),
        until=max(times, default=None),
        effective_images=round(effective_size(weight), 1),
        examination=found,
        without_propensity=sum(row.propensity is None for row in rows),
    )


def common_prompts(examples: Examples) -> list[str]:
    """Distinct prompts, the most often shown first; ties in order of appearance."""
    counts = np.bincount(examples.prompt, minlength=len(examples.prompts))
    return [examples.prompts[i] for i in np.argsort(-counts, kind="stable")]


def _numbered(values: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    names = list(dict.fromkeys(values))
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number[value] for value in values], np.int64)
