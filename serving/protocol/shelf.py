"""The variants of a worker by name: those of its configuration, and those that clients define; loaded, loading or not."""

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import msgspec

from serving.devices import Devices
from serving.job import Loaded
from serving.protocol.refusals import NotReady, Unknown, Unreadable
from serving.variant import Variant

log = logging.getLogger(__name__)
State = Literal["READY", "LOADING", "UNAVAILABLE"]
NAMES_KEPT = 4096
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(slots=True)
class Held:
    """One name. `configured`: it stays when it is unloaded. `reason`: why it is not ready."""

    variant: Variant
    configured: bool
    state: State = "UNAVAILABLE"
    reason: str = "not loaded"
    loaded: Loaded | None = None
    loading: "asyncio.Task[Loaded] | None" = None


class Shelf:
    """Belongs to one event loop. Loads and unloads one after another in a thread, in the order asked for."""

    def __init__(self, engine: Devices, configured: Mapping[str, Variant]) -> None:
        self._engine = engine
        self._held = {name: Held(plain(variant), configured=True) for name, variant in configured.items()}
        self._loader = ThreadPoolExecutor(1, "salon-load")
        self._lane_of: dict[str, str] = {}

    def start(self) -> None:
        """Begin to load what is configured."""
        for name, held in self._held.items():
            self._begin(name, held)

    async def load(self, name: str, variant: Variant | None) -> Loaded:
        """Make `name` ready; `variant` defines it, None means that it is known. Joins a loading under way.

        Raises Unknown, Unreadable when the name has other content, ModelError.
        """
        held = self._held.get(name)
        if held is None:
            if variant is None:
                raise Unknown(f"variant {name[:60]!r} is not in the configuration ({self._known()}); send parameters.variant to define it")
            if not _NAME.fullmatch(name):
                raise Unreadable(
                    f"name {name[:60]!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128"
                )
            if len(self._held) >= NAMES_KEPT:
                raise Unreadable(f"{NAMES_KEPT} variants are defined here; unload some first")
            held = self._held[name] = Held(plain(variant), configured=False)
        elif variant is not None and plain(variant) != held.variant:
            raise Unreadable(f"variant {name!r} is something else here; take another name, or unload it first")
        if held.loaded is not None:
            return held.loaded
        return await asyncio.shield(held.loading or self._begin(name, held))

    async def unload(self, name: str) -> None:
        """Give up `name`; images under way are finished. Raises Unknown."""
        held = self._held.get(name)
        if held is None:
            raise Unknown(f"variant {name[:60]!r} is not here; known: {self._known()}")
        if held.loading:
            await asyncio.wait({held.loading})
        if held.state != "READY":
            return
        held.state, held.reason, held.loaded = "UNAVAILABLE", "unloaded", None
        if not held.configured and self._held.get(name) is held:
            del self._held[name]
        if not any(other.variant == held.variant and other.state != "UNAVAILABLE" for other in self._held.values()):
            await asyncio.get_running_loop().run_in_executor(self._loader, self._engine.unload, held.variant)

    def _begin(self, name: str, held: Held) -> "asyncio.Task[Loaded]":
        held.state, held.reason = "LOADING", "being loaded"
        held.loading = asyncio.create_task(self._load(name, held))
        # whoever waits is told; at the start nobody does
        held.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return held.loading

    async def _load(self, name: str, held: Held) -> Loaded:
        try:
            held.loaded = await asyncio.get_running_loop().run_in_executor(self._loader, self._engine.load, held.variant)
        except Exception as error:
            held.state, held.reason = "UNAVAILABLE", str(error) or type(error).__name__
            log.error("variant %s cannot be loaded: %s", name, held.reason)
            if not held.configured and self._held.get(name) is held:
                del self._held[name]
            raise
        finally:
            held.loading = None
        held.state, held.reason = "READY", ""
        self._lane_of[held.loaded.digest] = held.loaded.lane
        return held.loaded

    def names(self) -> Iterator[tuple[str, Held]]:
        """Every name that is known."""
        yield from self._held.items()

    def lanes(self) -> dict[str, list[tuple[str, Variant, Loaded]]]:
        """The ready variants of each lane."""
        lanes: dict[str, list[tuple[str, Variant, Loaded]]] = {}
        for name, held in self._held.items():
            if held.loaded is not None:
                lanes.setdefault(held.loaded.lane, []).append((name, held.variant, held.loaded))
        return lanes

    def lane_of(self, digest: str) -> str:
        """The lane that draws, or drew, a variant."""
        return self._lane_of.get(digest, "")

    def on(self, lane: str) -> list[tuple[str, Variant, Loaded]]:
        """The ready variants of `lane`. Raises Unknown, or NotReady while it may still come."""
        lanes = self.lanes()
        if lane in lanes:
            return lanes[lane]
        if self.loading():
            raise NotReady(f"model {lane[:60]!r} is not ready; variants are still being loaded: {', '.join(self.loading())}")
        raise Unknown(f"unknown model {lane[:60]!r}; here: {', '.join(lanes) or 'none'}")

    def resolve(self, lane: str, text: str) -> Variant:
        """The variant of `lane` that `text` names, or its only one. Raises Unreadable, NotReady."""
        ready = self.on(lane)
        found = {loaded.digest: variant for name, variant, loaded in ready if text in ("", name, loaded.digest)}
        if len(found) == 1:
            return next(iter(found.values()))
        if text and self.loading():
            raise NotReady(f"variant {text[:80]!r} is not ready; variants are still being loaded: {', '.join(self.loading())}")
        names = ", ".join(name for name, _, _ in ready)
        raise Unreadable(f"VARIANT: {f'{text[:80]!r} is not' if text else 'is needed, one'} of model {lane}'s variants: {names}")

    def loading(self) -> list[str]:
        """Names that may still become ready."""
        return [name for name, held in self._held.items() if held.state == "LOADING"]

    def failures(self) -> dict[str, str]:
        """Configured names that are not ready, and why."""
        return {name: held.reason for name, held in self._held.items() if held.configured and held.state == "UNAVAILABLE"}

    def ready(self) -> bool:
        """All that can be loaded is, and that is something, unless nothing is configured."""
        configured = [held for held in self._held.values() if held.configured]
        done = all(held.state != "LOADING" for held in configured)
        return done and (not configured or any(held.state == "READY" for held in configured))

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _known(self) -> str:
        return ", ".join(list(self._held)[:20]) or "none"


def plain(variant: Variant) -> Variant:
    """Without what is the gateway's business, so that the same content is the same variant."""
    return msgspec.structs.replace(variant, engine="local", served_as=None)
