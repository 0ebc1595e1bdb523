"""Rows that were drawn → the sufficient statistics that the warehouse would hand over."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from analytics.facts import ArmFacts, ExperimentFacts, Joint, Moments, QuantileFacts, WeightPeriod

Rows = np.ndarray[Any, np.dtype[Any]]
START = datetime(2026, 10, 1, tzinfo=UTC)


def moments(values: Rows, denominators: Rows | None = None) -> Moments:
    """Of one row per unit."""
    y = np.asarray(values, float)
    mean = float(y.mean())
    if denominators is None:
        return Moments(n=len(y), mean=mean, m2=float(((y - mean) ** 2).sum()))
    d = np.asarray(denominators, float)
    below = float(d.mean())
    return Moments(
        n=len(y),
        mean=mean,
        m2=float(((y - mean) ** 2).sum()),
        denominator_mean=below,
        denominator_m2=float(((d - below) ** 2).sum()),
        comoment=float(((y - mean) * (d - below)).sum()),
    )


def share(x: int, n: int) -> Moments:
    """Of `x` units in `n` that did it."""
    return Moments(n=n, mean=x / n if n else 0.0, m2=x * (n - x) / n if n else 0.0)


def joint(columns: Sequence[Rows], *, ratio: bool = False, covariates: Sequence[str] = (), ratios: Sequence[bool] = ()) -> Joint:
    """Of several numbers per unit, outcome first."""
    table = np.asarray(columns, float)
    means = table.mean(axis=1) if table.shape[1] else np.zeros(len(table))
    centred = table - means[:, None]
    products = centred @ centred.T
    return Joint(
        n=table.shape[1],
        means=tuple(map(float, means)),
        products=tuple(tuple(map(float, row)) for row in products),
        ratio=ratio,
        covariates=tuple(covariates),
        ratios=tuple(ratios),
    )


def alone(one: Moments) -> Joint:
    """The moments of one outcome as a joint without covariates."""
    return Joint(n=one.n, means=(one.mean,), products=((one.m2,),))


def quantile(values: Rows, unit: Rows, units: int, level: float) -> QuantileFacts:
    """Of one row per event; `unit` is 0 … units - 1."""
    ordered, n = np.sort(values), len(values)
    h = 1.959963984540054 * (level * (1 - level) / n) ** 0.5

    def at(p: float) -> float:
        return float(ordered[min(n - 1, max(0, int(np.ceil(p * n)) - 1))])

    count = np.bincount(unit, minlength=units).astype(float)
    below = np.bincount(unit, weights=values <= at(level), minlength=units)
    return QuantileFacts(
        level=level,
        events=n,
        units=units,
        value=at(level),
        low=at(level - h),
        high=at(level + h),
        below_mean=float(below.mean()),
        below_m2=float(((below - below.mean()) ** 2).sum()),
        count_mean=float(count.mean()),
        count_m2=float(((count - count.mean()) ** 2).sum()),
        comoment=float(((below - below.mean()) * (count - count.mean())).sum()),
    )


def facts(
    metrics: Mapping[str, Mapping[str, Moments | QuantileFacts]],
    units: Mapping[str, int],
    weights: Mapping[str, float],
    *,
    periods: Sequence[WeightPeriod] | None = None,
    **more: Any,
) -> ExperimentFacts:
    """Facts of an experiment that has these units and is well in every other way."""
    return ExperimentFacts(
        experiment="simulated",
        started_at=START,
        data_as_of=START,
        events_read=5 * sum(units.values()),
        flagged_events=0,
        bot_units=0,
        late_events=0,
        multiple_exposure=0,
        generations_without_exposure=0,
        arms=[
            ArmFacts(
                arm=arm,
                units=n,
                generations=n,
                images=n,
                failures=0,
                latency_p50_ms=None,
                latency_p95_ms=None,
                variant_digest="",
                mean_inverse_propensity=None,
            )
            for arm, n in units.items()
        ],
        periods=list(periods) if periods is not None else [WeightPeriod(started_at=START, weights=dict(weights), units=dict(units))],
        metrics={key: dict(value) for key, value in metrics.items()},
        latency={},
        **more,
    )


def later(hours: float) -> datetime:
    """So many hours after the start."""
    return START + timedelta(hours=hours)
