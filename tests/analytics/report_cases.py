"""Facts for report tests: made by hand or drawn with a fixed seed."""

from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np

from analytics.experiment import Experiment, Guardrail, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, QuantileFacts, WeightPeriod

START = datetime(2026, 11, 20, 8, tzinfo=UTC)
NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)
METRICS = {
    "like_rate": Metric(kind="proportion", event="like"),
    "likes": Metric(kind="mean", event="like"),
    "likes_per_view": Metric(kind="ratio", event="like", denominator="view"),
    "report_rate": Metric(kind="proportion", event="report", direction="down"),
}


def proportion(x: int, n: int) -> Moments:
    p = x / n if n else 0.0
    return Moments(n=n, mean=p, m2=n * p * (1 - p))


def moments(values: "np.ndarray | list[float]", below: "np.ndarray | list[float] | None" = None) -> Moments:
    y = np.asarray(values, float)
    m = y.mean() if len(y) else 0.0
    if below is None:
        return Moments(n=len(y), mean=float(m), m2=float(((y - m) ** 2).sum()))
    d = np.asarray(below, float)
    return Moments(
        n=len(y),
        mean=float(m),
        m2=float(((y - m) ** 2).sum()),
        denominator_mean=float(d.mean()),
        denominator_m2=float(((d - d.mean()) ** 2).sum()),
        comoment=float(((y - m) * (d - d.mean())).sum()),
    )


def quantile(values: "np.ndarray", unit: "np.ndarray", level: float) -> QuantileFacts:
    """Quantile facts of events, from raw rows."""
    n = len(values)
    ordered = np.sort(values)
    h = 1.959963984540054 * np.sqrt(level * (1 - level) / n)
    pick = lambda p: float(ordered[min(n - 1, max(0, int(np.ceil(p * n)) - 1))])  # noqa: E731
    _, index = np.unique(unit, return_inverse=True)
    count = np.bincount(index).astype(float)
    below = np.bincount(index, weights=(values <= pick(level)).astype(float))
    return QuantileFacts(
        level=level,
        events=n,
        units=len(count),
        value=pick(level),
        low=pick(level - h),
        high=pick(level + h),
        below_mean=float(below.mean()),
        below_m2=float(((below - below.mean()) ** 2).sum()),
        count_mean=float(count.mean()),
        count_m2=float(((count - count.mean()) ** 2).sum()),
        comoment=float(((below - below.mean()) * (count - count.mean())).sum()),
    )


def experiment(**changes: object) -> Experiment:
    given: dict[str, object] = {"route": "hero", "arms": {"base": 0.5, "vivid": 0.5}, "control": "base", "primary": "like_rate"}
    return Experiment(**(given | changes))  # type: ignore[arg-type]


def guardrails() -> dict[str, Guardrail]:
    return {"latency_p95_ms": Guardrail(margin=0.10, direction="down"), "failure_rate": Guardrail(margin=0.5, direction="down")}


def facts(
    metrics: Mapping[str, Mapping[str, "Moments | QuantileFacts"]],
    units: Mapping[str, int],
    *,
    weights: Mapping[str, float] | None = None,
    latency: Mapping[str, Moments] | None = None,
    **changes: object,
) -> ExperimentFacts:
    share = dict(weights) if weights else {arm: 1 / len(units) for arm in units}
    given: dict[str, object] = {
        "experiment": "vivid-colours",
        "started_at": START,
        "data_as_of": NOW,
        "events_read": 10 * sum(units.values()),
        "flagged_events": 0,
        "bot_units": 0,
        "late_events": 0,
        "multiple_exposure": 0,
        "generations_without_exposure": 0,
        "arms": [
            ArmFacts(
                arm=arm,
                units=n,
                generations=2 * n,
                images=4 * n,
                failures=0,
                latency_p50_ms=420.0,
                latency_p95_ms=700.0,
                variant_digest="sha256:" + "ab" * 32,
                mean_inverse_propensity=1 / share[arm] if share[arm] else None,
            )
            for arm, n in units.items()
        ],
        "periods": [WeightPeriod(started_at=START, weights=share, units=dict(units))],
        "metrics": {key: dict(value) for key, value in metrics.items()},
        "latency": dict(latency or {}),
    }
    return ExperimentFacts(**(given | changes))  # type: ignore[arg-type]
