"""When a statistic that is looked at several times first leaves its bounds: power and expected units of a plan with looks.

Z at information t is B(t)/√t, where B is a Brownian motion with drift: independent increments of variance t_i - t_{i-1}. Its density is
carried from look to look over where it has not left yet (Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, ch. 19).
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
_REACH = 8.5
# Enough for 1e-6 on the sum over 30 looks.
_FEWEST, _MOST, _PER_DEVIATION = 201, 2401, 5


def crossing(fractions: Sequence[float], criticals: Sequence[float], drift: float, *, one_sided: bool = False) -> list[float]:
    """P(|Z| > critical for the first time at look i) [looks]; with `one_sided` Z > critical.

    `fractions` [looks]: information at each look as a share of the full, rising; `drift`: the mean of Z at the full information.
    Raises ValueError for fractions that do not rise from above 0.
    """
    if len(fractions) != len(criticals) or not fractions:
        raise ValueError(f"{len(fractions)} looks and {len(criticals)} critical values; give one critical value for each look")
    if any(not b > a for a, b in zip((0.0, *fractions), fractions, strict=False)):
        raise ValueError(f"the looks are at {list(fractions)}; give shares of the information that rise from above 0")
    found: list[float] = []
    at, weights = np.zeros(1), np.ones(1)
    before = 0.0
    for look, (t, critical) in enumerate(zip(fractions, criticals, strict=True)):
        step = t - before
        deviation, bound = math.sqrt(step), critical * math.sqrt(t)
        centre = at + drift * step
        out = ndtr((centre - bound) / deviation)
        if not one_sided:
            out = out + ndtr((-bound - centre) / deviation)
        found.append(float(weights @ out))
        if look + 1 == len(fractions):
            break
        low, high = max(-bound, drift * t - _REACH * math.sqrt(t)), min(bound, drift * t + _REACH * math.sqrt(t))
        if one_sided:
            low = drift * t - _REACH * math.sqrt(t)
        if not high > low:
            return found + [0.0] * (len(fractions) - len(found))
        finest = min(deviation, math.sqrt(fractions[look + 1] - t))
        grid, simpson = _grid(low, high, finest)
        density = np.exp(-0.5 * ((grid[:, None] - centre[None, :]) / deviation) ** 2) @ weights / (deviation * math.sqrt(2 * math.pi))
        at, weights, before = grid, simpson * density, t
    return found


def drift_for(fractions: Sequence[float], criticals: Sequence[float], power: float, *, one_sided: bool = False) -> float:
    """The drift at which the bounds are left with probability `power` by the last look."""
    low, high = 0.0, -float(ndtri((1 - power) / 2)) + max(criticals) + 1
    for _ in range(60):
        middle = (low + high) / 2
        reached = sum(crossing(fractions, criticals, middle, one_sided=one_sided)) >= power
        low, high = (low, middle) if reached else (middle, high)
        if high - low < 1e-9:
            break
    return high


def effective_critical(fractions: Sequence[float], criticals: Sequence[float], power: float, *, one_sided: bool = False) -> float:
    """The critical value of one look that asks for as much signal to reach `power` as these looks do by the last one."""
    return drift_for(fractions, criticals, power, one_sided=one_sided) - float(ndtri(power))


def _grid(low: float, high: float, finest: float) -> tuple[Floats, Floats]:
    """Points and Simpson weights over [low, high], a fraction of `finest` apart."""
    count = min(_MOST, max(_FEWEST, math.ceil(_PER_DEVIATION * (high - low) / finest))) // 2 * 2 + 1
    grid = np.linspace(low, high, count)
    weights = np.full(count, 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return grid, weights * (high - low) / (count - 1) / 3
