"""People to simulate: what they do, in one arm, drawn per unit. Every function says the truth that it draws from.

Rates and spreads are those of a gallery of pictures: few like, fewer pay, some do most of everything.
"""

from typing import NamedTuple

import numpy as np
from sums import Rows

Generator = np.random.Generator


class Clicks(NamedTuple):
    """Clicks and views per unit, and the same from before the exposure."""

    clicks: Rows
    views: Rows
    clicks_before: Rows
    views_before: Rows


class Latencies(NamedTuple):
    """One row per event: its milliseconds, and which unit it is of."""

    ms: Rows
    unit: Rows


class Covaried(NamedTuple):
    """An outcome per unit, with what is known of the unit beforehand, one column each."""

    outcome: Rows
    before: list[Rows]


def revenue(rng: Generator, n: int, payers: float) -> Rows:
    """Lognormal spend of a share `payers`: mean payers x e^3, skewness above 10."""
    return np.where(rng.random(n) < payers, rng.lognormal(2.5, 1.0, n), 0.0)


REVENUE_PER_PAYER = float(np.exp(3.0))


def clicks(rng: Generator, n: int, rate: float) -> Clicks:
    """Binomial clicks on Poisson views, both with habits of the unit: sum(clicks)/sum(views) is `rate`."""
    busy, keen = rng.gamma(2.0, 3.0, n), rng.beta(2.0, 2.0 * (1 - rate) / rate, n)
    views, before = 1 + rng.poisson(busy), 1 + rng.poisson(busy)
    return Clicks(rng.binomial(views, keen), views, rng.binomial(before, keen), before)


def latencies(rng: Generator, n: int, median_ms: float) -> Latencies:
    """Lognormal events clustered by unit; over events ln(ms / median) has standard deviation 0.5."""
    unit = np.repeat(np.arange(n), 1 + rng.poisson(4.0, n))
    spread = rng.normal(0.0, 0.3, n)[unit] + rng.normal(0.0, 0.4, len(unit))
    return Latencies(median_ms * np.exp(spread), unit)


def habit(rng: Generator, n: int, base: float, slope: float) -> Covaried:
    """Outcome base + slope x habit + noise; the habit is gamma with mean 4: mean base + 4 slope."""
    before = rng.gamma(4.0, 1.0, n)
    return Covaried(base + slope * before + rng.normal(0.0, 1.5, n), [before])


def likers(rng: Generator, n: int, rate: float, won: float = 0.0) -> Covaried:
    """Did it at all (mean `rate`, and a share `won` of the others besides); known: how often before, which knows nothing of `won`."""
    keen = rng.beta(1.0, (1 - rate) / rate, n)
    did = (rng.random(n) < keen) | (rng.random(n) < won)
    return Covaried(did.astype(float), [rng.poisson(8 * keen).astype(float)])


def three_habits(rng: Generator, n: int, base: float, slope: float) -> Covaried:
    """Three correlated covariates of means 4, 1 and 0; mean base + 4 slope + 1."""
    first, second = rng.gamma(4.0, 1.0, n), rng.exponential(1.0, n)
    third = 0.3 * (first - 4.0) + rng.normal(0.0, 1.0, n)
    return Covaried(base + slope * first + second + 0.5 * third + rng.normal(0.0, 1.0, n), [first, second, third])


class Acts(NamedTuple):
    """One row per act: of which unit, in which hour."""

    unit: Rows
    hour: Rows


def acts(rng: Generator, arrived: Rows, hours: int, per_hour: float, shape: float | None) -> Acts:
    """What units go on doing from their arrival (in hours) to the end: a Poisson stream each, at rates that are gamma with this
    `shape` around `per_hour`, or all alike (None)."""
    rates = np.full(len(arrived), per_hour) if shape is None else rng.gamma(shape, per_hour / shape, len(arrived))
    counts = rng.poisson(rates * (hours - arrived))
    unit = np.repeat(np.arange(len(arrived)), counts)
    return Acts(unit, arrived[unit] + rng.random(len(unit)) * (hours - arrived[unit]))
