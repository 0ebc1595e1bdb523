"""Guardrails read every day: is a harmless arm rolled back, is a harmful one called harmless, is harm found?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from audience import Generator
from claims import Claim
from reading import Reader
from simulation import Simulation, Values
from streams import Measure, Schedule, Totals, accumulate, arrivals

from analytics.experiment import Guardrail, Metric

DAILY = Schedule(((0.0, {"a": 0.5, "b": 0.5}),), np.arange(24.0, 30 * 24 + 1, 24.0))
LIKES = Measure(Metric(kind="proportion", event="like"), (0,))
REPORTS = Measure(Metric(kind="proportion", event="report", direction="down"), (1,))
WAITS = Measure(Metric(kind="mean", event="wait", direction="down"), (1,))
GROUP = "Guardrails, read every day for 30 days"
RUNS, RUNS_OF_HARM, QUICK = 300, 60, 16
MARGIN = 0.20


def simulations() -> list[Simulation]:
    """Shares and means, at no harm, at the margin, and at thrice the margin."""
    chosen = []
    for words, measure, draw in (("share of reports", REPORTS, _reports), ("seconds waited", WAITS, _waits)):
        broken, holds = Claim("", "guardrail broken", "at most", 0.05), Claim("", "guardrail holds", "at most", 0.05)
        for name, harm, claims in (
            ("no harm", 0.0, {"rolled back": Claim("", "rollback", "at most", 0.05), "called broken": broken}),
            ("harm exactly at the margin", MARGIN, {"called broken": broken, "called harmless": holds}),
            ("harm of thrice the margin", 3 * MARGIN, {"rolled back": Claim("", "rollback", "at least", 0.80), "called harmless": holds}),
        ):
            texts = [Claim(f"{words}, {name}: ever {said}", c.key, c.rule, c.nominal) for said, c in claims.items()]
            runs = RUNS_OF_HARM if harm > MARGIN else RUNS
            chosen.append(Simulation(f"guardrail: {words}, {name}", _measure(draw(harm), measure), texts, runs, QUICK, GROUP))
    return chosen


def _measure(draw: Callable[[Generator], Totals], guarded: Measure) -> Callable[[Generator, int], Values]:
    changes: Mapping[str, Any] = {"guardrails": {"guarded": Guardrail(margin=MARGIN)}}
    reader = Reader({"m": LIKES, "guarded": guarded}, changes=changes, screened=False)

    def run(rng: Generator, runs: int) -> Values:
        values: Values = {}
        for turn in range(runs):
            for key, value in reader.read(draw(rng), turn).items():
                values.setdefault(key, []).append(value)
        return values

    return run


def _reports(harm: float) -> Callable[[Generator], Totals]:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, 14.0, 30 * 24)
        arm, n = DAILY.arm_of(rng, hour), len(hour)
        return accumulate(DAILY, hour, arm, [rng.random(n) < 0.2, rng.random(n) < 0.10 * np.where(arm > 0, 1 + harm, 1.0)])

    return draw


def _waits(harm: float) -> Callable[[Generator], Totals]:
    """Lognormal seconds, mean e^0.5 in the control."""

    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, 14.0, 30 * 24)
        arm, n = DAILY.arm_of(rng, hour), len(hour)
        return accumulate(DAILY, hour, arm, [rng.random(n) < 0.2, rng.lognormal(0.0, 1.0, n) * np.where(arm > 0, 1 + harm, 1.0)])

    return draw
