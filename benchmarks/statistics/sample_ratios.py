"""60 daily looks at the sample ratio, 2,000 units a day: how often is a healthy split called broken, how soon is a broken one?

The looks are judged by a recount in numpy, which is compared with the check itself in every 8th run and wherever it gates.
"""

import math
from collections.abc import Callable

import numpy as np
from audience import Generator
from claims import Claim
from scipy.special import chdtrc, gammaln
from simulation import Simulation, Values
from sums import Rows, later

from analytics.checks import sample_ratio
from analytics.facts import WeightPeriod

GROUP = "Sample ratio, 60 daily looks, 2,000 units a day"
DAYS, A_DAY = 60, 2000
CONCENTRATION, GATE = 1000.0, 1000.0
# Day on which a period begins, the treated arm's weight.
EVEN, RAMP = ((0, 0.5),), ((0, 0.05), (7, 0.2), (21, 0.5))


def simulations() -> list[Simulation]:
    """Healthy, ramped, and two broken splits."""
    healthy = [
        Claim("healthy 50/50: invalid by the e-process, ever", "gate", "at most", 0.001),
        Claim("healthy 50/50: chi-square p ≤ 0.001 on any day, nominal 0.1 %", "chi", "at least", 0.004),
    ]
    ramp = [
        Claim("healthy ramp 5 → 20 → 50 %: invalid by the e-process, ever", "gate", "at most", 0.001),
        Claim("healthy ramp, its units against the last weights only: chi-square p ≤ 0.001", "naive", "shown"),
    ]
    return [
        Simulation("sample ratio: healthy", _measure(EVEN, 0.0), healthy, 20_000, 1500, GROUP),
        Simulation("sample ratio: ramp", _measure(RAMP, 0.0), ramp, 10_000, 1000, GROUP),
        *(
            Simulation(f"sample ratio: {word}", _measure(EVEN, shift), _broken(word, least), 2000, 200, GROUP)
            for word, shift, least in (("50.5/49.5", 0.005, 0.20), ("51/49", 0.01, 0.99))
        ),
    ]


def _broken(word: str, least: float) -> list[Claim]:
    return [
        Claim(f"{word}: found by the e-process within 60 days", "gate", "at least", least),
        Claim(f"{word}: day on which it is found, median", "day", "shown", share=False, median=True),
    ]


def _measure(periods: tuple[tuple[int, float], ...], shift: float) -> Callable[[Generator, int], Values]:
    starts, weights = [day for day, _ in periods], np.array([weight for _, weight in periods])
    of_day = np.searchsorted(starts, np.arange(DAYS), side="right") - 1

    def run(rng: Generator, runs: int) -> Values:
        treated = rng.binomial(A_DAY, weights[of_day] + shift, (runs, DAYS))
        fresh, carried, chi, naive = (np.zeros((runs, DAYS)) for _ in range(4))
        before, expected = np.zeros((runs, 1)), 0.0
        apart, variance = np.zeros((runs, DAYS)), np.zeros(DAYS)
        for place, weight in enumerate(weights):
            mine = of_day == place
            b, n = np.cumsum(treated * mine, axis=1), np.cumsum(mine) * A_DAY
            fresh += _log_e(n - b, b, float(weight), float(weight), CONCENTRATION)
            # What the arms got beyond their weights in the periods before, taken for what they will get.
            first, known = float(weights[0]), A_DAY * int((of_day < place).sum())
            lean_b = weight * (CONCENTRATION * first + before) / (CONCENTRATION * first + expected)
            lean_a = (1 - weight) * (CONCENTRATION * (1 - first) + known - before) / (CONCENTRATION * (1 - first) + known - expected)
            carried += _log_e(n - b, b, float(weight), lean_b / (lean_a + lean_b), CONCENTRATION + float(known))
            before, expected = before + b[:, -1:], expected + float(weight) * float(n[-1])
            apart += b - n * weight
            variance += n * weight * (1 - weight)
        log_e = np.logaddexp(fresh, carried) - math.log(2)
        chi = chdtrc(1, apart**2 / variance)
        n, last = A_DAY * np.arange(1, DAYS + 1), weights[of_day]
        naive = chdtrc(1, (np.cumsum(treated, axis=1) - n * last) ** 2 / (n * last * (1 - last)))
        broken = log_e >= math.log(GATE)
        first = broken.argmax(axis=1)
        gated = broken.any(axis=1)
        for i in range(runs):
            looks = {int(first[i])} if gated[i] else set()
            for day in looks | ({int(rng.integers(DAYS))} if i % 8 == 0 else set()):
                _compare(periods, of_day, treated[i], day, float(log_e[i, day]), float(chi[i, day]))
        return {
            "gate": gated.astype(float).tolist(),
            "chi": (chi <= 0.001).any(axis=1).astype(float).tolist(),
            "naive": (naive <= 0.001).any(axis=1).astype(float).tolist(),
            "day": [float(day) + 1 for day, found in zip(first, gated, strict=True) if found],
        }

    return run


def _log_e(a: Rows, b: Rows, weight: float, leaning: float | Rows, known: float) -> Rows:
    """ln of the Dirichlet-multinomial Bayes factor of two arms (Lindon & Malek 2022, arXiv 2011.03567) whose prior leans to
    `leaning` for b, worth `known` units."""
    shares = ((a, 1 - weight, 1 - leaning), (b, weight, leaning))
    gained = sum(gammaln(known * prior + n) - gammaln(known * prior) - n * math.log(s) for n, s, prior in shares)
    return np.asarray(gained - gammaln(known + a + b) + gammaln(known))


def _compare(periods: tuple[tuple[int, float], ...], of_day: Rows, treated: Rows, day: int, log_e: float, chi: float) -> None:
    """Raises AssertionError where the check says something else than the recount."""
    rows = []
    for place, (start, weight) in enumerate(periods):
        days = (of_day == place) & (np.arange(DAYS) <= day)
        b = int(treated[days].sum())
        units = {"a": int(days.sum()) * A_DAY - b, "b": b}
        rows.append(WeightPeriod(started_at=later(24 * start), weights={"a": 1 - weight, "b": weight}, units=units))
    found = sample_ratio(rows, ["a", "b"])
    same_e = math.isclose(math.log(found.e_value), log_e, rel_tol=1e-6, abs_tol=1e-6)
    same_p = found.p_value is not None and math.isclose(found.p_value, chi, rel_tol=1e-6, abs_tol=1e-12)
    assert same_e and same_p and found.ok == (log_e < math.log(GATE)), (found, log_e, chi)
