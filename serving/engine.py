"""The engine: one thread for one device, which makes the images of all variants, a step of each at a time."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec

from serving.adapters.lora import Adapter, read_adapter
from serving.backends.opening import open_backend
from serving.backends.port import STRICT_ROWS
from serving.errors import Busy, Late, ModelError
from serving.job import Job, Loaded, Picture, Preview
from serving.knee import LARGEST_ROWS
from serving.lane import Lane
from serving.memory import budget_bytes, check_fits, needed_bytes
from serving.model import at_size, open_model
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.slot import AdapterUse, Recipe, Slot, Watch
from serving.tallies import LaneTally, Tallies, VariantTally
from serving.variant import Variant

__all__ = ["Busy", "Job", "Late", "Loaded", "LocalEngine", "ModelError", "Picture", "Preview", "Statistics"]


class Statistics(msgspec.Struct, frozen=True):
    """Since the start: by lane, and by the variant's digest."""

    lanes: dict[str, LaneTally]
    variants: dict[str, VariantTally]


class LocalEngine:
    """Makes images on one device of this machine.

    Variants of one base model and size share a lane: one queue, and one network call per tick with a row or two of each image,
    whatever its variant, adapter, prompt, steps and guidance. Lanes take turns by device time per image. So no arm waits for
    another, and arms of one lane see the same latency by construction (docs/serving.md).
    """

    def __init__(self, registry: Registry, *, cache: Path, settings: EngineSettings | None = None, max_queue_seconds: float = 60.0) -> None:
        """`cache` keeps digests and exported graphs. Raises ModelError for a device that is not there."""
        self.settings = settings or EngineSettings()
        self._registry, self._cache, self._max_queue_seconds = registry, cache, max_queue_seconds
        self._budget = budget_bytes(self.settings)
        self._lanes: dict[tuple[str, str, str], Lane] = {}
        self._ready: dict[Variant, Recipe] = {}
        self._by_name: dict[str, Lane] = {}
        self._loading = threading.Lock()
        self._wake = threading.Condition()
        self._tallies = Tallies()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="salon-engine", daemon=True)
        self._thread.start()

    def load(self, variant: Variant) -> Loaded:
        """Make `variant` ready. Blocking: 0.5 s for the packaged model, minutes when a large one must be exported or compiled.

        Raises ModelError when the model, the adapter or the variant's settings cannot be served, or do not fit the memory.
        """
        with self._loading:
            if variant in self._ready:
                return self._ready[variant].loaded
            if self._closed:
                raise RuntimeError("the engine is closed")
            adapter = self._adapter(variant.adapter) if variant.adapter else None
            lane = self._lane(variant)
            lane.table(variant.scheduler, variant.steps)
            use = None
            if adapter is not None:
                lane.backend.admit(adapter, variant.adapter_scale)
                use = AdapterUse(adapter.digest, variant.adapter_scale, adapter.path)
                self._leave_room(lane)
                with self._wake:
                    lane.bring(use, adapter)
            by_content = adapter.digest if adapter and not str(variant.adapter).startswith("registry:") else None
            model = lane.model
            loaded = Loaded(variant.digest(model.digest, by_content), model.width, model.height, lane.name)
            self._ready[variant] = Recipe(lane.name, loaded, use)
            return loaded

    def _lane(self, variant: Variant) -> Lane:
        model = at_size(open_model(variant.model, self._cache), variant.size)
        key = (model.digest, f"{model.width}x{model.height}", variant.backend)
        if key in self._lanes:
            return self._lanes[key]
        settings = self.settings
        used = sum(lane.device_bytes for lane in self._lanes.values())
        check_fits(variant.model, needed_bytes(model, settings), used, self._budget)
        rows = settings.rows or (STRICT_ROWS if settings.mode == "strict" else None)
        places = rows or LARGEST_ROWS
        backend = open_backend(variant.backend, model, settings, self._cache, places)
        lane = Lane(self._lane_name(model.folder, key), model, backend, places, settings.adapters, self._tallies, self._notify)
        try:
            lane.measure(rows)
        except BaseException:
            lane.close()
            raise
        with self._wake:
            self._lanes[key] = self._by_name[lane.name] = lane
        return lane

    def _leave_room(self, lane: Lane) -> None:
        """As many entries as the memory has room for. Raises ModelError when there is not even one."""
        others = sum(other.device_bytes for other in self._lanes.values() if other is not lane)
        entry, room = lane.backend.entry_bytes, self._budget - others - lane.backend.model_bytes
        if entry > room:
            check_fits(f"{lane.name} with an adapter", lane.backend.model_bytes + entry, others, self._budget)
        lane.capacity = max(1, min(self.settings.adapters, room // max(1, entry)))

    def _lane_name(self, folder: Path, key: tuple[str, str, str]) -> str:
        """`emoji-64-64x64`, and more where that is taken."""
        digest, size, backend = key
        names = (f"{folder.name}-{size}", f"{folder.name}-{size}-{backend}", f"{folder.name}-{size}-{backend}-{digest[7:15]}")
        return next(name for name in names if name not in self._by_name)

    def _adapter(self, name: str) -> Adapter:
        return read_adapter(self._registry.fetch(name) if name.startswith("registry:") else locate_adapter(name))

    def unload(self, variant: Variant) -> None:
        """Forget a variant; its model goes with the last variant that needs it. Images under way are finished first, by then."""
        with self._loading:
            recipe = self._ready.pop(variant, None)
            if recipe is None:
                return
            lane = self._by_name[recipe.lane]
            left = [other for other in self._ready.values() if other.lane == recipe.lane]
            if recipe.adapter and all(other.adapter != recipe.adapter for other in left):
                with self._wake:
                    lane.forget(recipe.adapter)
            if left:
                return
            while True:
                with self._wake:
                    if self._closed or not lane.occupied:
                        self._lanes = {key: other for key, other in self._lanes.items() if other is not lane}
                        self._by_name.pop(recipe.lane)
                        break
                time.sleep(0.01)
            if not self._closed:
                lane.close()

    def submit(self, job: Job) -> "Future[Picture]":
        """Queue one image: `submit_all` of a request of one."""
        return self.submit_all([job])[0]

    def submit_all(
        self, jobs: Sequence[Job], *, deadline_seconds: float | None = None, watch: Sequence[Watch] | None = None
    ) -> "list[Future[Picture]]":
        """Queue the images of one request, all or none; thread-safe. A future that is cancelled frees its place within a step.

        `watch`, one per job, is called by the engine's thread with each preview, and must not block. An image that has not
        begun after `deadline_seconds` fails with Late. Raises Busy when the predicted wait for what was queued before would
        exceed `max_queue_seconds` or the deadline, whatever the variants; the request's own work is no part of that wait, so an
        idle engine takes any request. Raises ModelError when a variant is not loaded or a job's steps or guidance cannot be.
        """
        now = time.perf_counter()
        deadline = now + deadline_seconds if deadline_seconds is not None else float("inf")
        slots = [self._slot(job, now, deadline, watch[i] if watch else None) for i, job in enumerate(jobs)]
        with self._wake:
            if self._closed:
                raise RuntimeError("the engine is closed")
            ahead, bound = self._predicted(), min(self._max_queue_seconds, deadline - now)
            if ahead > bound:
                raise Busy(max(1.0, ahead - bound))
            if any(slot.recipe.lane not in self._by_name for slot in slots):
                raise ModelError("the variant was unloaded; call load(variant) again")
            for slot in slots:
                lane = self._by_name[slot.recipe.lane]
                if not lane.busy:  # it has not saved up time while it was idle
                    others = [other.virtual_seconds for other in self._by_name.values() if other.busy]
                    lane.virtual_seconds = max(lane.virtual_seconds, min(others, default=lane.virtual_seconds))
                lane.enqueue(slot)
            self._wake.notify()
        return [slot.future for slot in slots]

    def _slot(self, job: Job, now: float, deadline: float, watch: Watch | None) -> Slot:
        recipe = self._ready.get(job.variant)
        lane = self._by_name.get(recipe.lane) if recipe else None
        if recipe is None or lane is None:
            raise ModelError(f"variant of model {job.variant.model!r} is not loaded; call load(variant) first")
        steps = job.variant.steps if job.steps is None else job.steps
        guidance = job.variant.guidance if job.guidance is None else job.guidance
        if not 0 <= guidance <= 50:
            raise ModelError(f"guidance: {guidance:g} is not between 0 and 50")
        columns = lane.table(job.variant.scheduler, steps)
        return Slot(job=job, recipe=recipe, table=columns, guidance=guidance, submitted=now, deadline=deadline, watch=watch)

    def limit_passed(self, variant: Variant, text: str) -> int | None:
        """How many tokens the variant's model reads, where `text` has more and would be cut; else None. Raises ModelError: not loaded."""
        recipe = self._ready.get(variant)
        lane = self._by_name.get(recipe.lane) if recipe else None
        if lane is None:
            raise ModelError(f"variant of model {variant.model!r} is not loaded; call load(variant) first")
        return lane.limit_passed(text)

    def queue_seconds(self) -> float:
        """Predicted seconds until everything submitted so far is done."""
        with self._wake:
            return self._predicted()

    def statistics(self) -> Statistics:
        """What was done so far."""
        with self._wake:
            lanes = {name: lane.tally for name, lane in self._by_name.items()}
        return Statistics(lanes, self._tallies.read())

    def close(self) -> None:
        """Stop after the current tick; futures that are not done are cancelled or get RuntimeError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()
        for lane in self._by_name.values():
            lane.close()

    def _predicted(self) -> float:
        return sum(lane.predicted_seconds() for lane in self._by_name.values())

    def _notify(self) -> None:
        with self._wake:
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._closed or any(lane.busy for lane in self._by_name.values())):
                    self._wake.wait()
                if self._closed:
                    return
                lane = min((lane for lane in self._by_name.values() if lane.busy), key=lambda lane: lane.virtual_seconds)
                lane.admit(time.perf_counter())
            images, began = len(lane.active) + len(lane.finished), time.perf_counter()
            lane.tick()
            lane.virtual_seconds += (time.perf_counter() - began) / max(1, images)


def locate_adapter(name: str) -> Path:
    """A directory or file. Raises ModelError."""
    path = Path(name).expanduser()
    if not path.exists():
        raise ModelError(f"adapter {name!r}: there is no such file or directory; name one, or registry:NAME@sha256:HEX")
    return path
