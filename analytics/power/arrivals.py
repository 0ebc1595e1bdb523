"""How many different units come in so many days. They are not linear in days: people who come back are not new."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np

MOST_DAYS = 3650.0


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """`cumulative` [days]: units seen by the end of each day of a history. After it, t days on, new ones come at a rate of
    `steady` + `fading` e^(-t/`fading_days`) a day: people who are new to everybody, and the rest of those who were there all along.
    """

    cumulative: tuple[float, ...]
    steady: float
    fading: float = 0.0
    fading_days: float = 1.0

    @property
    def observed_days(self) -> int:
        return len(self.cumulative)

    def units(self, days: float) -> float:
        """Different units by the end of `days` days, which need not be whole."""
        if days <= 0:
            return 0.0
        if days >= self.observed_days:
            on = days - self.observed_days
            return self.cumulative[-1] + self.steady * on - self.fading * self.fading_days * math.expm1(-on / self.fading_days)
        whole = math.floor(days)
        before = self.cumulative[whole - 1] if whole else 0.0
        return before + (days - whole) * (self.cumulative[whole] - before)

    def days(self, units: float) -> float | None:
        """How many days until that many different units have come; None when not within `MOST_DAYS`."""
        if self.units(MOST_DAYS) < units:
            return None
        low, high = 0.0, MOST_DAYS
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (low, middle) if self.units(middle) >= units else (middle, high)
        return high

    def scaled(self, share: float) -> "Arrivals":
        """When a share of the units takes part."""
        cumulative = tuple(share * each for each in self.cumulative)
        return Arrivals(cumulative=cumulative, steady=share * self.steady, fading=share * self.fading, fading_days=self.fading_days)


def steady(units_per_day: float) -> Arrivals:
    """As many new units every day. Raises ValueError."""
    if not (math.isfinite(units_per_day) and units_per_day > 0):
        raise ValueError(f"{units_per_day:g} new units a day; give a number above 0")
    return Arrivals(cumulative=(float(units_per_day),), steady=float(units_per_day))


def fit(new_units: Sequence[float]) -> Arrivals:
    """From the units [days] seen for the first time on each day. Raises ValueError when there are none.

    steady + a e^(-d/tau) by least squares, weighted as counts are (variance = mean), neither part below 0, tau from a grid of half a
    day to twice the history. From fewer than 4 days no fading can be told: the last day goes on.
    """
    counts = np.asarray(new_units, dtype=np.float64)
    if not counts.sum() > 0:
        raise ValueError("no unit came in the history; take a longer one")
    days, cumulative = len(counts), tuple(map(float, np.cumsum(counts)))
    if days < 4:
        return Arrivals(cumulative=cumulative, steady=float(counts[-1]))
    day = np.arange(days) + 0.5
    weights = 1 / np.maximum(counts, 1.0)
    level = float(weights @ counts / weights.sum())
    best, chosen = float(weights @ (counts - level) ** 2), (level, 0.0, 1.0)
    for tau in np.geomspace(0.5, 2 * days, 150):
        shape = np.exp(-day / tau)
        for base in (1.0, 0.0):
            columns = np.stack([np.full(days, base), shape])[0 if base else 1 :]
            squares = (columns * weights) @ columns.T
            solution, *_ = np.linalg.lstsq(squares, (columns * weights) @ counts, rcond=None)
            left = float(weights @ (counts - solution @ columns) ** 2)
            if (solution >= 0).all() and left < best:
                best, chosen = left, (float(solution[0]) if base else 0.0, float(solution[-1]), float(tau))
    flow, peak, tau = chosen
    return Arrivals(cumulative=cumulative, steady=flow, fading=peak * math.exp(-days / tau), fading_days=tau)
