"""Simulations are cut into shares with seeds of their own, so that the figures do not depend on how many processes ran them."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from claims import Claim, Verdict

Values = dict[str, list[float]]
# Small enough that two cores end together, large enough that a share's start costs nothing.
SHARES = 8


@dataclass(frozen=True)
class Simulation:
    """`measure(generator, runs)` returns for every key one value per run (or none); `claims` judge them."""

    name: str
    measure: Callable[[np.random.Generator, int], Values]
    claims: Sequence[Claim]
    runs: int
    quick: int
    group: str


@dataclass(frozen=True)
class Outcome:
    """A simulation's verdicts, or what went wrong, and the CPU seconds it took."""

    simulation: Simulation
    verdicts: list[Verdict]
    problems: list[str]
    cpu_seconds: float

    @property
    def ok(self) -> bool:
        """All claims hold."""
        return not self.problems and all(verdict.ok for verdict in self.verdicts)


def measured(simulation: Simulation, runs: int, seed: int) -> Outcome:
    """In this process: `runs` runs in shares with seeds of their own."""
    shares = [_share(simulation, seed, i, part) for i, part in enumerate(_parts(runs))]
    return judged(simulation, shares)


def judged(simulation: Simulation, shares: Sequence[tuple[Values, float]]) -> Outcome:
    """Values of all shares put together, in the order of the shares."""
    values: Values = {}
    for found, _ in shares:
        for key, sample in found.items():
            values.setdefault(key, []).extend(sample)
    verdicts, problems = [], []
    for claim in simulation.claims:
        try:
            verdicts.append(claim.judge(values))
        except KeyError:
            problems.append(f"{claim.text}: nothing was measured (no run returned {claim.key!r})")
    return Outcome(simulation, verdicts, problems, sum(seconds for _, seconds in shares))


def all_measured(simulations: Sequence[Simulation], quick: bool, seed: int, processes: int) -> Iterator[Outcome]:
    """Every outcome in the order given, as soon as it is there. Raises RuntimeError with a share's traceback."""
    context = multiprocessing.get_context("fork")
    parts = [_parts(one.quick if quick else one.runs) for one in simulations]
    # Simulations hold closures, which cannot be pickled: children inherit them and are told places.
    jobs, results = context.Queue(), context.Queue()
    for place in ((index, i) for index, sizes in enumerate(parts) for i in range(len(sizes))):
        jobs.put(place)
    for _ in range(processes):
        jobs.put(None)
    workers = [context.Process(target=_work, args=(simulations, parts, seed, jobs, results), daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found: dict[tuple[int, int], tuple[Values, float]] = {}
    for index, simulation in enumerate(simulations):
        places = [(index, i) for i in range(len(parts[index]))]
        while not all(place in found for place in places):
            place, share, trouble = results.get()
            if trouble:
                raise RuntimeError(f"{simulations[place[0]].name}: {trouble}")
            found[place] = share
        yield judged(simulation, [found.pop(place) for place in places])
    for worker in workers:
        worker.join()


def _work(simulations: Sequence[Simulation], parts: list[list[int]], seed: int, jobs: Any, results: Any) -> None:
    while (place := jobs.get()) is not None:
        index, i = place
        try:
            results.put((place, _share(simulations[index], seed, i, parts[index][i]), ""))
        except Exception:  # it crosses to the parent as text: a child that dies silently would leave it waiting
            results.put((place, None, traceback.format_exc()))


def _share(simulation: Simulation, seed: int, part: int, runs: int) -> tuple[Values, float]:
    began = time.process_time()
    # The name seeds, not the place in the list: a simulation alone gives the figures that it gives among others.
    generator = np.random.default_rng([seed, part, *simulation.name.encode()])
    return simulation.measure(generator, runs), time.process_time() - began


def _parts(runs: int) -> list[int]:
    shares = min(SHARES, runs)
    return [runs // shares + (i < runs % shares) for i in range(shares)]


def cores() -> int:
    """How many processes may run at once here."""
    return len(os.sched_getaffinity(0))
