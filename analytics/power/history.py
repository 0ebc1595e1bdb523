"""What a past tells of a metric: how it is, how it varies between units, what covariates explain, how units came."""

import msgspec

from analytics.experiment import MetricKind
from analytics.facts import Joint, Moments, QuantileFacts
from analytics.inference.explained import explained
from analytics.inference.mean import mean_variance
from analytics.inference.power import Outcome
from analytics.inference.quantile import quantile_variance
from analytics.inference.ratio import ratio_value, ratio_variance
from analytics.power.arrivals import Arrivals

# What covariates leave below this share is rounding: they hold the outcome itself.
ROUNDING = 1e-9


class History(msgspec.Struct, frozen=True, kw_only=True):
    """One metric over all units of the past, as if they were one arm. `joint` where there are covariates."""

    metric: str
    kind: MetricKind
    facts: Moments | QuantileFacts | None
    joint: Joint | None = None
    arrivals: Arrivals | None = None
    window_days: float = 0.0
    units: int = 0


def outcome_of(history: History, remaining: float | None = None) -> Outcome:
    """The metric to plan for; `remaining` overrides what the history's covariates leave. Raises ValueError where nothing can be planned."""
    if remaining is None:
        remaining = 1 - explained(history.joint) if history.joint is not None else 1.0
    if remaining <= ROUNDING:
        raise ValueError(f"the covariates foretell {history.metric!r} exactly: they cannot be from before the exposure")
    baseline, variance = level_and_variance(history.kind, history.facts, history.metric)
    if history.kind == "proportion":
        if not 0 < baseline < 1:
            who = "no unit" if baseline <= 0 else "every unit"
            raise ValueError(
                f"{history.metric!r}: {who} of {history.units:,} did it; a share of {baseline:g} tells nothing of how it varies"
            )
        return Outcome(baseline=baseline, remaining=remaining)
    if not variance > 0:
        raise ValueError(f"{history.metric!r} is {baseline:g} for all of {history.units:,} units: nothing varies, nothing can be planned")
    return Outcome(baseline=baseline, variance=variance, remaining=remaining)


def level_and_variance(kind: MetricKind, facts: Moments | QuantileFacts | None, metric: str) -> tuple[float, float]:
    """The metric's value and its variance per unit: n times the variance of the estimate. Raises ValueError where there is none."""
    if isinstance(facts, QuantileFacts):
        per_event = quantile_variance(facts)
        if per_event is None:
            raise ValueError(
                f"{metric!r}: {facts.events:,} values of {facts.units:,} units are too few, or too alike, for the quantile {facts.level:g}"
            )
        return facts.value, per_event / facts.count_mean
    if facts is None or facts.n < 2:
        raise ValueError(f"{metric!r}: {0 if facts is None else facts.n} units in the history; it takes at least 2")
    if kind == "proportion":
        return facts.mean, facts.mean * (1 - facts.mean)
    if kind != "ratio":
        return facts.mean, mean_variance(facts)
    value = ratio_value(facts)
    if value is None:
        raise ValueError(f"{metric!r}: its denominator is 0 throughout the history")
    return value, ratio_variance(facts)
