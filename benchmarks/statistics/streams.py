"""Units that come one after another → what the warehouse would hand over at every look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sums
from audience import Acts
from sums import Rows

from analytics.experiment import Metric
from analytics.facts import ExperimentFacts, Joint, Moments, WeightPeriod


@dataclass(frozen=True)
class Measure:
    """A metric and where its numbers stand in the table: outcome, for a ratio its denominator, then covariates."""

    metric: Metric
    columns: tuple[int, ...]

    @property
    def outcomes(self) -> int:
        """How many of the columns are the outcome."""
        return 2 if self.metric.kind == "ratio" else 1


@dataclass(frozen=True)
class Schedule:
    """When weights held: (from which hour, weight per arm). `looks` are hours at which somebody reads the report."""

    periods: tuple[tuple[float, dict[str, float]], ...]
    looks: Rows

    @property
    def arms(self) -> tuple[str, ...]:
        """Control first."""
        return tuple(self.periods[0][1])

    def arm_of(self, rng: np.random.Generator, hour: Rows) -> Rows:
        """A draw by the weights of the hour, as the arm's place."""
        edges = np.array([np.cumsum(list(weights.values())) for _, weights in self.periods])
        return (rng.random(len(hour))[:, None] > edges[self.period_of(hour)]).sum(axis=1).clip(max=len(self.arms) - 1)

    def period_of(self, hour: Rows) -> Rows:
        """The place of the period."""
        return np.searchsorted([start for start, _ in self.periods], hour, side="right") - 1


