"""Load on a system: so many at once (closed), or Poisson arrivals (open); and what the difference between arms' latencies is."""

import math
import queue
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from systems import Order, System

PROMPTS = tuple(
    f"a {adjective} {noun}" for adjective in ("red", "blue", "smiling", "dark") for noun in ("heart", "cat", "dog", "face", "pizza")
)
JACKKNIFE_BLOCKS = 20
NEIGHBOURS = 3


@dataclass(frozen=True)
class Seen:
    """One finished image: its arm, when it was asked for and how long it took, in seconds."""

    arm: int
    asked: float
    seconds: float


@dataclass(frozen=True)
class Flow:
    """What was finished within a window of time."""

    seen: list[Seen]
    seconds: float
    cpu_seconds: float

    @property
    def images_per_second(self) -> float:
        return len(self.seen) / self.seconds


def closed(system: System, arms: Sequence[int], at_once: int, seconds: float) -> Flow:
    """`at_once` images are always under way, image i of arm `arms[i % len(arms)]`; the first `at_once` warm up and are not counted."""
    ended: queue.SimpleQueue[Seen] = queue.SimpleQueue()
    asked = 0

    def ask() -> None:
        nonlocal asked
        order, began = Order(arms[asked % len(arms)], PROMPTS[asked % len(PROMPTS)], asked), time.perf_counter()
        order.done.add_done_callback(lambda future: ended.put(Seen(order.arm, began, time.perf_counter() - began)))
        asked += 1
        system.submit(order)

    for _ in range(at_once):
        ask()
    for _ in range(at_once):
        ended.get()
        ask()
    cpu, began = cpu_seconds(), time.perf_counter()
    seen = []
    while (lasted := time.perf_counter() - began) < seconds or len(seen) < at_once:
        seen.append(ended.get())
        ask()
    flow = Flow(seen, lasted, cpu_seconds() - cpu)
    for _ in range(at_once):
        ended.get()
    return flow


def arrivals(many: int, rate: float, seed: int) -> NDArray[np.float64]:
    """Seconds from the start of `many` Poisson arrivals at `rate` per second."""
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, many))


def opened(system: System, times: NDArray[np.float64], arms: Sequence[int]) -> list[Seen]:
    """Image i of arm `arms[i]` is asked for at `times[i]`, whatever became of those before; returns when all are done, in order."""
    orders = [Order(arm, PROMPTS[i % len(PROMPTS)], i) for i, arm in enumerate(arms)]
    ended = [0.0] * len(orders)

    def note(i: int) -> None:
        ended[i] = time.perf_counter()

    began = time.perf_counter()
    for i, (order, at) in enumerate(zip(orders, times, strict=True)):
        order.done.add_done_callback(lambda _, i=i: note(i))
        time.sleep(max(0.0, began + at - time.perf_counter()))
        system.submit(order)
    for order in orders:
        order.done.result()
    # from the planned arrival, so that a late generator does not hide a wait
    return [Seen(order.arm, at, end - began - at) for order, at, end in zip(orders, times, ended, strict=True)]


def rare_in_one_round(many: int, rounds: int, seed: int) -> NDArray[np.int64]:
    """By round and arrival: arm 1 in one round drawn for each arrival, arm 0 in the others; so arm 1 has 1 / `rounds` of the traffic."""
    drawn = np.random.default_rng(seed).integers(0, rounds, many)
    return (drawn[None, :] == np.arange(rounds)[:, None]).astype(np.int64)


def paired_gap(latency: NDArray[np.float64], arm: NDArray[np.int64]) -> tuple[float, float]:
    """Arm 1's mean latency above arm 0's, as a share of arm 0's, and half of a 95 % interval.

    Both arrays are [rounds, arrivals], every round with the same arrivals. Where an arrival is of arm 1, its latency is
    compared with what its neighbours of arm 0 saw in that round (they shared the machine's mood), less the same difference
    in the rounds in which all of them were of arm 0 (they share the arrivals). The interval is a jackknife over blocks of arrivals.
    """
    rounds, many = latency.shape
    differences = np.full(many, np.nan)
    for i in range(many):
        rare = np.flatnonzero(arm[:, i] == 1)
        near = [j for j in range(max(0, i - NEIGHBOURS), min(many, i + NEIGHBOURS + 1)) if j != i]
        for r in rare:
            mine = [j for j in near if arm[r, j] == 0]
            others = [q for q in range(rounds) if q != r and arm[q, i] == 0 and not arm[q, mine].any()]
            if mine and others:
                usual = np.mean([latency[q, i] - latency[q, mine].mean() for q in others])
                differences[i] = latency[r, i] - latency[r, mine].mean() - usual
    blocks = [block for block in np.array_split(differences, min(JACKKNIFE_BLOCKS, many)) if np.isfinite(block).any()]
    sums, counts = np.array([np.nansum(block) for block in blocks]), np.array([np.isfinite(block).sum() for block in blocks])
    base = float(latency[arm == 0].mean())
    left_out = (sums.sum() - sums) / (counts.sum() - counts)
    error = math.sqrt((len(blocks) - 1) / len(blocks) * float(((left_out - left_out.mean()) ** 2).sum()))
    return float(sums.sum() / counts.sum()) / base, 2.093 * error / base  # t of 19 degrees


def welch_gap(seen: Sequence[Seen], arm: int) -> tuple[float, float]:
    """`arm`'s mean latency above the others', as a share of theirs, and half of Welch's 95 % interval; NaN with one arm."""
    mine, others = [s.seconds for s in seen if s.arm == arm], [s.seconds for s in seen if s.arm != arm]
    if len(mine) < 2 or len(others) < 2:
        return math.nan, math.nan
    error = math.sqrt(statistics.variance(mine) / len(mine) + statistics.variance(others) / len(others))
    base = statistics.fmean(others)
    return statistics.fmean(mine) / base - 1, 1.96 * error / base


def cpu_seconds() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_mb() -> float:
    """Memory of this process now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
