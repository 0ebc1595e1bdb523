"""Questions to the units of an experiment, answered as facts per arm."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from analytics.experiment import Experiment, Metric
from analytics.facts import Age, Cohort, Joint, Moments, QuantileFacts, Slice, WeightPeriod
from analytics.facts_of_designs import Draw
from analytics.inference.adaptive_scores import arm_estimate
from analytics.inference.adaptive_table import Stretch, Table
from analytics.warehouse.moments import Sums, read_sums
from analytics.warehouse.quantiles import read_medians, read_quantiles
from analytics.warehouse.rows import FIRST_DAY, from_microseconds, microseconds
from analytics.warehouse.unit_rules import RULES
from analytics.warehouse.unit_states import Layout, Outcome
from analytics.warehouse.unit_table import Units

SLICES = 20
NO_VALUE, OTHERS = "(none)", "(others)"
DAY = "toUInt32(intDiv(exposed_at, 86400000000))"
Stretches = list[tuple[datetime, dict[str, float]]]
Both = Moments | QuantileFacts


class Counts(NamedTuple):
    """Units that are in no figure, and the generations of all exposed units."""

    several: int
    generations: int
    excluded: dict[str, dict[str, int]]
    trained: dict[str, int]


class Work(NamedTuple):
    """What was done for the units of one arm; of inverse propensities the mean and the centred sum of squares."""

    units: int
    generations: int
    images: int
    failures: int
    without_generation: int
    inverse_mean: float | None
    inverse_m2: float | None


class LatencyFigures(NamedTuple):
    """Per arm: the mean per unit, and the median of all generations, in ms."""

    moments: dict[str, Moments]
    medians: dict[str, float]


class Figures:
    """Of the units of one layout. `caps[metric]`: what a percentile cap came to."""

    def __init__(self, units: Units, layout: Layout, experiment: Experiment, metrics: Mapping[str, Metric]) -> None:
        self._units, self._layout, self._experiment, self._metrics = units, layout, experiment, metrics
        self._arms = list(experiment.arms)
        self.caps = self._caps()
        self._of_arms: dict[str, dict[tuple[object, ...], Sums]] | None = None

    def first_exposure(self) -> datetime | None:
        """Of the units in figures."""
        ((count, at),) = self._units.query(f"SELECT count(), min(exposed_at) FROM {self._units.table} WHERE arm > 0")
        return from_microseconds(at) if count else None

    def counts(self) -> Counts:
        """Each unit that is left out under the first reason that fits."""
        generations = self._layout.work.generations
        key = "drawn, several, rule, trained"
        sql = f"SELECT {key}, count(), sum({generations}) FROM {self._units.table} GROUP BY {key}"
        excluded = {rule: dict.fromkeys(self._arms, 0) for rule in RULES}
        trained: dict[str, int] = {}
        multiple = total = 0
        for drawn, several, rule, was_trained, count, made in self._units.query(sql):
            total += int(made)
            arm = self._arms[drawn - 1] if drawn else None
            if rule:
                if arm is not None:
                    excluded[RULES[rule - 1]][arm] += count
            elif was_trained:
                if arm is not None:
                    trained[arm] = trained.get(arm, 0) + count
            elif several:
                multiple += count
        return Counts(multiple, total, excluded, trained)

    def work(self) -> dict[str, Work]:
        """Per arm, also those without units."""
        generations, images, failures, _ = self._layout.work
        known = "isFinite(chance) AND chance > 0"
        sql = f"""SELECT arm, count(), sum({generations}), sum({images}), sum({failures}), countIf({generations} = 0), countIf({known}),
            avgIf(1 / chance, {known}), varPopStableIf(1 / chance, {known}) FROM {self._units.table} WHERE arm > 0 GROUP BY arm"""
        found = {arm: Work(0, 0, 0, 0, 0, None, None) for arm in self._arms}
        for arm, n, made, shown, failed, without, with_chance, mean, variance in self._units.query(sql):
            inverse = (float(mean), float(variance) * with_chance) if with_chance else (None, None)
            found[self._arms[arm - 1]] = Work(int(n), int(made), int(shown), int(failed), int(without), *inverse)
        return found

    def periods(self, stretches: Stretches, where: str = "1") -> list[WeightPeriod]:
        """Units by the arm that was drawn first, also those that later saw another: a ramp that moves a unit says nothing against
        its first draw. Exposures before the first stretch belong to it."""
        tables = self._drawn(stretches, "0", where).get(0, [])
        return [
            WeightPeriod(started_at=at, weights=weights, units={arm: units.get(arm, 0) for arm in self._arms})
            for (at, weights), units in zip(stretches, tables or [{} for _ in stretches], strict=True)
        ]

    def moments(self) -> dict[str, dict[str, Moments]]:
        """Per metric that is no quantile, and failure_rate; also of arms without units."""
        found: dict[str, dict[str, Moments]] = {}
        for name, outcome in self._shown().items():
            ratio, by_arm = outcome.denominator is not None, self._by_arm(self._sums()[name])
            found[name] = {arm: by_arm[arm].moments(ratio) if arm in by_arm else _nobody(ratio) for arm in self._arms}
        return found

    def joint(self) -> dict[str, dict[str, Joint]]:
        """Per metric with covariates, of arms with units."""
        return {
            name: {arm: self._joint(outcome, sums) for arm, sums in self._by_arm(self._sums()[name]).items()}
            for name, outcome in self._shown().items()
            if outcome.covariates
        }

    def by_period(self, stretches: Stretches) -> dict[str, list[dict[str, Joint]]]:
        """Per metric and stretch, of arms with units in it."""
        result: dict[str, list[dict[str, Joint]]] = {}
        sums = read_sums(self._units, self._blocks(self._shown()), ["arm", _period(stretches)])
        for name, outcome in self._shown().items():
            tables: list[dict[str, Joint]] = [{} for _ in stretches]
            for (arm, period), one in sorted(sums[name].items()):
                tables[period - 1][self._arms[arm - 1]] = self._joint(outcome, one)
            result[name] = tables
        return result

    def by_draw(self, stretches: Stretches, where: str = "1") -> dict[str, list[dict[str, list[Draw]]]]:
        """Per metric, stretch and arm: units by the propensity that was logged when they were drawn. Those without one are left out."""
        bare = {name: Outcome(outcome.y, outcome.denominator) for name, outcome in self._shown().items()}
        known = f"isFinite(chance) AND chance > 0 AND chance <= 1 AND {where}"
        sums = read_sums(self._units, self._blocks(bare), ["arm", _period(stretches), "chance"], known) if stretches else {}
        result: dict[str, list[dict[str, list[Draw]]]] = {}
        for name, found in sums.items():
            tables: list[dict[str, list[Draw]]] = [{} for _ in stretches]
            for (arm, period, chance), one in sorted(found.items()):
                draw = Draw(propensity=float(chance), joint=self._joint(bare[name], one))
                tables[period - 1].setdefault(self._arms[arm - 1], []).append(draw)
            result[name] = tables
        return result

    def by_stratum(self) -> dict[str, dict[str, dict[str, Joint]]]:
        """Per metric and value of the experiment's strata."""
        if self._experiment.strata is None:
            return {}
        result: dict[str, dict[str, dict[str, Joint]]] = {}
        sums = read_sums(self._units, self._blocks(self._shown()), ["arm", self._dimension(self._experiment.strata)])
        for name, outcome in self._shown().items():
            tables: dict[str, dict[str, Joint]] = {}
            for (arm, stratum), one in sorted(sums[name].items(), key=lambda item: (item[0][1], item[0][0])):
                tables.setdefault(stratum, {})[self._arms[arm - 1]] = self._joint(outcome, one)
            result[name] = tables
        return result

    def breakdown(self, dimension: str, stretches: Stretches) -> list[Slice]:
        """The most frequent values, all others as one; the most units first."""
        value = self._dimension(dimension)
        top = (
            f"SELECT {value} AS d FROM {self._units.table} WHERE rule = 0 AND trained = 0 AND drawn > 0 GROUP BY d ORDER BY count() DESC, d"
        )
        names = [name for (name,) in self._units.query(f"{top} LIMIT {SLICES + 2}")]
        key = value
        if len(names) > SLICES + 1:
            key = f"if({value} IN (SELECT d FROM ({top} LIMIT {SLICES})), {value}, '{OTHERS}')"
            names = [*names[:SLICES], OTHERS]
        drawn, primary = self._drawn(stretches, key), self._primary(key)
        return [
            Slice(
                value=name,
                units=[{arm: units.get(arm, 0) for arm in self._arms} for units in drawn.get(name, [{} for _ in stretches])],
                primary=primary.get(name, {}),
            )
            for name in names
        ]

    def cohorts(self, stretches: Stretches) -> list[Cohort]:
        """By the day of exposure, oldest first. Of a quantile metric only units."""
        drawn, primary = self._drawn(stretches, DAY), self._primary(DAY)
        return [
            Cohort(
                day=FIRST_DAY + timedelta(days=int(day)),
                units=[{arm: units.get(arm, 0) for arm in self._arms} for units in drawn[day]],
                primary={arm: facts for arm, facts in primary.get(day, {}).items() if isinstance(facts, Moments)},
            )
            for day in sorted(drawn)
        ]

    def ages(self) -> list[Age]:
        """Days of life that some unit has lived through."""
        if self._layout.ages is None:
            return []
        y, d = self._layout.ages
        columns = [f"countForEach({y})", f"avgForEach({y})", f"varPopStableForEach({y})"]
        if d is not None:
            columns += [f"avgForEach({d})", f"varPopStableForEach({d})", f"covarPopStableForEach({y}, {d})"]
        sql = f"SELECT arm, {', '.join(columns)} FROM {self._units.table} WHERE arm > 0 AND notEmpty({y}) GROUP BY arm ORDER BY arm"
        days: dict[int, dict[str, Moments]] = {}
        for arm, *arrays in self._units.query(sql):
            for day, (n, mean, variance, *rest) in enumerate(zip(*arrays, strict=True)):
                more = {"denominator_mean": rest[0], "denominator_m2": rest[1] * n, "comoment": rest[2] * n} if rest else {}
                days.setdefault(day, {})[self._arms[arm - 1]] = Moments(n=int(n), mean=mean, m2=variance * n, **more)
        return [Age(day=day, primary=primary) for day, primary in sorted(days.items())]

    def pre_period(self) -> dict[str, Moments]:
        """The primary metric before exposure; nothing where nobody did anything then."""
        if self._layout.before is None:
            return {}
        outcome = self._layout.before
        ratio = outcome.denominator is not None
        block = [outcome.y, *([outcome.denominator] if outcome.denominator else [])]
        found = self._by_arm(read_sums(self._units, {"before": block}, ["arm"])["before"])
        moments = {arm: sums.moments(ratio) for arm, sums in found.items()}
        anything = any(facts.m2 or facts.mean or (ratio and (facts.denominator_mean or facts.denominator_m2)) for facts in moments.values())
        return moments if anything else {}

    def quantiles(self) -> dict[str, dict[str, QuantileFacts]]:
        """Per quantile metric, and the latency; of arms with events."""
        found: dict[str, dict[str, QuantileFacts]] = {}
        for name in self._layout.values:
            by_arm = read_quantiles(self._units, self._values(name), self._level(name), ["arm"])
            found[name] = {self._arms[arm - 1]: facts for (arm,), facts in sorted(by_arm.items())}
        return found

    def latency(self) -> LatencyFigures:
        """Of units with a generation that was timed and did not fail."""
        column, values = self._layout.work.latency, self._layout.values["latency_p95_ms"]
        sums = self._by_arm(read_sums(self._units, {"ms": [column]}, ["arm"], f"notEmpty({values})")["ms"])
        medians = {self._arms[arm - 1]: value for arm, value in read_medians(self._units, values).items()}
        return LatencyFigures({arm: one.moments(False) for arm, one in sums.items()}, medians)

    def drawn_latency(self, stretches: Stretches) -> dict[str, Moments]:
        """The same mean per unit where weights follow outcomes: estimates (AIPW) over all that were timed, with the spread that gives
        each its standard error."""
        columns, timed = self._layout.work, f"notEmpty({self._layout.values['latency_p95_ms']})"
        keys = ["arm", _period(stretches), "chance"]
        known = f"isFinite(chance) AND chance > 0 AND chance <= 1 AND {timed}"
        sums = read_sums(self._units, {"ms": [columns.latency]}, keys, known)["ms"] if stretches else {}
        drawn: list[dict[str, list[Draw]]] = [{} for _ in stretches]
        for (arm, period, chance), one in sorted(sums.items()):
            drawn[period - 1].setdefault(self._arms[arm - 1], []).append(Draw(propensity=float(chance), joint=one.joint(False)))
        parts = [Stretch(weights=weights, draws=draws) for (_, weights), draws in zip(stretches, drawn, strict=True)]
        table = Table(parts, self._arms)
        found = {arm: estimate for arm in self._arms if (estimate := arm_estimate(table, arm)) is not None}
        told = {arm: one for arm, one in found.items() if math.isfinite(one.value) and math.isfinite(one.se)}
        return {arm: Moments(n=one.units, mean=one.value, m2=one.se**2 * one.units * (one.units - 1)) for arm, one in told.items()}

    def _primary(self, key: str) -> dict[object, dict[str, Both]]:
        """The primary metric per value of the expression `key` and arm."""
        name, result = self._experiment.primary, dict[object, dict[str, Both]]()
        if name in self._layout.values:
            quantiles = read_quantiles(self._units, self._values(name), self._level(name), ["arm", key])
            for (arm, value), facts in quantiles.items():
                result.setdefault(value, {})[self._arms[arm - 1]] = facts
        elif name in self._shown():
            outcome = self._shown()[name]
            bare = Outcome(outcome.y, outcome.denominator)
            for (arm, value), sums in read_sums(self._units, {name: self._block(name, bare)}, ["arm", key])[name].items():
                result.setdefault(value, {})[self._arms[arm - 1]] = sums.moments(outcome.denominator is not None)
        return {value: dict(sorted(by_arm.items(), key=lambda item: self._arms.index(item[0]))) for value, by_arm in result.items()}

    def _drawn(self, stretches: Stretches, key: str, where: str = "1") -> dict[Any, list[dict[str, int]]]:
        """Units per value of `key`, stretch, and first arm."""
        sql = f"""SELECT {key} AS k, {_period(stretches)} AS period, drawn, count() FROM {self._units.table}
            WHERE drawn > 0 AND rule = 0 AND trained = 0 AND {where} GROUP BY k, period, drawn"""
        found: dict[object, list[dict[str, int]]] = {}
        # Nobody was exposed when the start was looked for; who was since, while a sink filled the table, is in the next report.
        for value, period, drawn, count in self._units.query(sql) if stretches else ():
            found.setdefault(value, [{} for _ in stretches])[period - 1][self._arms[drawn - 1]] = int(count)
        return found

    def _sums(self) -> dict[str, dict[tuple[object, ...], Sums]]:
        if self._of_arms is None:
            self._of_arms = read_sums(self._units, self._blocks(self._shown()), ["arm"])
        return self._of_arms

    def _shown(self) -> dict[str, Outcome]:
        return {name: outcome for name, outcome in self._layout.outcomes.items() if name in self._metrics or name == "failure_rate"}

    def _blocks(self, outcomes: Mapping[str, Outcome]) -> dict[str, list[str]]:
        return {name: self._block(name, outcome) for name, outcome in outcomes.items()}

    def _block(self, name: str, outcome: Outcome) -> list[str]:
        y = f"least({outcome.y}, {self.caps[name]!r})" if name in self.caps else outcome.y
        covariates = [column for _, x, x0 in outcome.covariates for column in (x, x0) if column is not None]
        return [y, *([outcome.denominator] if outcome.denominator else []), *covariates]

    def _joint(self, outcome: Outcome, sums: Sums) -> Joint:
        names = tuple(name for name, _, _ in outcome.covariates)
        return sums.joint(outcome.denominator is not None, names, tuple(x0 is not None for _, _, x0 in outcome.covariates))

    def _by_arm(self, found: Mapping[tuple[object, ...], Sums]) -> dict[str, Sums]:
        return {self._arms[int(str(arm)) - 1]: sums for (arm,), sums in sorted(found.items(), key=lambda item: str(item[0]))}

    def _values(self, name: str) -> str:
        column = self._layout.values[name]
        return f"arrayMap(v -> least(v, {self.caps[name]!r}), {column})" if name in self.caps else column

    def _level(self, name: str) -> float:
        return 0.95 if name == "latency_p95_ms" else float(self._metrics[name].quantile or 0.5)

    def _dimension(self, key: str) -> str:
        column = self._layout.dimensions[key]
        return f"if({column} = '', '{NO_VALUE}', {column})"

    def _caps(self) -> dict[str, float]:
        """Percentiles over the units of all arms together (of a quantile metric: over its events), linearly interpolated."""
        found = {}
        for name, metric in self._metrics.items():
            if not isinstance(metric.cap, str) or metric.kind == "proportion":
                continue
            level = float(metric.cap[1:]) / 100
            if name in self._layout.values:
                column, source = "v", f"(SELECT arrayJoin({self._layout.values[name]}) AS v FROM {self._units.table} WHERE arm > 0)"
            else:
                column, source = self._layout.outcomes[name].y, f"{self._units.table} WHERE arm > 0"
            ((cap,),) = self._units.query(f"SELECT quantileExactInclusive({level!r})({column}) FROM {source}")
            if math.isfinite(cap):
                found[name] = float(cap)
        return found


def _period(stretches: Stretches) -> str:
    starts = ", ".join(f"toInt64({microseconds(at)})" for at, _ in stretches)
    return f"toUInt32(greatest(1, arrayCount(s -> s <= exposed_at, [{starts}])))"


def _nobody(ratio: bool) -> Moments:
    return Moments(n=0, mean=0.0, m2=0.0, denominator_mean=0.0 if ratio else 1.0)
