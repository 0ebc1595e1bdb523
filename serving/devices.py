"""One engine per device of this machine, all with the same variants: a request goes to the least loaded."""

from collections.abc import Sequence
from concurrent.futures import Future

from serving.engine import LocalEngine, Statistics
from serving.errors import Busy
from serving.job import Job, Loaded, Picture
from serving.slot import Watch
from serving.variant import Variant


class Devices:
    """Several local engines as one. With one, it only passes on."""

    def __init__(self, engines: Sequence[LocalEngine]) -> None:
        self._engines = list(engines)

    def load(self, variant: Variant) -> Loaded:
        """On every device, one after another. Blocking. Raises ModelError."""
        first, *others = self._engines
        loaded = first.load(variant)
        for other in others:
            other.load(variant)
        return loaded

    def submit_all(
        self, jobs: Sequence[Job], *, deadline_seconds: float | None = None, watch: Sequence[Watch] | None = None
    ) -> "list[Future[Picture]]":
        """Queue the images of one request where the predicted wait is shortest. Raises Busy when all are, and as LocalEngine."""
        busy: list[float] = []
        for engine in sorted(self._engines, key=lambda each: each.queue_seconds()):
            try:
                return engine.submit_all(jobs, deadline_seconds=deadline_seconds, watch=watch)
            except Busy as full:
                busy.append(full.retry_after_seconds)
        raise Busy(min(busy))

    def limit_passed(self, variant: Variant, text: str) -> int | None:
        """As LocalEngine: every device has the same models."""
        return self._engines[0].limit_passed(variant, text)

    def unload(self, variant: Variant) -> None:
        """On every device. Blocking: images under way are finished first."""
        for engine in self._engines:
            engine.unload(variant)

    def statistics(self) -> list[Statistics]:
        """What each device has done."""
        return [engine.statistics() for engine in self._engines]

    def queue_seconds(self) -> float:
        """Predicted seconds until the least loaded device has done what was submitted to it."""
        return min(engine.queue_seconds() for engine in self._engines)

    def close(self) -> None:
        """Stop all engines."""
        for engine in self._engines:
            engine.close()
