"""One variant's try at some pictures of a request: load, queue, draw, unless the client goes away."""

import asyncio
from collections.abc import Sequence

from gateway.engines import Engines, Watch
from gateway.image_request import ImageRequest
from gateway.partial import Progress
from gateway.problems import ClientGone, Overloaded, retry_after
from serving.errors import Busy
from serving.job import Job, Picture
from serving.variant import Variant


async def attempt(
    variant: Variant,
    request: ImageRequest,
    seeds: Sequence[int],
    places: Sequence[int],
    engines: Engines,
    gone: asyncio.Event,
    timeout_seconds: float,
    progress: Progress | None,
) -> tuple[str, list[Picture]]:
    """The digest of what drew, and a picture for each of `seeds`, which stand at `places` of the grid.

    Raises Overloaded with nothing begun; ClientGone; TimeoutError; what the engine raises.
    """
    previews = progress.partial_images if progress else 0
    watch = _placed(progress, places) if progress and previews else None
    async with asyncio.timeout(timeout_seconds):
        loaded = await engines.load(variant)
        jobs = [
            Job(variant=variant, prompt=request.prompt, negative_prompt=request.negative_prompt or "", seed=seed, previews=previews)
            for seed in seeds
        ]
        try:
            drawing = asyncio.create_task(engines.draw(variant, jobs, deadline_seconds=timeout_seconds, watch=watch))
            if progress:
                # Behind the task's first step, which queues the jobs.
                asyncio.get_running_loop().call_soon(_predict, progress, engines)
            pictures = await _unless_gone(drawing, gone)
        except Busy as busy:
            raise Overloaded(
                f"about {engines.queue_seconds():.0f} s of work is waiting; try again in {busy.retry_after_seconds:.0f} s",
                headers=retry_after(busy.retry_after_seconds),
            ) from None
    return loaded.digest, pictures


def _placed(progress: Progress, places: Sequence[int]) -> Watch:
    """Previews of the jobs told by their place in the grid."""
    return lambda index, preview: progress.watch(places[index], preview)


def _predict(progress: Progress, engines: Engines) -> None:
    progress.predict(engines.queue_seconds())


async def _unless_gone(task: "asyncio.Task[list[Picture]]", gone: asyncio.Event) -> list[Picture]:
    """The pictures. When the client goes away, the engine gives their places to others at its next step. Raises ClientGone."""
    leaving = asyncio.create_task(gone.wait())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client went away")
        return task.result()
    finally:
        leaving.cancel()
        task.cancel()
