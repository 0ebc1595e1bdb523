"""What was asked of a table: column names and options of `salon analyze`."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from analytics.analyze.covariate_option import CovariateOption
from analytics.analyze.metric_option import Cap, MetricOption
from analytics.report.question import Rules


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """`metrics`: the first is primary; those with a margin are guardrails. `weights`: per value of the `period` column, of the
    period "" where there is none; empty: not given. `bounds`: by name of a metric. `empty` stands for a missing value of a metric,
    None refuses one. `bootstrap`: resamples, 0 for none."""

    arm: str
    control: str
    metrics: Sequence[MetricOption]
    unit: str | None = None
    covariates: Sequence[CovariateOption] = ()
    lower: Sequence[str] = ()
    cap: Cap | None = None
    weights: Mapping[str, Mapping[str, float]] = {}
    period: str | None = None
    stratify: str | None = None
    breakdowns: Sequence[str] = ()
    bounds: Mapping[str, tuple[float, float]] = {}
    sequential: bool = False
    empty: float | None = None
    bootstrap: int = 0
    rules: Rules = Rules()

    def direction(self, metric: MetricOption) -> Literal["up", "down"]:
        """Which way is better."""
        return "down" if metric.name in self.lower or metric.column in self.lower else "up"

    def role(self, place: int) -> Literal["primary", "secondary", "guardrail"]:
        """Of the metric at this place. A guardrail is never the primary metric."""
        if self.metrics[place].margin is not None:
            return "guardrail"
        return "primary" if all(m.margin is not None for m in self.metrics[:place]) else "secondary"
