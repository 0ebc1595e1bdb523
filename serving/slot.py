"""One image on its way through an engine."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from serving.backends.port import Seat
from serving.job import Job, Loaded, Picture, Preview
from serving.samplers import Table

Watch = Callable[[Preview], None]


class AdapterUse(msgspec.Struct, frozen=True):
    """An adapter at a scale, by what is in its file."""

    digest: str
    scale: float
    path: Path


class Recipe(msgspec.Struct, frozen=True):
    """What a loaded variant comes down to."""

    lane: str
    loaded: Loaded
    adapter: AdapterUse | None


@dataclass(slots=True, eq=False)
class Slot:
    """Times are of `time.perf_counter`. The future is pending until the picture is there, so that it can be cancelled at any step."""

    job: Job
    recipe: Recipe
    table: Table
    guidance: float
    submitted: float
    deadline: float
    watch: Watch | None = None
    future: Future[Picture] = field(default_factory=Future)
    admitted: float = 0.0
    place: int = -1
    entry: int = 0
    step: int = 0
    batched_rows: int = 0
    begun: bool = False

    @property
    def rows(self) -> int:
        return 2 if self.guidance > 1 else 1

    @property
    def steps_left(self) -> int:
        return self.table.steps - self.step

    def previews_at(self) -> list[int]:
        """The steps after which the watcher gets a preview."""
        wanted = self.job.previews if self.watch else 0
        return [self.table.steps * (i + 1) // (wanted + 1) for i in range(wanted)]

    def seat(self) -> Seat:
        """What the backend must know."""
        return Seat(
            place=self.place,
            prompt=self.job.prompt,
            negative_prompt=self.job.negative_prompt,
            seed=self.job.seed,
            table=self.table,
            guidance=self.guidance,
            entry=self.entry,
        )