@dataclass(frozen=True)
class Totals:
    """Sums up to every look: `n[period, look, arm]`, `first[..., column]`, `second[..., column, column]`."""

    schedule: Schedule
    n: Rows
    first: Rows
    second: Rows

    def smallest_arm(self) -> Rows:
        """Units in the smallest arm, per look."""
        return self.n.sum(axis=0).min(axis=1)

    def units(self) -> Rows:
        """Units in all arms, per look."""
        return self.n.sum(axis=(0, 2))

    def furthest(self, one: Measure, truth: Mapping[str, float], lift: Mapping[str, float]) -> Rows:
        """Per look, how many standard errors the arm furthest from "no difference", from its true difference or from its true lift
        is off, with comparisons made within periods. Infinite where it cannot be told."""
        n = self.n.astype(float)
        far = np.zeros(n.shape[1])
        with np.errstate(all="ignore"):
            mean, variance = self._outcome(one)
            variance = variance / n
            for place, arm in enumerate(self.schedule.arms[1:], 1):
                pair = np.where((n[..., 0] >= 2) & (n[..., place] >= 2), n[..., 0] + n[..., place], 0.0)
                weight = pair / pair.sum(axis=0)
                a, b = (np.nansum(np.where(pair > 0, weight * mean[..., i], 0.0), axis=0) for i in (0, place))
                v_a, v_b = (np.nansum(np.where(pair > 0, weight**2 * variance[..., i], 0.0), axis=0) for i in (0, place))
                ratio = 1 + lift.get(arm, 0.0)
                offs = [(b - a - centre) / np.sqrt(v_a + v_b) for centre in (0.0, truth.get(arm, 0.0))]
                offs += [(b - ratio * a) / np.sqrt(v_b + square * v_a) for square in (ratio**2, (b / a) ** 2)] if lift else []
                for off in offs:
                    far = np.fmax(far, np.where(np.isfinite(off), np.abs(off), np.inf))
        return far

    def _outcome(self, one: Measure) -> tuple[Rows, Rows]:
        """Mean and variance per unit, of a ratio by the delta method around the ratio of all arms together."""
        first, second, n = self.first, self.second, self.n
        y = one.columns[0]
        if one.outcomes == 1:
            mean = first[..., y] / n
            return mean, (second[..., y, y] - first[..., y] * mean) / (n - 1)
        d = one.columns[1]
        whole = first.sum(axis=(0, 2), keepdims=True)
        ratio = whole[..., y] / whole[..., d]
        mean = (first[..., y] - ratio * first[..., d]) / n
        square = second[..., y, y] - 2 * ratio * second[..., y, d] + ratio**2 * second[..., d, d]
        return mean, (square - n * mean**2) / (n - 1)

    def facts(self, look: int, measures: Mapping[str, Measure]) -> ExperimentFacts:
        """What a report is made from at this look."""
        arms, hour = self.schedule.arms, float(self.schedule.looks[look])
        open_periods = [i for i, (start, _) in enumerate(self.schedule.periods) if start < hour]
        more: dict[str, Any] = {"joint": {}, "by_period": {}}
        metrics: dict[str, dict[str, Moments]] = {}
        for name, one in measures.items():
            whole = {arm: self._joint(one, slice(None), look, place) for place, arm in enumerate(arms)}
            metrics[name] = {arm: _moments(found) for arm, found in whole.items()}
            if len(one.columns) > one.outcomes:
                more["joint"][name] = whole
            if len(open_periods) > 1:
                more["by_period"][name] = [
                    {arm: self._joint(one, slice(i, i + 1), look, place) for place, arm in enumerate(arms)} for i in open_periods
                ]
        periods = [
            WeightPeriod(
                started_at=sums.later(self.schedule.periods[i][0]),
                weights=self.schedule.periods[i][1],
                units={arm: int(self.n[i, look, place]) for place, arm in enumerate(arms)},
            )
            for i in open_periods
        ]
        units = {arm: int(self.n[:, look, place].sum()) for place, arm in enumerate(arms)}
        return sums.facts(metrics, units, periods[-1].weights, periods=periods, **more)

    def _joint(self, one: Measure, periods: slice, look: int, place: int) -> Joint:
        chosen = list(one.columns)
        n = int(self.n[periods, look, place].sum())
        first = self.first[periods, look, place].sum(axis=0)[chosen]
        second = self.second[periods, look, place].sum(axis=0)[np.ix_(chosen, chosen)]
        means = first / n if n else np.zeros(len(chosen))
        products = second - n * np.outer(means, means)
        ratio, left = one.metric.kind == "ratio", len(chosen) - one.outcomes
        names = tuple(f"before-{i}" for i in range(left // (2 if ratio else 1)))
        return Joint(
            n=n,
            means=tuple(map(float, means)),
            products=tuple(tuple(map(float, row)) for row in products),
            ratio=ratio,
            covariates=names,
            ratios=(ratio,) * len(names),
        )


def _moments(joint: Joint) -> Moments:
    if not joint.ratio:
        return Moments(n=joint.n, mean=joint.means[0], m2=max(0.0, joint.products[0][0]))
    return Moments(
        n=joint.n,
        mean=joint.means[0],
        m2=max(0.0, joint.products[0][0]),
        denominator_mean=joint.means[1],
        denominator_m2=max(0.0, joint.products[1][1]),
        comoment=joint.products[0][1],
    )


def arrivals(rng: np.random.Generator, per_hour: float, hours: float) -> Rows:
    """Hours at which units come, in order: a Poisson stream with twice as much by day as by night."""
    count = rng.poisson(per_hour * hours * 1.5)
    hour = np.sort(rng.random(count) * hours)
    return hour[rng.random(count) < (1 + np.sin(2 * np.pi * hour / 24) / 3) / 1.5]


def accumulate(schedule: Schedule, hour: Rows, arm: Rows, columns: Sequence[Rows]) -> Totals:
    """Units that are complete when they come."""
    look = np.searchsorted(schedule.looks, hour)
    kept = look < len(schedule.looks)
    shape = (len(schedule.periods), len(schedule.looks), len(schedule.arms))
    cell = np.ravel_multi_index((schedule.period_of(hour)[kept], look[kept], arm[kept]), shape)
    rows = [np.asarray(column, float)[kept] for column in columns]
    return Totals(
        schedule,
        _up_to(cell, None, shape).astype(int),
        np.stack([_up_to(cell, row, shape) for row in rows], axis=-1),
        np.stack([np.stack([_up_to(cell, a * b, shape) for b in rows], axis=-1) for a in rows], axis=-2),
    )


def accumulate_acts(schedule: Schedule, hour: Rows, arm: Rows, acts: Acts) -> Totals:
    """Units whose count of acts grows until the end. With the (c + 1)-th act of a unit its square grows by 2 c + 1."""
    shape = (1, len(schedule.looks), len(schedule.arms))
    order = np.lexsort((acts.hour, acts.unit))
    unit, at = acts.unit[order], acts.hour[order]
    starts = np.searchsorted(unit, np.arange(len(hour)))
    before = np.arange(len(unit)) - starts[unit]

    def cells(hours: Rows, arms: Rows) -> tuple[Rows, Rows]:
        look = np.searchsorted(schedule.looks, hours)
        kept = look < len(schedule.looks)
        return np.ravel_multi_index((np.zeros(kept.sum(), int), look[kept], arms[kept]), shape), kept

    come, _ = cells(hour, arm)
    acted, kept = cells(at, arm[unit])
    first, second = _up_to(acted, np.ones(len(acted)), shape), _up_to(acted, 2.0 * before[kept] + 1, shape)
    return Totals(schedule, _up_to(come, None, shape).astype(int), first[..., None], second[..., None, None])


def _up_to(cell: Rows, weights: Rows | None, shape: tuple[int, int, int]) -> Rows:
    counted = np.bincount(cell, weights, minlength=int(np.prod(shape))).reshape(shape)
    return np.asarray(np.cumsum(counted, axis=1))
