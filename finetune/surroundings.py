"""The real world of a round: the packaged judge, the engine that serves, the stores that the configuration names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from analytics.appending import append_events
from analytics.events import Event
from finetune.examples import Logged
from finetune.judge import Judge
from finetune.round import Surroundings
from finetune.sampling import EngineSampler
from finetune.settings import RoundSettings
from serving.engine import LocalEngine
from serving.registry import Registry
from serving.variant import Variant


def surroundings(settings: RoundSettings, registry: Registry, rows: Sequence[Logged], champion: Variant, read_at: datetime) -> Surroundings:
    """Everything opened as late as it can be. `rows` were read at `read_at`. Raises ValueError for a champion that cannot be drawn here."""
    if champion.backend != "onnx":
        raise ValueError(f'the champion\'s backend is {champion.backend!r}; the gate draws with the embedded engine: backend = "onnx"')

    @contextmanager
    def open_sampler() -> Iterator[EngineSampler]:
        engine = LocalEngine(registry, cache=settings.cache)
        try:
            yield EngineSampler(engine)
        finally:
            engine.close()

    def record(events: Sequence[Event]) -> None:
        append_events(settings.analytics.events, events)

    return Surroundings(lambda: rows, open_sampler, Judge.load(), registry, settings.images_url, settings.cache, read_at, record)
