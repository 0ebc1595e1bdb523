"""Experiments read once, at the planned end, whose truth is known: what is drawn, and what the report should cover."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import audience
import numpy as np
import sums
from audience import Covaried, Generator

from analytics.experiment import Experiment, Guardrail, Metric
from analytics.facts import ExperimentFacts, Joint, Moments, QuantileFacts, WeightPeriod

Z_95 = 1.6448536269514722


@dataclass(frozen=True)
class Drawn:
    """What `build_report` is given, and the truth about arm "b" against "a"."""

    metric: Metric
    facts: ExperimentFacts
    difference: float
    lift: float
    changes: dict[str, Any] = field(default_factory=dict)

    def experiment(self) -> Experiment:
        """One primary metric "m", arms as in the facts."""
        weights = self.facts.periods[-1].weights
        given: dict[str, Any] = {"route": "hero", "arms": weights, "control": "a", "primary": "m"}
        return Experiment(**(given | self.changes))


Case = Callable[[Generator, bool], Drawn]
HALVES = {"a": 0.5, "b": 0.5}
SHARE, MEAN = Metric(kind="proportion", event="like"), Metric(kind="mean", event="spend")
RATIO = Metric(kind="ratio", event="click", denominator="view")


def _drawn(metric: Metric, a: Moments | QuantileFacts, b: Moments | QuantileFacts, before: float, after: float, **more: Any) -> Drawn:
    units = {arm: one.units if isinstance(one, QuantileFacts) else one.n for arm, one in (("a", a), ("b", b))}
    changes = more.pop("changes", {})
    facts = sums.facts({"m": {"a": a, "b": b}}, units, HALVES, **more)
    return Drawn(metric, facts, after - before, (after - before) / abs(before), changes)


def normal(n_a: int, n_b: int, **changes: Any) -> Case:
    """Means 10 and 10.5, standard deviations 3 and 4."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        after, sd = (10.5, 4.0) if effect else (10.0, 4.0)
        a, b = sums.moments(rng.normal(10.0, 3.0, n_a)), sums.moments(rng.normal(after, sd, n_b))
        return _drawn(MEAN, a, b, 10.0, after, changes=changes)

    return draw


def negative(n: int) -> Case:
    """A control below 0: -10 against -9.5. The lift is by its absolute value."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = -9.5 if effect else -10.0
        return _drawn(MEAN, sums.moments(rng.normal(-10.0, 3.0, n)), sums.moments(rng.normal(after, 3.0, n)), -10.0, after)

    return draw


def revenue(n: int, **changes: Any) -> Case:
    """Skewed spend, 15 and 16.5 % payers."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        payers = 0.165 if effect else 0.15
        a, b = (sums.moments(audience.revenue(rng, n, share)) for share in (0.15, payers))
        each = audience.REVENUE_PER_PAYER
        return _drawn(MEAN, a, b, 0.15 * each, payers * each, changes=changes)

    return draw


def share(n_a: int, n_b: int, p_a: float, p_b: float, **changes: Any) -> Case:
    """Two proportions."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = p_b if effect else p_a
        a, b = sums.share(int(rng.binomial(n_a, p_a)), n_a), sums.share(int(rng.binomial(n_b, after)), n_b)
        return _drawn(SHARE, a, b, p_a, after, changes=changes)

    return draw


def ratio(n: int) -> Case:
    """Clicks per view, 0.30 and 0.33."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = 0.33 if effect else 0.30
        a, b = (audience.clicks(rng, n, rate) for rate in (0.30, after))
        return _drawn(RATIO, sums.moments(a.clicks, a.views), sums.moments(b.clicks, b.views), 0.30, after)

    return draw


def quantile(n: int, level: float, z: float) -> Case:
    """A quantile of latencies clustered by unit, medians of 400 and 440 ms."""
    metric = Metric(kind="quantile", event="wait", quantile=level, direction="down")

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = 440.0 if effect else 400.0
        a, b = (audience.latencies(rng, n, median) for median in (400.0, after))
        factor = float(np.exp(0.5 * z))
        facts_a, facts_b = (sums.quantile(one.ms, one.unit, n, level) for one in (a, b))
        return _drawn(metric, facts_a, facts_b, 400.0 * factor, after * factor)

    return draw


def _adjusted(kind: Metric, a: Covaried, b: Covaried, names: tuple[str, ...], before: float, after: float) -> Drawn:
    joints: dict[str, Joint] = {
        arm: sums.joint([one.outcome, *one.before], covariates=names, ratios=[False] * len(names)) for arm, one in (("a", a), ("b", b))
    }
    return _drawn(kind, sums.moments(a.outcome), sums.moments(b.outcome), before, after, joint={"m": joints})


def cuped_mean(n: int) -> Case:
    """One covariate that explains two thirds; the slope differs between the arms."""
    metric = Metric(kind="mean", event="spend", covariate_days=14)

    def draw(rng: Generator, effect: bool) -> Drawn:
        base, slope = (2.2, 1.05) if effect else (2.0, 1.0)
        a, b = audience.habit(rng, n, 2.0, 1.0), audience.habit(rng, n, base, slope)
        return _adjusted(metric, a, b, ("m",), 6.0, base + 4 * slope)

    return draw


def cuped_share(n: int) -> Case:
    """Did it at all, adjusted for how often before; 20 and 22 %."""
    metric = Metric(kind="proportion", event="like", covariate_days=14)

    def draw(rng: Generator, effect: bool) -> Drawn:
        won = 0.025 if effect else 0.0
        a, b = audience.likers(rng, n, 0.20), audience.likers(rng, n, 0.20, won)
        return _adjusted(metric, a, b, ("m",), 0.20, 0.20 + 0.80 * won)

    return draw


