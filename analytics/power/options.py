"""The options of `salon power` → what is asked: numbers checked, the rest taken from a history."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from analytics.experiment import MetricKind
from analytics.inference.power import Outcome
from analytics.nearest import nearest
from analytics.power.arrivals import Arrivals, fit, steady
from analytics.power.asked import Asked
from analytics.power.numbers import equal_shares, parse_effect, parse_number, parse_share, parse_shares

# Squares of larger numbers overflow.
LARGEST = 1e150


def plain_numbers(arguments: argparse.Namespace) -> Asked:
    """Everything from the options. Raises ValueError that names the option and the fix."""
    if arguments.baseline is None:
        raise ValueError(
            "no baseline: give --baseline 10% (a proportion), --baseline 12.5 --sd 30 (a mean), a FILE, --route or --experiment"
        )
    baseline = parse_number("--baseline", arguments.baseline)
    if abs(baseline) >= LARGEST:
        raise ValueError(f"--baseline is {baseline:g}; give it in a larger unit")
    kind = _kind(arguments, baseline)
    outcome = Outcome(baseline=baseline, variance=None if kind == "proportion" else arguments.sd**2, remaining=remaining(arguments))
    return design_asked(arguments, metric="", kind=kind, outcome=outcome, arrivals=said_arrivals(arguments))


def design_asked(arguments: argparse.Namespace, *, metric: str, kind: MetricKind, outcome: Outcome, **known: Any) -> Asked:
    """With the options that say how it is designed; `known` are fields of `Asked` that a history knows, unless an option says more."""
    shares, control = _shares(arguments, known.pop("shares", None), known.pop("control", None))
    arrivals: Arrivals | None = known.pop("arrivals", None)
    said = {
        "alpha": arguments.alpha,
        "correction": arguments.correction,
        "planned_units": arguments.planned_units,
        "looks": arguments.looks,
        "window_days": arguments.window_days,
        "comparisons": arguments.comparisons,
        "lower_is_better": arguments.lower or None,
    }
    if arrivals is not None and arguments.traffic is not None:
        share = parse_share("--traffic", arguments.traffic)
        if share == 0:
            raise ValueError("--traffic is 0: nobody would take part; give a share above 0")
        arrivals = arrivals.scaled(share)
    elif arguments.traffic is not None:
        raise ValueError("--traffic says nothing without arrivals: give --units-per-day or a history")
    asked = Asked(
        metric=metric,
        kind=kind,
        outcome=outcome,
        shares=shares,
        control=control,
        power=parse_share("--power", arguments.power),
        effect=parse_effect("--mde", arguments.mde) if arguments.mde else None,
        margin=_margin(arguments),
        units=arguments.units,
        days=arguments.days,
        arrivals=arrivals,
        **{**known, **{name: value for name, value in said.items() if value is not None}},
    )
    _check(asked)
    if asked.margin is None and asked.effect is not None and asked.effect.value > 0 and asked.lower_is_better:
        # Of a metric of which less is better, the effect to find is a fall.
        asked = msgspec.structs.replace(asked, effect=msgspec.structs.replace(asked.effect, value=-asked.effect.value))
    return asked


def remaining(arguments: argparse.Namespace) -> float:
    """The share of the variance that covariates leave, as the options say. Raises ValueError."""
    if arguments.variance_reduction is not None and arguments.correlation is not None:
        raise ValueError("--variance-reduction and --correlation say the same; give one")
    if arguments.correlation is not None:
        if not -1 < arguments.correlation < 1:
            raise ValueError(f"--correlation is {arguments.correlation:g}; give a number between -1 and 1")
        return 1 - float(arguments.correlation) ** 2
    if arguments.variance_reduction is None:
        return 1.0
    taken = parse_share("--variance-reduction", arguments.variance_reduction)
    if taken == 1:
        raise ValueError("--variance-reduction is 100%: no covariate takes all of the variance")
    return 1 - taken


def refuse(arguments: argparse.Namespace, names: Sequence[str], reason: str) -> None:
    """Raise ValueError for the first of these options that was given."""
    for name in names:
        if getattr(arguments, name) not in (None, []):
            raise ValueError(f"--{name.replace('_', '-')} {reason}")


def _kind(arguments: argparse.Namespace, baseline: float) -> MetricKind:
    kind: MetricKind = arguments.kind or ("proportion" if arguments.sd is None else "mean")
    if kind == "proportion":
        if arguments.sd is not None:
            raise ValueError("--sd does not go with a proportion, whose variance follows from its baseline; leave it out")
        if not 0 < baseline < 1:
            raise ValueError(f"--baseline {arguments.baseline!r} is no proportion between 0 and 1; for a mean give its --sd")
        return kind
    if arguments.sd is None or not 1 / LARGEST < arguments.sd < LARGEST:
        how = "; √units times the standard error of its estimate" if kind in ("ratio", "quantile") else ""
        raise ValueError(f"--sd is {arguments.sd}; a {kind} needs its standard deviation per unit, above 0{how}; or plan from a file")
    return kind


def said_arrivals(arguments: argparse.Namespace) -> Arrivals | None:
    """What --units-per-day says. Raises ValueError."""
    if arguments.units_per_day is None:
        return None
    counts = [parse_number("--units-per-day", part) for part in arguments.units_per_day.split(",")]
    if any(count < 0 for count in counts):
        raise ValueError(f"--units-per-day {arguments.units_per_day!r} holds a negative number; give units above 0")
    return steady(counts[0]) if len(counts) == 1 else fit(counts)


def _shares(arguments: argparse.Namespace, known: dict[str, float] | None, control: str | None) -> tuple[dict[str, float], str]:
    if arguments.arms is not None and arguments.weights is not None:
        raise ValueError("--arms gives equal shares and --weights their own; give one")
    if arguments.weights is not None:
        shares = parse_shares("--weights", arguments.weights)
        control = None
    elif arguments.arms is not None or known is None:
        shares = equal_shares(arguments.arms or 2)
        control = None
    else:
        shares = known
    control = arguments.control or control or next(iter(shares))
    if control not in shares:
        raise ValueError(f"--control {control!r} is no arm; {nearest(control, list(shares))}")
    return shares, control


def _margin(arguments: argparse.Namespace) -> float | None:
    if arguments.margin is None:
        return None
    margin = parse_number("--margin", arguments.margin)
    if not 0 < margin <= 10:
        raise ValueError(f"--margin is {arguments.margin!r}; give how much worse is still accepted, relative to the control, such as 2%")
    return margin


def _check(asked: Asked) -> None:
    if not 0 < asked.alpha < 0.5:
        raise ValueError(f"--alpha is {asked.alpha:g}; give a number between 0 and 0.5, such as 0.05")
    if not asked.level < asked.power < 1:
        raise ValueError(f"--power is {asked.power:g}; give a share between alpha and 100%, such as 80%")
    if asked.units is not None and not (math.isfinite(asked.units) and asked.units >= 2 * len(asked.shares)):
        raise ValueError(f"--units is {asked.units:g}; give at least {2 * len(asked.shares)}, in all arms together")
    if asked.units is not None and asked.days is not None:
        raise ValueError("--units and --days both say how much there will be; give one")
    if asked.days is not None and not (math.isfinite(asked.days) and asked.days > 0):
        raise ValueError(f"--days is {asked.days:g}; give a number above 0")
    if not (math.isfinite(asked.planned_units) and asked.planned_units >= 10):
        raise ValueError(f"--planned-units is {asked.planned_units:g}; give at least 10")
    if asked.comparisons is not None and not 1 <= asked.comparisons <= 10_000:
        raise ValueError(f"--comparisons is {asked.comparisons}; give over how many comparisons alpha is shared, 1 or more")
    if asked.looks is not None and not 2 <= asked.looks <= 50:
        raise ValueError(f"--looks is {asked.looks}; give 2 to 50")
    if not (math.isfinite(asked.window_days) and asked.window_days >= 0):
        raise ValueError(f"--window-days is {asked.window_days:g}; give 0 or more")
    if asked.margin is not None and asked.outcome.baseline == 0:
        raise ValueError("--margin is relative, and the baseline is 0: there is nothing that it is a share of")
    if asked.margin is not None and asked.margin >= 1 and not asked.lower_is_better:
        raise ValueError(f"--margin is {asked.margin:g}: nothing falls by more than 100%; for a metric that must not rise say --lower")
