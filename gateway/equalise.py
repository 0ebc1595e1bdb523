"""Arms that differ in cost, answered alike: a faster arm's pictures are held until the slowest arm's would be there.

Quantile coupling: a request at quantile u of its own arm's latencies is held to the largest of all arms' u-quantiles, so that
afterwards every arm has the same distribution of latencies, not only the same mean.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW, FEWEST = 500, 30
# A response is held for at most this many times what it took: an arm that got stuck must not stop the others.
LARGEST_HOLD = 2.0


class Equaliser:
    """The last 500 latencies of each arm of each experiment, in ms, before any hold. Belongs to the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._arms: dict[str, dict[str, deque[tuple[float, float]]]] = {}

    def hold_ms(self, experiment: str, arms: Sequence[str], arm: str, latency_ms: float) -> float:
        """Note that a request of `arm` took `latency_ms`, and tell how long to hold it; 0 until two of `arms` have 30 requests.

        `arms`: those that get units now; what an arm did that no longer does holds nobody.
        """
        windows = self._arms.setdefault(experiment, {})
        windows.setdefault(arm, deque(maxlen=WINDOW)).append((self._clock(), latency_ms))
        known = {name: windows[name] for name in arms if name in windows and len(windows[name]) >= FEWEST}
        if arm not in known or len(known) < 2:
            return 0.0
        return coupled_hold(latency_ms, arm, _of_one_time(known))

    def keep(self, experiments: Sequence[str]) -> None:
        """Forget every experiment but these."""
        self._arms = {name: arms for name, arms in self._arms.items() if name in experiments}


def coupled_hold(latency_ms: float, arm: str, latencies: Mapping[str, NDArray[np.float64]]) -> float:
    """How long to hold a response of `arm`, in ms, when `latencies[arm]` (ms, any order, `latency_ms` among them) are recent ones.

    Quantiles are Hazen's, (k - 1/2) / n for the k-th of n, ties at their middle: so a latency is its own arm's quantile exactly.
    """
    own = latencies[arm]
    below, same = int((own < latency_ms).sum()), int((own == latency_ms).sum())
    level = (below + same / 2) / len(own)
    target = max(_quantile(other, level) for name, other in latencies.items() if name != arm)
    return min(max(0.0, target - latency_ms), LARGEST_HOLD * latency_ms)


def _quantile(values: NDArray[np.float64], level: float) -> float:
    """Hazen's, as numpy has it, at a fifth of the time."""
    ordered = np.sort(values)
    at = min(max(level * len(ordered) - 0.5, 0.0), len(ordered) - 1.0)
    below = int(at)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (at - below) * (high - low)


async def hold(seconds: float, gone: asyncio.Event) -> float:
    """Wait for so long, or until nobody waits any more. Returns how long it was, in ms."""
    if seconds <= 0:
        return 0.0
    began = time.perf_counter()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone.wait(), seconds)
    return 1000 * (time.perf_counter() - began)


def _of_one_time(windows: Mapping[str, "deque[tuple[float, float]]"]) -> dict[str, NDArray[np.float64]]:
    """What happened since the window that reaches back least began, but 30 of each arm.

    A rare arm's window reaches back to other loads than a frequent arm's; only what was under one load can be compared.
    """
    since = max(window[0][0] for window in windows.values())
    found = {}
    for arm, window in windows.items():
        recent = [ms for at, ms in window if at >= since]
        found[arm] = np.array(recent if len(recent) >= FEWEST else [ms for _, ms in list(window)[-FEWEST:]])
    return found
