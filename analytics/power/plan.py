"""What is planned → how many units, how long, how small an effect: for one look, for looks at any time, for planned looks."""

import math
from typing import Literal

import msgspec

from analytics.inference import group_sequential
from analytics.inference.crossing import crossing, effective_critical
from analytics.inference.power import (
    Criterion,
    Spread,
    any_look,
    fixed,
    power_at,
    required_units,
    smallest_effect,
    smallest_margin,
)
from analytics.power.asked import Asked

# How often a report is read that may be read at any time: hourly adds little to this.
READINGS = 30
DAYS = (1, 2, 3, 7, 14, 21, 28, 42, 56)


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """An effect in the metric's own unit and relative to the control (None where the baseline is 0)."""

    absolute: float
    relative: float | None


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """One way to read the experiment, with `units` in all arms, as is `planned_units`. None: cannot be told, or is not asked.

    `mde`: the smallest effect (or margin) that is found with the power asked for. `power`: to find the effect asked for, judged
    once, at `units` (group_sequential: by then); `power_over_looks`: by then, when read at `looks` equally spaced times, and
    `expected_units`: where that stops on average.
    """

    design: Literal["fixed", "always_valid", "group_sequential"]
    method: str
    critical: float | None
    units: int | None
    units_per_arm: dict[str, int]
    power: float | None
    mde: Size | None
    planned_units: int | None = None
    looks: int | None = None
    bounds: list[float] = msgspec.field(default_factory=list)
    power_over_looks: float | None = None
    expected_units: int | None = None
    days: float | None = None
    extrapolated: bool = False


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """By the end of a day: units of all arms, and the smallest effects (or margins) that are found with the power asked for."""

    day: int
    units: int
    fixed: Size | None
    always_valid: Size | None


def designs(asked: Asked) -> list[Design]:
    """One look; any look at `planned_units` and where it is planned best; planned looks. Raises ValueError for what cannot be asked."""
    units = _given_units(asked)
    if asked.change is None and units is None:
        raise ValueError("nothing to solve for: give the effect (--mde 5%), or the units (--units, or --days with arrivals), or both")
    one_sided = asked.margin is not None
    found = [_design(asked, "fixed", fixed(asked.level, one_sided=one_sided), units)]
    planned = _design(asked, "always_valid", any_look(asked.level, asked.planned_units, one_sided=one_sided), units, asked.planned_units)
    best = _design(asked, "always_valid", any_look(asked.level, None, share=asked.pair, one_sided=one_sided), units, None)
    found.append(planned)
    if best.planned_units is not None and not 0.8 < best.planned_units / asked.planned_units < 1.25:
        found.append(best)
    if asked.looks is not None:
        found.append(_group_sequential(asked, units))
    return found


def by_day(asked: Asked) -> list[Reached]:
    """The smallest effect after so many days; empty without arrivals."""
    if asked.arrivals is None:
        return []
    one_sided = asked.margin is not None
    rows = []
    for day in DAYS:
        if day <= asked.window_days:
            continue
        units = asked.arrivals.units(day - asked.window_days)
        at_once, any_time = (
            _smallest(asked, units * asked.pair, criterion)
            for criterion in (fixed(asked.level, one_sided=one_sided), any_look(asked.level, asked.planned_units, one_sided=one_sided))
        )
        rows.append(Reached(day=day, units=math.floor(units), fixed=at_once, always_valid=any_time))
    return rows


def _given_units(asked: Asked) -> float | None:
    if asked.units is not None:
        return asked.units
    if asked.days is None:
        return None
    if asked.arrivals is None:
        raise ValueError("--days says nothing without arrivals: give --units-per-day, or a history (a file with --time, or --route)")
    if asked.days <= asked.window_days:
        raise ValueError(f"--days {asked.days:g} is within the metric's window of {asked.window_days:g} days: no unit would be through")
    return asked.arrivals.units(asked.days - asked.window_days)


def _design(
    asked: Asked, name: Literal["fixed", "always_valid"], criterion: Criterion, units: float | None, planned: float | None = None
) -> Design:
    one_sided, change = asked.margin is not None, asked.change
    pair: float | None
    if units is None and change is not None:
        pair = required_units(asked.found(change), criterion, asked.power)
    else:
        pair = None if units is None else units * asked.pair
    power = over_looks = expected = None
    if pair is not None and change is not None:
        found = asked.found(change)
        power = power_at(pair, found, criterion, one_sided=one_sided)
        if name == "always_valid":
            # Where it is planned best depends on where it ends, not on the look.
            line = any_look(asked.level, pair / asked.pair if planned is None else planned, one_sided=one_sided)
            over_looks, mean = _over_looks(asked, found, pair, [line(pair * (i + 1) / READINGS) for i in range(READINGS)])
            expected = _whole(mean / asked.pair)
    tuned = name == "always_valid" and planned is None
    if tuned and pair is not None:
        planned = _whole(pair / asked.pair)
    method = {
        "fixed": "one look at the end, at a time fixed beforehand: normal quantile",
        "always_valid": "read at any time: asymptotic confidence sequence",
    }[name] + (", planned to be tightest at the end" if tuned else "")
    return _filled(
        asked,
        Design(
            design=name,
            method=method,
            critical=None if pair is None else criterion(pair),
            units=None,
            units_per_arm={},
            power=power,
            mde=None,
            planned_units=None if planned is None else round(planned),
            looks=READINGS if over_looks is not None else None,
            power_over_looks=over_looks,
            expected_units=expected,
        ),
        pair,
        units,
        criterion,
    )


