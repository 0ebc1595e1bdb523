"""The embedded engine: one thread that makes the images of all variants, a step of each at a time."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.adapters import Adapter, read_adapter
from serving.errors import Busy, ModelError
from serving.lane import Lane, Session
from serving.model import open_model
from serving.registry import Registry
from serving.samplers import Table, table
from serving.slots import Slot, advance, embed
from serving.variant import Variant

__all__ = ["Busy", "Job", "Loaded", "LocalEngine", "ModelError", "Picture"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One image to make. The low 64 bits of `seed` count."""

    variant: Variant
    prompt: str
    negative_prompt: str = ""
    seed: int


class Picture(msgspec.Struct, frozen=True):
    """`rgb` is uint8 [height, width, 3]; milliseconds waited before the first step, and from there to the pixels."""

    rgb: NDArray[np.uint8]
    queue_ms: float
    service_ms: float


class Loaded(msgspec.Struct, frozen=True):
    """A variant that is ready: its digest, and the size of its images in pixels."""

    digest: str
    width: int
    height: int


class LocalEngine:
    """Makes images on this machine's CPU.

    Every round moves each active image one step: one UNet call per session (base model and adapter), images of any
    variant, prompt, seed, steps and guidance side by side. Images are admitted first come, first served, whatever
    their variant, while the round has room, and every active image advances in every round, so no arm waits for
    another. `rows` bounds a round; 16 is past the knee of the packaged model (benchmarks/serving_speed.py).
    """

    def __init__(
        self,
        registry: Registry,
        *,
        device: str = "cpu",
        cache: Path,
        max_queue_seconds: float = 60.0,
        threads: int | None = None,
        rows: int = 16,
    ) -> None:
        """`cache` keeps digests and exported graphs; `threads` defaults to the cores that this process may use.

        Raises ModelError for a device that this engine cannot use.
        """
        if device != "cpu":
            raise ModelError(f'device {device!r}: the embedded engine runs on the CPU; set device = "cpu"')
        self._registry, self._cache, self._max_queue_seconds, self._rows = registry, cache, max_queue_seconds, rows
        self._threads = threads or cores()
        self._lanes: dict[str, Lane] = {}
        self._ready: dict[Variant, tuple[Session, Table, Loaded]] = {}
        self._loading = threading.Lock()
        self._waiting: deque[Slot] = deque()
        self._waiting_seconds = 0.0
        self._active: list[Slot] = []
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="salon-engine", daemon=True)
        self._thread.start()

    def load(self, variant: Variant) -> Loaded:
        """Make `variant` ready. Blocking: 0.5 s for the packaged model, minutes when a large one must be exported.

        Raises ModelError when the model, the adapter or the variant's settings cannot be served.
        """
        with self._loading:
            if variant in self._ready:
                return self._ready[variant][2]
            if variant.backend != "onnx":
                raise ModelError(f'backend {variant.backend!r}: the embedded engine runs ONNX Runtime; set backend = "onnx"')
            model = open_model(variant.model, self._cache)
            columns = table(model.scheduler, variant.scheduler, variant.steps)
            adapter = self._adapter(variant.adapter) if variant.adapter else None
            if model.digest not in self._lanes:
                self._lanes[model.digest] = Lane(model, self._cache, self._threads)
            session = self._lanes[model.digest].session(adapter, variant.adapter_scale)
            by_content = adapter.digest if adapter and not str(variant.adapter).startswith("registry:") else None
            loaded = Loaded(variant.digest(model.digest, by_content), model.width, model.height)
            self._ready[variant] = (session, columns, loaded)
            return loaded

    def _adapter(self, name: str) -> Adapter:
        return read_adapter(self._registry.fetch(name) if name.startswith("registry:") else locate_adapter(name))

    def submit(self, job: Job) -> "Future[Picture]":
        """Queue one image: `submit_all` of a request of one."""
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Sequence[Job]) -> "list[Future[Picture]]":
        """Queue the images of one request, all or none; thread-safe. A future cancelled before its first step costs nothing.

        Raises Busy when the predicted wait for what was queued before would exceed `max_queue_seconds`, whatever the
        variants; the request's own work is no part of that wait, so an idle engine takes any request. Raises ModelError
        when a variant was not loaded.
        """
        now = time.perf_counter()
        slots = [self._slot(job, now) for job in jobs]
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            ahead = self._predicted()
            if ahead > self._max_queue_seconds:
                raise Busy(max(1.0, ahead - self._max_queue_seconds))
            self._waiting.extend(slots)
            self._waiting_seconds += sum(slot.remaining_seconds for slot in slots)
            self._wake.notify()
        return [slot.future for slot in slots]

    def _slot(self, job: Job, now: float) -> Slot:
        if job.variant not in self._ready:
            raise ModelError(f"variant of model {job.variant.model!r} is not loaded; call load(variant) first")
        session, columns, _ = self._ready[job.variant]
        return Slot(session, columns, job.variant.guidance, job.prompt, job.negative_prompt, job.seed, Future(), submitted=now)

    def queue_seconds(self) -> float:
        """Predicted seconds until everything submitted so far is done."""
        with self._wake:
            return self._predicted()

    def close(self) -> None:
        """Stop after the current round; futures that are not done are cancelled or get RuntimeError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        for slot in (*self._waiting, *self._active):
            if not slot.future.cancel():
                slot.future.set_exception(RuntimeError("the engine was closed"))
        self._waiting.clear()
        self._active.clear()
        for lane in self._lanes.values():
            lane.close()

    def _predicted(self) -> float:
        return max(0.0, self._waiting_seconds) + sum(slot.remaining_seconds for slot in self._active)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or self._waiting or self._active):
                    self._wake.wait()
                if self._closed:
                    return
                admitted = self._admit()
            for slots in _grouped(admitted, lambda slot: slot.session.text):
                self._guarded(slots, _begin)
            for slots in _grouped(self._active, lambda slot: slot.session):
                self._guarded(slots, advance)
            for slots in _grouped([slot for slot in self._active if slot.done], lambda slot: slot.session.lane):
                self._guarded(slots, self._finish)

    def _admit(self) -> list[Slot]:
        admitted: list[Slot] = []
        room = self._rows - sum(slot.load for slot in self._active)
        while self._waiting and (self._waiting[0].load <= room or not self._active):
            slot = self._waiting.popleft()
            if slot.future.set_running_or_notify_cancel():
                slot.admitted = time.perf_counter()
                room -= slot.load
                admitted.append(slot)
                self._active.append(slot)
        # predictions move while a slot waits, so the sum is taken afresh rather than by subtraction
        self._waiting_seconds = sum(slot.remaining_seconds for slot in self._waiting)
        return admitted

    def _guarded(self, slots: Sequence[Slot], work: Callable[[Sequence[Slot]], None]) -> None:
        """Do `work`; what fails, fails for these slots only."""
        try:
            work(slots)
        except Exception as error:
            # Whoever asked gets it; the thread goes on for everybody else.
            self._drop(slots)
            for slot in slots:
                slot.future.set_exception(error)

    def _finish(self, slots: Sequence[Slot]) -> None:
        lane = slots[0].session.lane
        started = time.perf_counter()
        pictures = lane.decode(np.stack([slot.x for slot in slots]))
        now = time.perf_counter()
        lane.decode_seconds += 0.1 * ((now - started) / len(slots) - lane.decode_seconds)
        self._drop(slots)
        for slot, rgb in zip(slots, pictures, strict=True):
            slot.future.set_result(Picture(rgb, 1000 * (slot.admitted - slot.submitted), 1000 * (now - slot.admitted)))

    def _drop(self, slots: Sequence[Slot]) -> None:
        gone = {id(slot) for slot in slots}
        with self._wake:
            self._active = [slot for slot in self._active if id(slot) not in gone]


def cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its container."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(available, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group of version 2, or "max": no quota
        return available


def locate_adapter(name: str) -> Path:
    """A directory or file. Raises ModelError."""
    path = Path(name).expanduser()
    if not path.exists():
        raise ModelError(f"adapter {name!r}: there is no such file or directory; name one, or registry:NAME@sha256:HEX")
    return path


def _begin(slots: Sequence[Slot]) -> None:
    embed(slots)
    for slot in slots:
        slot.start()


def _grouped(slots: Iterable[Slot], key: Callable[[Slot], object]) -> list[list[Slot]]:
    groups: dict[int, list[Slot]] = {}
    for slot in slots:
        groups.setdefault(id(key(slot)), []).append(slot)
    return list(groups.values())
