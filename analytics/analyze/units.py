"""Rows of a table → sufficient statistics per arm."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.analyze.metric_option import Cap, MetricOption
from analytics.analyze.table import Floats, Labels, Table, TableError
from analytics.facts import Moments, QuantileFacts
from analytics.inference.cuped import CovariateMoments
from analytics.inference.quantile import quantile_half_width

Codes = NDArray[np.int64]


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """Who got which arm. `of_row` [rows] is the unit of a row, -1 where the unit is left out; `arm` [units] its arm."""

    arms: list[str]
    arm: Codes
    of_row: Codes
    several_arms: int

    @property
    def count(self) -> int:
        return len(self.arm)

    def totals(self, values: Floats) -> Floats:
        """Sum per unit [units] of a value per row [rows]."""
        kept = self.of_row >= 0
        return np.bincount(self.of_row[kept], weights=values[kept], minlength=self.count).astype(np.float64)

    def means(self, values: Floats) -> Floats:
        """Mean per unit [units], of the rows that are not NaN; NaN where there are none."""
        kept = (self.of_row >= 0) & ~np.isnan(values)
        rows = np.bincount(self.of_row[kept], minlength=self.count)
        sums = np.bincount(self.of_row[kept], weights=values[kept], minlength=self.count)
        return np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)


def group(arm: Labels, unit: Labels | None) -> Units:
    """One unit per row, or per name in `unit`; units seen in several arms are left out and counted."""
    if unit is None:
        return Units(arms=arm.names, arm=arm.codes, of_row=np.arange(len(arm.codes)), several_arms=0)
    size = len(unit.names)
    lowest, highest = np.full(size, len(arm.names)), np.full(size, -1)
    np.minimum.at(lowest, unit.codes, arm.codes)
    np.maximum.at(highest, unit.codes, arm.codes)
    kept = lowest == highest
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    return Units(arms=arm.names, arm=lowest[kept].astype(np.int64), of_row=place[unit.codes], several_arms=int(size - kept.sum()))


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in every arm. `cap` is the value that was applied."""

    name: str
    kind: str
    facts: dict[str, Moments | QuantileFacts]
    covariates: dict[str, CovariateMoments] | None
    cap: float | None


def measure(table: Table, units: Units, metric: MetricOption, covariates: Sequence[str], cap: Cap | None) -> Measured:
    """The sufficient statistics of `metric` per arm, and with `covariates` those of CUPED. Raises TableError."""
    rows = table.numbers(metric.column)
    if metric.level is not None:
        inside = units.of_row >= 0
        arm_of_row = np.where(inside, units.arm[units.of_row], -1)
        arms = {name: arm_of_row == k for k, name in enumerate(units.arms)}
        events: dict[str, Moments | QuantileFacts] = {
            name: quantile_facts(rows[here], units.of_row[here], metric.level) for name, here in arms.items() if here.any()
        }
        return Measured(name=metric.name, kind="quantile", facts=events, covariates=None, cap=None)
    kind = metric.kind or ("proportion" if bool(np.isin(rows, (0.0, 1.0)).all()) else "mean")
    if kind == "proportion" and not np.isin(rows, (0.0, 1.0)).all():
        raise TableError(f"{table.path}: column {metric.column!r} is no proportion: it holds {_other(rows):g}; use {metric.column}:mean")
    totals = units.totals(rows)
    if kind == "proportion":
        totals = (totals > 0).astype(np.float64)
    applied = None
    if cap is not None and kind != "proportion":
        applied = float(np.percentile(totals, cap.percentile)) if cap.percentile is not None else cap.value
        totals = np.minimum(totals, np.inf if applied is None else applied)
    below = units.totals(table.numbers(metric.denominator)) if metric.denominator is not None else None
    here_by_arm = {name: units.arm == k for k, name in enumerate(units.arms)}
    facts: dict[str, Moments | QuantileFacts] = {
        name: moments(totals[here], None if below is None else below[here]) for name, here in here_by_arm.items()
    }
    adjusted = None
    if covariates:
        if below is not None:
            totals = _linearised(totals, below, units)
        adjusted = _covariate_moments(totals, [units.means(table.numbers(name, empty=True)) for name in covariates], here_by_arm)
    return Measured(name=metric.name, kind=kind, facts=facts, covariates=adjusted, cap=applied)


def moments(y: Floats, d: Floats | None = None) -> Moments:
    """Centred moments of values per unit, with a denominator for ratios."""
    if len(y) == 0:
        return Moments(n=0, mean=0.0, m2=0.0)
    apart = y - y.mean()
    if d is None:
        return Moments(n=len(y), mean=float(y.mean()), m2=float(apart @ apart))
    below = d - d.mean()
    return Moments(
        n=len(y),
        mean=float(y.mean()),
        m2=float(apart @ apart),
        denominator_mean=float(d.mean()),
        denominator_m2=float(below @ below),
        comoment=float(apart @ below),
    )


def quantile_facts(values: Floats, unit: Codes, level: float) -> QuantileFacts:
    """Quantile of events [events] clustered by `unit` [events]; sample quantiles by the inverted cdf."""
    ordered, n = np.sort(values), len(values)

    def at(share: float) -> float:
        return float(ordered[min(n - 1, max(0, int(np.ceil(share * n)) - 1))])

    h, value = quantile_half_width(level, n), at(level)
    _, place = np.unique(unit, return_inverse=True)
    count = np.bincount(place).astype(np.float64)
    facts = moments(np.bincount(place, weights=(values <= value).astype(np.float64)).astype(np.float64), count)
    return QuantileFacts(
        level=level,
        events=n,
        units=len(count),
        value=value,
        low=at(level - h),
        high=at(level + h),
        below_mean=facts.mean,
        below_m2=facts.m2,
        count_mean=facts.denominator_mean,
        count_m2=facts.denominator_m2,
        comoment=facts.comoment,
    )


def _linearised(y: Floats, d: Floats, units: Units) -> Floats:
    """Per unit R + (y - R d)/mean(d) of its arm: its mean is the ratio and its variance the delta method's."""
    result = np.zeros_like(y)
    for k in range(len(units.arms)):
        here = units.arm == k
        total = d[here].sum()
        if total != 0:
            ratio = y[here].sum() / total
            result[here] = ratio + (y[here] - ratio * d[here]) / d[here].mean()
    return result


def _covariate_moments(y: Floats, columns: Sequence[Floats], arms: dict[str, NDArray[np.bool_]]) -> dict[str, CovariateMoments] | None:
    """Several covariates become one, their best linear prediction of y over all arms; missing ones count as the mean."""
    filled = [np.where(np.isnan(x), np.nanmean(x), x) for x in columns if not np.isnan(x).all()]
    if not filled:
        return None
    centred = np.column_stack([x - x.mean() for x in filled])
    coefficients, *_ = np.linalg.lstsq(centred, y - y.mean(), rcond=None)
    x = centred @ coefficients if len(filled) > 1 else filled[0]
    result = {}
    for name, here in arms.items():
        both = moments(y[here], x[here])
        result[name] = CovariateMoments(
            n=both.n,
            mean=both.mean,
            m2=both.m2,
            covariate_mean=both.denominator_mean,
            covariate_m2=both.denominator_m2,
            comoment=both.comoment,
        )
    return result


def _other(values: Floats) -> float:
    return float(values[~np.isin(values, (0.0, 1.0))][0])
