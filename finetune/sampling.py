"""Draws the gate's pictures with the engine that serves, so that what is judged is what people would get."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from numpy.typing import NDArray

from serving.engine import Busy, Job, LocalEngine, Picture
from serving.variant import Variant

Pixels = NDArray[np.uint8]
_IN_FLIGHT = 32


class EngineSampler:
    """Renders grids of prompts and seeds; waits when the engine is busy."""

    def __init__(self, engine: LocalEngine, say: Callable[[int, int], None] = lambda _done, _all: None) -> None:
        self._engine, self._say = engine, say

    def render(self, variant: Variant, prompts: Sequence[str], seeds: Sequence[int]) -> Pixels:
        """Every prompt with every seed, in the variant's own steps and guidance: uint8 [prompts, seeds, h, w, 3]. Raises ModelError."""
        self._engine.load(variant)
        jobs = [Job(variant=variant, prompt=prompt, seed=seed) for prompt in prompts for seed in seeds]
        waiting: deque[Future[Picture]] = deque()
        pictures: list[Pixels] = []
        try:
            for job in jobs:
                if len(waiting) >= _IN_FLIGHT:
                    pictures.append(waiting.popleft().result().rgb)
                    self._say(len(pictures), len(jobs))
                waiting.append(self._submit(job))
            while waiting:
                pictures.append(waiting.popleft().result().rgb)
                self._say(len(pictures), len(jobs))
        finally:
            for future in waiting:
                future.cancel()
        grid = np.stack(pictures)
        return grid.reshape(len(prompts), len(seeds), *grid.shape[1:])

    def _submit(self, job: Job) -> Future[Picture]:
        while True:
            try:
                return self._engine.submit(job)
            except Busy as busy:
                time.sleep(min(1.0, max(0.05, busy.retry_after_seconds)))
