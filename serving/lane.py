"""A lane: one base model at one size on one device, with the queue that all its variants share."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from serving.adapters.lora import Adapter, read_adapter
from serving.backends.port import Backend, Seat
from serving.errors import Late, ModelError
from serving.job import Picture, Preview
from serving.knee import find_knee
from serving.model import Model
from serving.samplers import Table, table, usual
from serving.slot import AdapterUse, Slot
from serving.tallies import LaneTally, Tallies
from serving.tokenizer import open_tokenizers
from serving.variant import Scheduler

_TABLES_KEPT = 256


class Lane:
    """First come, first served, whatever the variant; every image in the making moves one step at every tick.

    `waiting` belongs to the engine's lock; everything else to the engine's thread, but for decoding where the backend
    decodes apart. `virtual_seconds` is device time per image, by which lanes take turns; `capacity` is how many adapters lie on
    the device at once.
    """

    def __init__(
        self, name: str, model: Model, backend: Backend, places: int, adapters: int, tallies: Tallies, wake: Callable[[], None]
    ) -> None:
        self.name, self.model, self.backend = name, model, backend
        self.waiting: deque[Slot] = deque()
        self.active: list[Slot] = []
        self.finished: list[Slot] = []
        self.virtual_seconds = 0.0
        self.rows_cap, self.capacity = places, adapters
        # predictions for the queue, corrected by every call
        self.row_seconds = self.decode_seconds = self.tick_seconds = 0.0
        self.tally = LaneTally()
        self._tallies, self._wake, self._waiting_row_steps = tallies, wake, 0
        self._free = list(range(places))
        self._entries: OrderedDict[tuple[str, float], int] = OrderedDict()
        self._brought: dict[tuple[str, float], Adapter] = {}
        self._tables: dict[tuple[Scheduler, int], Table] = {}
        self._tokenizers = open_tokenizers(model)
        self._decoder = ThreadPoolExecutor(1, "salon-decode") if backend.decodes_apart else None
        self._decoding = False

    def measure(self, rows: int | None) -> None:
        """Prove that the model's parts fit each other, time them, and find the knee unless `rows` is given. Raises ModelError."""
        try:
            columns = table(self.model.scheduler, usual(self.model.scheduler), self.model.scheduler.num_train_timesteps)
            seats = [
                Seat(place=i, prompt="", negative_prompt="", seed=i, table=columns, guidance=2.0)
                for i in range(max(1, len(self._free) // 2))
            ]

            def call(many: int) -> float:
                places = list(range(many // 2))
                self.backend.begin(seats[: len(places)])
                self.backend.synchronize()
                began = time.perf_counter()
                self.backend.advance(places)
                self.backend.synchronize()
                return time.perf_counter() - began

            if rows is None:
                self.rows_cap, self.row_seconds = find_knee(call, len(self._free))
            else:
                self.rows_cap, self.row_seconds = rows, min(call(2), call(2)) / 2
            self.backend.decode([0])
            began = time.perf_counter()
            self.backend.decode([0])
            self.decode_seconds = time.perf_counter() - began
        except ModelError:
            raise
        except Exception as error:  # what a runtime raises has no common base
            raise ModelError(f"{self.model.folder}: its parts do not fit each other ({error}); copy the whole model directory") from None

    def limit_passed(self, text: str) -> int | None:
        """The tokens that the model reads, where `text` has more for every one of its text encoders; else None. Any thread."""
        tokenizers = self._tokenizers.values()
        return max(one.length for one in tokenizers) if all(one.cuts(text) for one in tokenizers) else None

    def table(self, scheduler: Scheduler, steps: int) -> Table:
        """The sampler's table, kept. Raises ModelError."""
        key = (scheduler, steps)
        columns = self._tables.get(key)
        if columns is None:
            if len(self._tables) >= _TABLES_KEPT:
                self._tables.clear()
            columns = self._tables[key] = table(self.model.scheduler, scheduler, steps)
        return columns

    @property
    def busy(self) -> bool:
        """Is there anything to do now?"""
        return bool(self.waiting or self.active or (self.finished and not (self._decoder and self._decoding)))

    @property
    def occupied(self) -> bool:
        """Is any image here?"""
        return bool(self.waiting or self.active or self.finished or self._decoding)

    def seconds_left(self, slot: Slot) -> float:
        """Predicted work for one image, alone on the engine."""
        return slot.rows * slot.steps_left * self.row_seconds + self.decode_seconds

    def predicted_seconds(self) -> float:
        """Predicted work for everything that is here. Under the engine's lock."""
        under_way = sum(self.seconds_left(slot) for slots in (self.active, self.finished) for slot in tuple(slots))
        return self._waiting_row_steps * self.row_seconds + len(self.waiting) * self.decode_seconds + under_way

    def enqueue(self, slot: Slot) -> None:
        """To the end of the queue. Under the engine's lock."""
        self.waiting.append(slot)
        self._waiting_row_steps += slot.rows * slot.steps_left

    def _dequeue(self) -> Slot:
        slot = self.waiting.popleft()
        self._waiting_row_steps -= slot.rows * slot.steps_left
        return slot

    def admit(self, now: float) -> None:
        """Take from the queue what there is room for, in order; what was cancelled or is late costs nothing. Under the engine's lock."""
        room = self.rows_cap - sum(slot.rows for slot in self.active)
        while self.waiting:
            slot = self.waiting[0]
            if slot.future.cancelled() or now > slot.deadline:
                self._fail([self._dequeue()], Late("the deadline passed while the image waited in the queue"))
                continue
            if not self._free or (slot.rows > room and self.active):
                return
            entry = self._entry(slot.recipe.adapter)
            if entry is None:
                return
            self._dequeue()
            slot.place, slot.entry, slot.admitted = self._free.pop(), entry, now
            room -= slot.rows
            self.active.append(slot)

    def _entry(self, use: AdapterUse | None) -> int | None:
        """The entry of an adapter: its own, a free one, or the least recently used that no image needs; None: wait."""
        if use is None:
            return 0
        key = (use.digest, use.scale)
        if key not in self._entries:
            used = {slot.entry for slot in self.active}
            if len(self._entries) < self.capacity:
                # an adapter that was forgotten may still be under way in its entry
                taken = used.union(map(abs, self._entries.values()))
                entry = next((i for i in range(1, self.capacity + 1) if i not in taken), 0)
                if not entry:
                    return None
            else:
                victim = next((other for other, entry in self._entries.items() if abs(entry) not in used), None)
                if victim is None:
                    return None
                entry = abs(self._entries.pop(victim))
                self.tally.evictions += 1
            self._entries[key] = -entry  # to be attached
        self._entries.move_to_end(key)
        return abs(self._entries[key])

    @property
    def device_bytes(self) -> int:
        """What the model and the adapters that lie beside it take."""
        return self.backend.model_bytes + len(self._entries) * self.backend.entry_bytes

    def bring(self, use: AdapterUse, adapter: Adapter) -> None:
        """Keep an adapter that was read until it is attached, so that the engine's thread need not read it. Under the engine's lock."""
        if (use.digest, use.scale) not in self._entries:
            self._brought[use.digest, use.scale] = adapter

    def forget(self, use: AdapterUse) -> None:
        """An adapter that no variant names any more leaves its entry."""
        self._entries.pop((use.digest, use.scale), None)
        self._brought.pop((use.digest, use.scale), None)

    def tick(self) -> None:
        """Begin what was admitted, move every image one step, show previews, decode a few that are done."""
        began = time.perf_counter()
        for slot in [slot for slot in self.active if slot.future.cancelled()]:
            self.active.remove(slot)
            self._free.append(slot.place)
            self._tallies.cancelled(slot)
        self._begin([slot for slot in self.active if not slot.begun])
        moved = list(self.active)
        if moved:
            self._together(moved, self._advance)
            self._show([slot for slot in moved if slot in self.active])
            self.finished += [slot for slot in self.active if not slot.steps_left]
            self.active = [slot for slot in self.active if slot.steps_left]
            took = time.perf_counter() - began
            self.tick_seconds += 0.1 * (took - self.tick_seconds) if self.tick_seconds else took
        if self.finished and not self._decoding:
            chunk, self.finished = self.finished[: self.backend.decode_at_once], self.finished[self.backend.decode_at_once :]
            if self._decoder is None:
                self._together(chunk, self._decode)
            else:
                self._decoding = True
                self._decoder.submit(self._decode_apart, chunk)
        self.tally.seconds += time.perf_counter() - began

    def _begin(self, slots: Sequence[Slot]) -> None:
        ready = []
        for slot in slots:
            try:
                self._attach(slot)
                ready.append(slot)
            except Exception as error:
                # Whoever asked gets it; the thread goes on for everybody else.
                self._fail([slot], error)
        if ready:
            self._together(ready, lambda some: self.backend.begin([slot.seat() for slot in some]))
        for slot in ready:
            slot.begun = True

    def _attach(self, slot: Slot) -> None:
        use = slot.recipe.adapter
        if use is None or self._entries.get((use.digest, use.scale), 0) > 0:
            return
        adapter = self._brought.pop((use.digest, use.scale), None) or read_adapter(use.path)
        if adapter.digest != use.digest:
            raise ModelError(f"{use.path}: has changed since its variant was loaded; load the variant again")
        self.backend.attach(slot.entry, adapter, use.scale)
        self._entries[use.digest, use.scale] = slot.entry

    def _advance(self, slots: Sequence[Slot]) -> None:
        rows, began = sum(slot.rows for slot in slots), time.perf_counter()
        self.backend.advance([slot.place for slot in slots])
        took = time.perf_counter() - began
        self.row_seconds += 0.1 * (took / rows - self.row_seconds)
        self.tally.count(rows, took)
        for slot in slots:
            slot.step += 1
            slot.batched_rows += rows

    def _show(self, slots: Sequence[Slot]) -> None:
        for slot in slots:
            if slot.watch is None or slot.step not in (steps := slot.previews_at()):
                continue
            try:
                (rgb,) = self.backend.preview([slot.place])
                left = 1000 * (self.tick_seconds * slot.steps_left + self.decode_seconds)
                slot.watch(Preview(rgb=rgb, index=steps.index(slot.step), step=slot.step, steps=slot.table.steps, remaining_ms=left))
            except Exception as error:
                # A preview that fails fails its own image, like a step.
                self._fail([slot], error)

    def _decode_apart(self, slots: Sequence[Slot]) -> None:
        try:
            self._together(slots, self._decode)
        finally:
            self._decoding = False
            self._wake()

    def _decode(self, slots: Sequence[Slot]) -> None:
        began = time.perf_counter()
        pictures = self.backend.decode([slot.place for slot in slots])
        now = time.perf_counter()
        self.decode_seconds += 0.1 * ((now - began) / len(slots) - self.decode_seconds)
        for slot, rgb in zip(slots, pictures, strict=True):
            self._free.append(slot.place)
            picture = Picture(
                rgb=rgb,
                queue_ms=1000 * (slot.admitted - slot.submitted),
                service_ms=1000 * (now - slot.admitted),
                steps=slot.table.steps,
                rows=slot.rows,
                batch_rows=slot.batched_rows / slot.table.steps,
            )
            if slot.future.set_running_or_notify_cancel():
                self._tallies.done(slot, picture)
                slot.future.set_result(picture)
            else:
                self._tallies.cancelled(slot)

    def _together(self, slots: Sequence[Slot], work: Callable[[Sequence[Slot]], None]) -> None:
        """Do `work` for all at once; when that fails, for each alone, so that only who is at fault fails."""
        try:
            work(slots)
        except Exception as error:
            if len(slots) == 1:
                self._fail(slots, error)
                return
            for slot in slots:
                self._together([slot], work)

    def _fail(self, slots: Sequence[Slot], error: Exception) -> None:
        for slot in slots:
            if slot in self.active:
                self.active.remove(slot)
            if slot.place >= 0:
                self._free.append(slot.place)
            if slot.future.set_running_or_notify_cancel():
                self._tallies.failed(slot)
                slot.future.set_exception(error)
            else:
                self._tallies.cancelled(slot)

    def close(self) -> None:
        """End every image with RuntimeError, or as cancelled if it had not begun, and the backend's threads."""
        if self._decoder:
            self._decoder.shutdown()
        for slot in (*self.waiting, *self.active, *self.finished):
            if slot.begun or not slot.future.cancel():
                self._fail([slot], RuntimeError("the engine was closed"))
        self.waiting.clear()
        self.finished.clear()
        self.backend.close()