def cuped_ratio(n: int) -> Case:
    """Clicks per view adjusted for clicks per view beforehand; what people did before knows nothing of the arm."""
    metric = Metric(kind="ratio", event="click", denominator="view", covariate_days=14)

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = 0.33 if effect else 0.30
        a, b = audience.clicks(rng, n, 0.30), audience.clicks(rng, n, 0.30)
        # A share of the treated arm's views that were no clicks become clicks: the covariate stays as it was.
        more = rng.binomial((b.views - b.clicks).astype(int), (after - 0.30) / 0.70) if effect else 0
        columns = {
            "a": [a.clicks, a.views, a.clicks_before, a.views_before],
            "b": [b.clicks + more, b.views, b.clicks_before, b.views_before],
        }
        joints = {arm: sums.joint(rows, ratio=True, covariates=("m",), ratios=(True,)) for arm, rows in columns.items()}
        plain = [sums.moments(rows[0], rows[1]) for rows in columns.values()]
        return _drawn(metric, plain[0], plain[1], 0.30, after, joint={"m": joints})

    return draw


def lin(n_a: int, n_b: int) -> Case:
    """Three covariates, unequal arms, an effect that grows with one of them."""
    metric = Metric(kind="mean", event="spend", covariate_days=14, covariates=("views", "shares"))

    def draw(rng: Generator, effect: bool) -> Drawn:
        base, slope = (2.2, 1.10) if effect else (2.0, 1.0)
        a, b = audience.three_habits(rng, n_a, 2.0, 1.0), audience.three_habits(rng, n_b, base, slope)
        return _adjusted(metric, a, b, ("m", "views", "shares"), 7.0, base + 4 * slope + 1)

    return draw


STRATA = {"phone": (0.5, 4.0, 0.4), "laptop": (0.3, 8.0, 0.2), "tablet": (0.15, 12.0, 0.0), "tv": (0.05, 20.0, -1.0)}


def stratified(n: int) -> Case:
    """Four strata with means of 4 to 20 and effects of their own."""
    before = sum(weight * mean for weight, mean, _ in STRATA.values())
    gained = sum(weight * gain for weight, _, gain in STRATA.values())

    def draw(rng: Generator, effect: bool) -> Drawn:
        rows = {}
        for arm in ("a", "b"):
            sizes = rng.multinomial(n, [weight for weight, _, _ in STRATA.values()])
            rows[arm] = [
                rng.normal(mean + (gain if effect and arm == "b" else 0.0), 2.0, size)
                for size, (_, mean, gain) in zip(sizes, STRATA.values(), strict=True)
            ]
        split = {name: {arm: sums.joint([rows[arm][i]]) for arm in rows} for i, name in enumerate(STRATA)}
        a, b = (sums.moments(np.concatenate(rows[arm])) for arm in ("a", "b"))
        after = before + gained if effect else before
        return _drawn(MEAN, a, b, before, after, by_stratum={"m": split}, changes={"strata": "device"})

    return draw


# Units that came, the treated arm's weight, the control's rate: a ramp while the audience cools.
RAMP = ((2000, 0.10, 0.30), (1500, 0.30, 0.20), (1500, 0.50, 0.10))


def ramp(*, told: bool) -> Case:
    """A ramp with a falling rate and a gain of 2 points throughout. Without `told` the report does not know the periods' moments."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        gain = 0.02 if effect else 0.0
        counts, periods, split = [], [], []
        for i, (units, weight, rate) in enumerate(RAMP):
            n_b = int(rng.binomial(units, weight))
            n = {"a": units - n_b, "b": n_b}
            x = {"a": int(rng.binomial(n["a"], rate)), "b": int(rng.binomial(n["b"], rate + gain))}
            counts.append((n, x))
            periods.append(WeightPeriod(started_at=sums.later(24 * i), weights={"a": 1 - weight, "b": weight}, units=n))
            split.append({arm: sums.alone(sums.share(x[arm], n[arm])) for arm in n})
        a, b = (sums.share(sum(x[arm] for _, x in counts), sum(n[arm] for n, _ in counts)) for arm in ("a", "b"))
        total = sum(units for units, _, _ in RAMP)
        before = sum(units / total * rate for units, _, rate in RAMP)
        facts = sums.facts(
            {"m": {"a": a, "b": b}}, {"a": a.n, "b": b.n}, HALVES, periods=periods, **({"by_period": {"m": split}} if told else {})
        )
        return Drawn(SHARE, facts, gain, gain / before)

    return draw


def guarded(margin: float, harm: float, n: int) -> Case:
    """A guardrail: the share of reports (10 %) grows by `harm` relative to the control; the margin is `margin`."""

    def draw(rng: Generator, effect: bool) -> Drawn:
        after = 0.10 * (1 + harm) if effect else 0.10
        reports = {arm: sums.share(int(rng.binomial(n, rate)), n) for arm, rate in (("a", 0.10), ("b", after))}
        likes = {arm: sums.share(int(rng.binomial(n, 0.2)), n) for arm in ("a", "b")}
        facts = sums.facts({"m": likes, "reports": reports}, {"a": n, "b": n}, HALVES)
        return Drawn(SHARE, facts, 0.0, 0.0, {"guardrails": {"reports": Guardrail(margin=margin)}})

    return draw
