"""What a stream hears: partial pictures in order, each once whatever is tried again, and a prediction that counts down."""

import asyncio

import numpy as np
import pytest

from gateway.partial import Progress
from serving.job import Preview


def preview(index: int, remaining_ms: float) -> Preview:
    return Preview(rgb=np.zeros((8, 8, 3), np.uint8), index=index, step=index + 1, steps=4, remaining_ms=remaining_ms)


def heard(progress: Progress) -> list[tuple[int, int, int]]:
    async def all_of_it() -> list[tuple[int, int, int]]:
        progress.finish()
        found = []
        while (partial := await progress.next(1)) is not None:
            found.append((partial.position, partial.index, partial.preview.index))
        return found

    return asyncio.run(all_of_it())


def test_indices_count_from_0_and_a_second_attempt_sends_only_what_is_new():
    progress = Progress(2, 3)
    # The first attempt has few steps: its first preview is the second that was asked for. Then it fails.
    progress.watch(0, preview(1, 9))
    for index in (0, 1, 2):
        progress.watch(0, preview(index, 9))
        progress.watch(1, preview(index, 9))
    assert heard(progress) == [(0, 0, 1), (1, 0, 0), (1, 1, 1), (0, 1, 2), (1, 2, 2)]


def test_the_prediction_is_of_the_queue_until_every_position_has_its_own():
    now = [100.0]
    progress = Progress(2, 1, clock=lambda: now[0])
    assert progress.remaining_ms() is None
    progress.predict(4.0)
    now[0] += 1
    assert progress.remaining_ms() == pytest.approx(3000)
    progress.watch(0, preview(0, 500))
    assert progress.remaining_ms() == pytest.approx(3000)
    progress.watch(1, preview(0, 800))
    now[0] += 0.1
    assert progress.remaining_ms() == pytest.approx(700)
    now[0] += 5
    assert progress.remaining_ms() == 0
    progress.predict(2.0)  # a second attempt begins
    assert progress.remaining_ms() == pytest.approx(2000)


def test_patience_ends():
    async def wait() -> None:
        await Progress(1, 0).next(0.001)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
