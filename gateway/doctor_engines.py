"""What `salon doctor` finds out about engines: which workers answer, and what each variant draws, and where."""

import asyncio
from collections.abc import Iterator
from functools import partial

from gateway.config import Config, EngineSection
from gateway.findings import Finding, Wrong, check
from serving.registry import Registry
from serving.remote.engine import RemoteEngine
from serving.variant import Variant

LOAD_SECONDS = 600.0


def engine_findings(config: Config) -> Iterator[Finding]:
    """A line for each remote engine that a variant uses, and one for each variant."""
    if any(config.engines[variant.engine].url is not None for variant in config.variants.values()):
        yield from _remote(config)
    yield from _here(config)


def _remote(config: Config) -> Iterator[Finding]:
    engines: dict[str, RemoteEngine] = {}
    with asyncio.Runner() as runner:
        try:
            for name in dict.fromkeys(variant.engine for variant in config.variants.values()):
                if config.engines[name].url is not None:
                    engines[name] = runner.run(_opened(name, config.engines[name]))
                    yield check(f"engine {name}", partial(_workers, runner, engines[name]))
            for name, variant in config.variants.items():
                if variant.engine in engines:
                    yield check(f"variant {name}", partial(_elsewhere, runner, engines[variant.engine], variant))
        finally:
            for engine in engines.values():
                runner.run(engine.close())


async def _opened(name: str, section: EngineSection) -> RemoteEngine:
    settings = section.remote
    assert settings is not None
    return RemoteEngine(name, settings)


def _workers(runner: asyncio.Runner, engine: RemoteEngine) -> str:
    async def look() -> None:
        await asyncio.gather(*(worker.look() for worker in engine.workers))

    runner.run(look())
    if away := [worker for worker in engine.workers if not worker.alive]:
        raise Wrong("; ".join(f"{worker.url}: {worker.reason}" for worker in away) + "; start it, or take it out of `url`")
    return f"{', '.join(worker.url for worker in engine.workers)}: each answers"


def _elsewhere(runner: asyncio.Runner, engine: RemoteEngine, variant: Variant) -> str:
    async def load() -> str:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                loaded, urls = await engine.load_everywhere(variant)
        except TimeoutError:
            raise Wrong(f"is not loaded within {LOAD_SECONDS:.0f} s; look again later") from None
        if len(urls) < len(engine.workers):
            raise Wrong(f"only {', '.join(urls)} of {len(engine.workers)} workers have it: {engine.problems() or 'see the workers'}")
        return f"draws {loaded.width}x{loaded.height} on {variant.engine} ({len(urls)} of {len(urls)} workers), {loaded.digest[:19]}…"

    return runner.run(load())


def _here(config: Config) -> Iterator[Finding]:
    """Loads in this process; what draws is imported only when a variant needs it."""
    here = {name: variant for name, variant in config.variants.items() if config.engines[variant.engine].url is None}
    if not here:
        return
    from serving.devices import Devices
    from serving.engine import LocalEngine

    engines: dict[str, Devices] = {}

    def look(variant: Variant) -> str:
        section = config.engines[variant.engine]
        if variant.engine not in engines:
            registry, cache = Registry(config.registry_url), config.var / "cache"
            engines[variant.engine] = Devices(
                [LocalEngine(registry, settings=section.settings(device), cache=cache) for device in section.devices]
            )
        loaded = engines[variant.engine].load(variant)
        return f"draws {loaded.width}x{loaded.height} on {variant.engine}, {loaded.digest[:19]}…"

    try:
        for name, variant in here.items():
            yield check(f"variant {name}", partial(look, variant))
    finally:
        for opened in engines.values():
            opened.close()
