"""`--covariate [METRIC=]COL[/DENOM]`, parsed: what takes the noise out of which metric."""

from collections.abc import Sequence

import msgspec

from analytics.analyze.metric_option import MetricOption, find_metric


class CovariateOption(msgspec.Struct, frozen=True, kw_only=True):
    """One `--covariate`: a column, or a ratio of two. `metric` None: of every metric that it can adjust."""

    column: str
    denominator: str | None = None
    metric: str | None = None

    @property
    def name(self) -> str:
        """`before`, `clicks_before/views_before`."""
        return self.column if self.denominator is None else f"{self.column}/{self.denominator}"


def parse_covariate(text: str, columns: Sequence[str], metrics: Sequence[MetricOption]) -> CovariateOption:
    """A text that is a column's name is that column, whatever is in it. Raises ValueError."""
    if text in columns:
        return CovariateOption(column=text)
    metric, equals, rest = text.rpartition("=")
    of = find_metric(metric, metrics, "--covariate") if equals else None
    column, slash, below = (rest, "", "") if rest in columns else rest.partition("/")
    if not column or (slash and not below):
        raise ValueError(f"--covariate {text!r} names no column; write COL, METRIC=COL, or METRIC=COL/DENOM for a ratio's own past")
    if of is not None and of.level is not None:
        raise ValueError(f"--covariate {text!r}: a quantile is not adjusted by covariates; name a mean, a proportion or a ratio")
    if slash and of is not None and of.denominator is None and of.per == "unit":
        raise ValueError(f"--covariate {text!r}: {of.name!r} is no ratio; its covariate is one column")
    return CovariateOption(column=column, denominator=below or None, metric=of.name if of is not None else None)


def covariates_of(metric: MetricOption, covariates: Sequence[CovariateOption]) -> list[CovariateOption]:
    """Those that adjust this metric: its own, and those of all; a ratio of two columns adjusts ratios only."""
    if metric.level is not None:
        return []
    ratio = metric.denominator is not None or metric.per == "event"
    return [c for c in covariates if c.metric == metric.name or (c.metric is None and (ratio or c.denominator is None))]
