"""What is compared: ways to draw images of k arms on one machine, behind one face."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from arms import write_merged
from numpy.typing import NDArray

from serving.backends.onnx.backend import OnnxBackend
from serving.backends.port import Seat
from serving.engine import Job, LocalEngine
from serving.model import open_model
from serving.registry import Registry
from serving.samplers import table
from serving.settings import EngineSettings
from serving.variant import Backend, Variant

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """What every system is given: arm i has the i-th adapter; no adapters: one arm, the model as it is."""

    model: str
    adapters: Sequence[Path]
    steps: int
    guidance: float
    rows: int
    folder: Path

    @property
    def arms(self) -> int:
        return max(1, len(self.adapters))

    @property
    def rows_each(self) -> int:
        return 2 if self.guidance > 1 else 1


@dataclass(eq=False)
class Order:
    arm: int
    prompt: str
    seed: int
    done: "Future[Pixels]" = field(default_factory=Future)


class System(Protocol):
    def submit(self, order: Order) -> None: ...

    def close(self) -> None: ...


class Engine:
    """Salon's engine: one variant per arm."""

    def __init__(self, task: Task, *, merged: bool = False, settings: EngineSettings | None = None, backend: Backend = "onnx") -> None:
        """Not merged: one lane with adapter banks. Merged: a model of its own per arm, so one lane per arm, which take turns."""
        settings = settings or EngineSettings(rows=task.rows)
        self.local = LocalEngine(Registry(str(task.folder / "registry")), cache=task.folder / "cache", settings=settings)
        models = [str(write_merged(task.model, adapter, task.folder)) for adapter in task.adapters] if merged else []
        common: dict[str, Any] = {"steps": task.steps, "guidance": task.guidance, "backend": backend}
        if models:
            self.variants = [Variant(model=model, **common) for model in models]
        else:
            self.variants = [Variant(model=task.model, adapter=str(adapter), **common) for adapter in task.adapters]
        self.variants = self.variants or [Variant(model=task.model, **common)]
        for variant in self.variants:
            self.local.load(variant)

    def submit(self, order: Order) -> None:
        made = self.local.submit(Job(variant=self.variants[order.arm], prompt=order.prompt, seed=order.seed))
        made.add_done_callback(lambda future: order.done.set_result(future.result().rgb))

    def close(self) -> None:
        self.local.close()


class Line:
    """First come, first served: a thread that hands the queue to `work` until there is nothing left.

    `work(waiting, idle)` takes what it wants from the left and returns what it has finished; it is called again while
    it says that it is busy.
    """

    def __init__(
        self, work: Callable[[deque[Order]], list[tuple[Order, Pixels]]], busy: Callable[[], bool], close: Callable[[], None]
    ) -> None:
        self._work, self._busy, self._close = work, busy, close
        self._waiting: deque[Order] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, order: Order) -> None:
        with self._wake:
            self._waiting.append(order)
            self._wake.notify()

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        self._close()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._waiting or self._busy()):
                    self._wake.wait()
                if self._closed:
                    return
            for order, rgb in self._work(self._waiting):
                order.done.set_result(rgb)


class OneAdapterAtATime:
    """Salon's own ONNX backend under other rules of admission, a merged model per arm: changing arms costs nothing here.

    `joining`: an image of the running arm joins at any step, one of another arm waits until the running set has drained, and
    everybody behind it too (vLLM-Omni's rule). Not joining: whole batches, of the waiting images of the first one's arm.
    """

    def __init__(self, task: Task, *, joining: bool) -> None:
        settings, cache = EngineSettings(rows=task.rows), task.folder / "cache"
        models = [str(write_merged(task.model, adapter, task.folder)) for adapter in task.adapters] or [task.model]
        self._task, self._joining, self._places = task, joining, task.rows // task.rows_each
        self._backends = [OnnxBackend(open_model(model, cache), settings, cache, self._places) for model in models]
        self._table = table(open_model(models[0], cache).scheduler, "ddim", task.steps)
        self._free = list(range(self._places))
        self._active: dict[int, Order] = {}
        self._steps: dict[int, int] = {}

    def line(self) -> Line:
        return Line(self._tick, lambda: bool(self._active), lambda: [backend.close() for backend in self._backends] and None)

    def _tick(self, waiting: deque[Order]) -> list[tuple[Order, Pixels]]:
        running = next(iter(self._active.values())).arm if self._active else None
        fresh = []
        if self._joining or running is None:
            arm = waiting[0].arm if running is None else running
            for order in tuple(waiting):
                if order.arm == arm and self._free:
                    waiting.remove(order)
                    fresh.append((self._free.pop(), order))
                elif self._joining:
                    break
            running = arm
        backend = self._backends[running or 0]
        if fresh:
            backend.begin([self._seat(place, order) for place, order in fresh])
            self._active |= dict(fresh)
            self._steps |= {place: 0 for place, _ in fresh}
        backend.advance(list(self._active))
        self._steps = {place: step + 1 for place, step in self._steps.items()}
        ended = [place for place, step in self._steps.items() if step == self._task.steps]
        if not ended:
            return []
        pictures = backend.decode(ended)
        self._free += ended
        for place in ended:
            del self._steps[place]
        return [(self._active.pop(place), rgb) for place, rgb in zip(ended, pictures, strict=True)]

    def _seat(self, place: int, order: Order) -> Seat:
        return Seat(place=place, prompt=order.prompt, negative_prompt="", seed=order.seed, table=self._table, guidance=self._task.guidance)


def open_system(name: str, task: Task) -> System:
    """One of NAMES."""
    if name in ("mixed", "model per arm"):
        return Engine(task, merged=name == "model per arm")
    if name in ("drain", "whole batches"):
        return OneAdapterAtATime(task, joining=name == "drain").line()
    from torch_systems import PeftMixed, Pipelines

    return (PeftMixed if name == "peft" else Pipelines)(task).line()


NAMES = {
    "mixed": "Salon: every arm in one call, adapter banks",
    "model per arm": "Salon, a merged model per arm: one arm a call, arms take turns (continuous batching, as many models in memory)",
    "drain": "one arm at a time, an image of another arm waits until the running ones have drained (vLLM-Omni's rule)",
    "whole batches": "whole batches of one arm (request-level batching)",
    "peft": "whole batches of all arms: peft's mixed batch in torch, eager",
    "pipelines": "diffusers' StableDiffusionPipeline, one per arm with its LoRA fused, one image after the other, eager",
}