def _group_sequential(asked: Asked, units: float | None) -> Design:
    looks = asked.looks or 1
    one_sided, change = asked.margin is not None, asked.change
    fractions = [(i + 1) / looks for i in range(looks)]
    bounds = [float(b) for b in group_sequential.bounds(fractions, 2 * asked.level if one_sided else asked.level)]
    effective = effective_critical(fractions, bounds, asked.power, one_sided=one_sided)
    pair: float | None
    if units is None and change is not None:
        pair = required_units(asked.found(change), lambda n: effective, asked.power)
    else:
        pair = None if units is None else units * asked.pair
    over_looks = expected = None
    if pair is not None and change is not None:
        over_looks, mean = _over_looks(asked, asked.found(change), pair, bounds)
        expected = _whole(mean / asked.pair)
    design = Design(
        design="group_sequential",
        method=f"{looks} equally spaced looks, planned beforehand: Lan-DeMets bounds, spending alpha t²",
        critical=bounds[-1],
        units=None,
        units_per_arm={},
        power=over_looks,
        mde=None,
        planned_units=None if pair is None else _whole(pair / asked.pair),
        looks=looks,
        bounds=bounds,
        power_over_looks=over_looks,
        expected_units=expected,
    )
    return _filled(asked, design, pair, units, lambda n: effective)


def _over_looks(asked: Asked, found: Spread, pair: float, criticals: list[float]) -> tuple[float, float]:
    """Probability to have found it by the last look, and units of the pair where it stops on average."""
    looks = len(criticals)
    fractions = [(i + 1) / looks for i in range(looks)]
    scale = found.null / found.true
    drift = found.signal * math.sqrt(pair) / found.true
    stops = crossing(fractions, [scale * c for c in criticals], drift, one_sided=asked.margin is not None)
    total = min(1.0, sum(stops))
    return total, pair * (sum(f * p for f, p in zip(fractions, stops, strict=True)) + 1 - total)


def _filled(asked: Asked, design: Design, pair: float | None, units: float | None, criterion: Criterion) -> Design:
    """With what follows from the units: those of each arm, the effect, the days."""
    if pair is None:
        return design
    total = pair / asked.pair
    solved = units is None and asked.change is not None
    # What is needed is rounded up, to 2 at least: one unit says nothing of how units vary. What there is, is rounded down.
    per_arm = {arm: max(2, _whole(total * share)) if solved else math.floor(total * share + 1e-9) for arm, share in asked.shares.items()}
    if not solved:
        size = _smallest(asked, pair, criterion)
    elif asked.margin is not None:
        size = Size(absolute=asked.margin * abs(asked.outcome.baseline), relative=asked.margin)
    else:
        size = sized(asked.change or 0.0, asked.outcome.baseline)
    days = extrapolated = None
    if asked.arrivals is not None:
        needed = asked.arrivals.days(total)
        days = None if needed is None else needed + asked.window_days
        extrapolated = needed is None or needed > asked.arrivals.observed_days
    return msgspec.structs.replace(
        design,
        units=sum(per_arm.values()),
        units_per_arm=per_arm,
        mde=size,
        days=days,
        extrapolated=bool(extrapolated),
    )


def _smallest(asked: Asked, pair: float, criterion: Criterion) -> Size | None:
    """The smallest effect, or with a margin the smallest margin (relative, and in the metric's unit), for that many units."""
    share, baseline = asked.shares[asked.control] / asked.pair, asked.outcome.baseline
    if pair <= 0:
        return None
    if asked.margin is not None:
        margin = smallest_margin(
            asked.outcome, share, pair, criterion, asked.power, lower_is_better=asked.lower_is_better, effect=asked.change or 0.0
        )
        return None if margin is None else Size(absolute=margin * abs(baseline), relative=margin)
    wanted = asked.change
    upwards = wanted > 0 if wanted is not None else not asked.lower_is_better
    effect = smallest_effect(asked.outcome, share, pair, criterion, asked.power, upwards=upwards)
    return None if effect is None else sized(effect, baseline)


def sized(absolute: float, baseline: float) -> Size:
    """With its relative size, where the baseline is not 0."""
    return Size(absolute=absolute, relative=absolute / abs(baseline) if baseline else None)


def _whole(units: float) -> int:
    return math.ceil(units - 1e-9 * max(1.0, units))
