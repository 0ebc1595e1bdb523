"""The real world of a round: the packaged judge, the engine that serves, the stores that the configuration names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from finetune.examples import Logged
from finetune.judge import Judge
from finetune.round import Surroundings
from finetune.sampling import EngineSampler
from finetune.settings import RoundSettings
from serving.engine import LocalEngine
from serving.registry import Registry
from serving.variant import Variant


def surroundings(settings: RoundSettings, registry: Registry, rows: Sequence[Logged], champion: Variant) -> Surroundings:
    """Everything opened as late as it can be. Raises ValueError when the champion cannot be drawn here."""
    if champion.backend != "onnx":
        raise ValueError(f'the champion\'s backend is {champion.backend!r}; the gate draws with the embedded engine: backend = "onnx"')

    @contextmanager
    def open_sampler() -> Iterator[EngineSampler]:
        engine = LocalEngine(registry, cache=settings.cache)
        try:
            yield EngineSampler(engine)
        finally:
            engine.close()

    return Surroundings(lambda: rows, open_sampler, Judge.load(), registry, settings.images_url, settings.cache)
