"""Pictures for the report: the prompts asked most, with the same seed on every arm. They leave no event."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import sha256

from analytics.facts import GalleryPicture
from gateway.engines import Engines
from gateway.pictures import png_of
from serving.errors import Busy, ModelError
from serving.job import Job
from serving.variant import Variant

log = logging.getLogger(__name__)
KEPT = 400
PATIENCE_SECONDS = 30.0


class Gallery:
    """Renders and remembers gallery pictures. Users come first: when the engine is busy, the gallery shows less."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._kept: OrderedDict[tuple[Variant, str, int], bytes] = OrderedDict()

    async def pictures(self, arms: Mapping[str, Variant], prompts: Iterable[str]) -> list[GalleryPicture]:
        """One picture per prompt and arm; whole rows only."""
        rows: list[GalleryPicture] = []
        for prompt in prompts:
            seed = int.from_bytes(sha256(prompt.encode("utf-8", "surrogatepass")).digest()[:4], "big")
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    pngs = await asyncio.gather(*(self._picture(variant, prompt, seed) for variant in arms.values()))
            except (Busy, ModelError, TimeoutError) as error:
                log.info("the gallery is cut short: %s", error or type(error).__name__)
                break
            rows += [GalleryPicture(prompt=prompt, seed=seed, arm=arm, png=png) for arm, png in zip(arms, pngs, strict=True)]
        return rows

    async def _picture(self, variant: Variant, prompt: str, seed: int) -> bytes:
        key = (variant, prompt, seed)
        if key not in self._kept:
            await self._engines.load(variant)
            (picture,) = await self._engines.draw(variant, [Job(variant=variant, prompt=prompt, seed=seed)])
            self._kept[key] = await asyncio.to_thread(png_of, picture)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return self._kept[key]
