"""A running experiment: how likely it is to find the effect as it stands, and what it still needs (mid-run power).

With f times as many units more, se_f = se/√(1+f), and half the width of the interval then: z se_f, or that of the confidence sequence at
N (1 + f). power = Φ((MDE - half)/se_f) + Φ(-(MDE + half)/se_f). f is doubled until the power is reached, then bisected.
"""

import math
from collections.abc import Callable

import msgspec
from scipy.special import ndtri

from analytics.inference.power import LARGEST_UNITS, Criterion, Spread, any_look, fixed, power_at
from analytics.power.arrivals import Arrivals


class Needed(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read it. `power_now`: to find the effect with today's units, judged once; `growth`: how many times the units of
    today must come in addition; `extra_units` in all arms, `extra_days`: None when not within ten years, or without arrivals;
    `at_planned`: the power when the planned units are in. All None where no effect is asked for."""

    power_now: float | None
    mde_now: float
    growth: float | None
    extra_units: int | None
    extra_days: float | None
    at_planned: float | None


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """What a running experiment has (units in all arms, and of the pair that knows least) and needs. In the metric's unit: `difference`
    as it stands, `se` of what is tested. `asked`: whether an effect or a margin was given to find."""

    arm: str
    units: int
    pair_units: int
    days: float | None
    se: float
    difference: float
    asked: bool
    fixed: Needed | None
    always_valid: Needed | None


def needed(
    found: Spread,
    pair_units: int,
    criterion: Criterion,
    power: float,
    *,
    units: int,
    arrivals: Arrivals | None,
    one_sided: bool = False,
    planned_units: float | None = None,
) -> Needed | None:
    """`found` is what is looked for (signal 0: nothing is asked), with deviations as of now times √`pair_units`. None when nothing varies.

    `units` are in all arms now; `arrivals` are in all arms since the experiment began. `planned_units` of the pair.
    """
    if not (found.true > 0 and pair_units > 0):
        return None

    def reached(growth: float) -> float:
        return power_at(pair_units * (1 + growth), found, criterion, one_sided=one_sided)

    smallest = _smallest(pair_units, found, criterion, power)
    if found.signal == 0:
        return Needed(power_now=None, mde_now=smallest, growth=None, extra_units=None, extra_days=None, at_planned=None)
    growth = _growth(reached, power, LARGEST_UNITS / pair_units)
    extra = None if growth is None else math.ceil(growth * units - 1e-9 * units)
    days = 0.0 if extra == 0 else None
    if extra and arrivals is not None:
        end = arrivals.days(units + extra)
        days = None if end is None else max(0.0, end - (arrivals.days(units) or 0.0))
    return Needed(
        power_now=reached(0.0),
        mde_now=smallest,
        growth=growth,
        extra_units=extra,
        extra_days=days,
        at_planned=None if planned_units is None else power_at(max(planned_units, pair_units), found, criterion, one_sided=one_sided),
    )


def _growth(reached: Callable[[float], float], power: float, most: float) -> float | None:
    """0 when it is reached now; None when not by `most`."""
    if reached(0.0) >= power:
        return 0.0
    low, high = 0.0, 0.01
    while reached(high) < power:
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return high


def _smallest(pair_units: int, found: Spread, criterion: Criterion, power: float) -> float:
    return (criterion(pair_units) * found.null + float(ndtri(power)) * found.true) / math.sqrt(pair_units)


def ways(alpha: float, planned_units: float, *, one_sided: bool) -> tuple[Criterion, Criterion]:
    """One look, and any look."""
    return fixed(alpha, one_sided=one_sided), any_look(alpha, planned_units, one_sided=one_sided)
