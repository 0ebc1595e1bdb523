"""Read every hour for 30 days: how often is somebody ever told something false?"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import audience
import numpy as np
from audience import Generator
from claims import Claim
from reading import ALPHA, Reader
from simulation import Simulation, Values
from streams import Measure, Schedule, Totals, accumulate, accumulate_acts, arrivals

from analytics.experiment import Guardrail, Metric

HOURS = 30 * 24
HOURLY = np.arange(1.0, HOURS + 1)
TWICE_DAILY = np.arange(12.0, HOURS + 1, 12.0)
HALVES = {"a": 0.5, "b": 0.5}
EVEN = Schedule(((0.0, HALVES),), HOURLY)
THIRDS = Schedule(((0.0, {"a": 0.4, "b": 0.3, "c": 0.3}),), np.arange(6.0, HOURS + 1, 6.0))
RAMP = Schedule(((0.0, {"a": 0.9, "b": 0.1}), (72.0, {"a": 0.7, "b": 0.3}), (192.0, HALVES)), HOURLY)
SHARE = Measure(Metric(kind="proportion", event="like"), (0,))
MEAN = Measure(Metric(kind="mean", event="spend"), (0,))
Draw = Callable[[Generator], Totals]
# 14 units an hour are 10,000 in 30 days: twice the planned 5,000, for those who go on reading after the end.
PER_HOUR = 14.0


def simulations() -> list[Simulation]:
    """All of the group."""
    return [*_null(), *_with_effect(), *_other_bounds()]


def _null() -> list[Simulation]:
    group = "Read every hour for 30 days (720 looks), A/A: ever told something false"
    three = {
        "m": MEAN,
        "like_rate": Measure(SHARE.metric, (1,)),
        "clicks": Measure(Metric(kind="ratio", event="click", denominator="view"), (2, 3)),
        "reports": Measure(Metric(kind="proportion", event="report", direction="down"), (4,)),
    }
    family = {"secondary": ("like_rate", "clicks"), "guardrails": {"reports": Guardrail(margin=0.5)}}
    return [
        _simulation(group, "share of 10 %", _shares(0.10), Reader({"m": SHARE}), 2000),
        _simulation(group, "rare share of 0.5 %", _shares(0.005), Reader({"m": SHARE}), 800),
        _simulation(group, "revenue, skewness above 10", _revenue(0.15, 0.15), Reader({"m": MEAN}), 1000),
        _simulation(
            group,
            "three arms, four metrics, every 6 hours",
            _people(),
            Reader(three, changes=family),
            400,
            [Claim("", "secondary", "at most", ALPHA), Claim("", "fdr", "at most", ALPHA), Claim("", "rollback", "at most", ALPHA)],
        ),
        _simulation(group, "ramp 10 → 30 → 50 % while the rate falls from 30 to 10 %", _ramp(), Reader({"m": SHARE}), 1000),
        _simulation(group, "5,000 units at once that go on acting, all alike", _acting(None), Reader({"m": MEAN}), 1000),
        _simulation(group, "5,000 units at once, each with a habit", _acting(0.5), Reader({"m": MEAN}), 800),
    ]


def _with_effect() -> list[Simulation]:
    group = "Read every hour for 30 days, with a true effect"
    # One look at 5,000 units finds this with a probability of 80 %.
    raised = "share 10 → 12.38 %"
    gain = 0.015 * audience.REVENUE_PER_PAYER
    outside = Claim("revenue +10 %: interval at any look ever without the truth", "outside", "at most", ALPHA, 0.01)
    sequence = Reader({"m": SHARE}, truth={"b": 0.0238}, lift={"b": 0.238})
    paid = Reader({"m": MEAN}, truth={"b": gain}, lift={"b": 0.1})
    ratio = Metric(kind="ratio", event="click", denominator="view", covariate_days=14)
    cuped = Reader({"m": Measure(ratio, (0, 1, 2, 3))}, screened=False)
    return [
        Simulation(
            "power of the sequence",
            _measure(_shares(0.10, 0.1238), sequence),
            [
                Claim(f"{raised}: interval at any look ever without the truth", "outside", "at most", ALPHA),
                Claim(f"{raised}: its lift", "lift outside", "at most", ALPHA),
                Claim(f"{raised}: shipped within 10,000 units read hourly (one look at 5,000: 80 %)", "ship", "at least", 0.70),
                Claim(f"{raised}: units when it is shipped, median (one look: 5,000)", "units", "shown", share=False, median=True),
                *_screen(raised),
            ],
            runs=300,
            quick=16,
            group=group,
        ),
        *(
            Simulation(
                f"coverage at any look, revenue, {lift}, from {least} units an arm",
                _measure(_revenue(0.15, 0.165), replace(paid, changes={"lift": lift}, from_units=least)),
                [*claims, *_screen(f"revenue +10 %, {lift}, from {least}")],
                runs=600,
                quick=24,
                group=group,
            )
            for lift, least, claims in (
                # Few buyers: the delta method's lift needs more of them than the difference does. Fieller's does not.
                ("delta", 100, [outside, Claim("revenue +10 %: lift by the delta method, from 100 units an arm", "lift outside", "shown")]),
                ("delta", 1000, [Claim("revenue +10 %: lift by the delta method, from 1,000", "lift outside", "at most", ALPHA, 0.01)]),
                ("fieller", 100, [Claim("revenue +10 %: lift by Fieller, from 100 units an arm", "lift outside", "at most", ALPHA)]),
            )
        ),
        Simulation(
            "coverage at any look, CUPED for a ratio, A/A, twice a day",
            _measure(_clicks(), cuped),
            [Claim("CUPED for a ratio (A/A, twice a day): interval at any look ever without the truth", "outside", "at most", ALPHA)],
            runs=400,
            quick=24,
            group=group,
        ),
    ]


def _other_bounds() -> list[Simulation]:
    group = "Other promises about looks, A/A"
    bounded = Measure(Metric(kind="mean", event="score", bounds=(0.0, 1.0)), (0,))
    daily = Schedule(((0.0, HALVES),), TWICE_DAILY)
    # A little after the planned units are in: a look that comes too early is not yet the planned one.
    planned = Schedule(((0.0, HALVES),), np.arange(1, 6) * 1040 / PER_HOUR)
    return [
        Simulation(
            "guaranteed intervals",
            _measure(_shares(0.02, schedule=daily), Reader({"m": SHARE}, from_units=1, screened=False)),
            [Claim("guaranteed interval of a rare share, from the first units on, ever wrong", "guaranteed outside", "at most", ALPHA)],
            runs=200,
            quick=16,
            group=group,
        ),
        Simulation(
            "guaranteed intervals of a bounded mean",
            _measure(_scores(daily), Reader({"m": bounded}, from_units=2, screened=False)),
            [Claim("guaranteed interval of a mean in [0, 1], ever wrong", "guaranteed outside", "at most", ALPHA)],
            runs=200,
            quick=16,
            group=group,
        ),
        Simulation(
            "group-sequential bounds",
            _measure(_scores(planned), Reader({"m": MEAN}, changes={"looks": 5}, screened=False)),
            [
                Claim("five planned looks: ever past the group-sequential bound", "crossed", "at most", ALPHA, 0.003),
                Claim("five planned looks: the p for one look ever at most 0.05", "fixed p", "shown"),
            ],
            runs=4000,
            quick=400,
            group=group,
        ),
    ]


def _simulation(group: str, name: str, draw: Draw, reader: Reader, runs: int, more: Sequence[Claim] = ()) -> Simulation:
    words = {
        "secondary": "a secondary metric at any look",
        "fdr": "e-BH over all comparisons",
        "rollback": "rolled back by a guardrail",
    }
    claims = [
        Claim(f"{name}: shipped, or stopped as worse", "claimed", "at most", ALPHA),
        Claim(f"{name}: interval at any look without 0", "outside", "at most", ALPHA),
        *(Claim(f"{name}: {words[c.key]}", c.key, c.rule, c.nominal) for c in more),
        # Without this the simulation could not see what peeking does.
        Claim(f"{name}: the p for one look, read hourly, at most 0.05", "fixed p", "at least", 0.15),
        *_screen(name),
    ]
    return Simulation(f"hourly: {name}", _measure(draw, reader), claims, runs=runs, quick=max(24, runs // 25), group=group)


def _screen(name: str) -> list[Claim]:
    return [Claim(f"{name}: looks with a claim that the screen would have missed, a run", "missed", "none", 0.0, share=False)]


def _measure(draw: Draw, reader: Reader) -> Callable[[Generator, int], Values]:
    def run(rng: Generator, runs: int) -> Values:
        values: Values = {}
        for turn in range(runs):
            for key, value in reader.read(draw(rng), turn).items():
                values.setdefault(key, []).append(value)
        return values

    return run


def _shares(rate: float, treated: float | None = None, schedule: Schedule = EVEN) -> Draw:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, float(schedule.looks[-1]))
        arm = schedule.arm_of(rng, hour)
        return accumulate(schedule, hour, arm, [rng.random(len(hour)) < np.where(arm > 0, rate if treated is None else treated, rate)])

    return draw


def _revenue(control: float, treated: float) -> Draw:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, HOURS)
        arm = EVEN.arm_of(rng, hour)
        spent = np.where(arm > 0, audience.revenue(rng, len(hour), treated), audience.revenue(rng, len(hour), control))
        return accumulate(EVEN, hour, arm, [spent])

    return draw


def _people() -> Draw:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, HOURS)
        n = len(hour)
        clicks = audience.clicks(rng, n, 0.3)
        liked = rng.random(n) < np.minimum(0.9, clicks.clicks / 20)
        spent = audience.revenue(rng, n, 0.15) * (1 + liked)
        return accumulate(THIRDS, hour, THIRDS.arm_of(rng, hour), [spent, liked, clicks.clicks, clicks.views, rng.random(n) < 0.05])

    return draw


def _ramp() -> Draw:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, HOURS)
        liked = rng.random(len(hour)) < 0.30 - 0.20 * hour / HOURS
        return accumulate(RAMP, hour, RAMP.arm_of(rng, hour), [liked])

    return draw


def _acting(shape: float | None) -> Draw:
    """5,000 units within two hours, who then act about once in four days until the end: the sums move on while the units do not."""

    def draw(rng: Generator) -> Totals:
        hour = np.sort(rng.random(5000) * 2)
        return accumulate_acts(EVEN, hour, EVEN.arm_of(rng, hour), audience.acts(rng, hour, HOURS, 0.01, shape))

    return draw


def _clicks() -> Draw:
    schedule = Schedule(((0.0, HALVES),), TWICE_DAILY)

    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, HOURS)
        return accumulate(schedule, hour, schedule.arm_of(rng, hour), list(audience.clicks(rng, len(hour), 0.3)))

    return draw


def _scores(schedule: Schedule) -> Draw:
    def draw(rng: Generator) -> Totals:
        hour = arrivals(rng, PER_HOUR, float(schedule.looks[-1]))
        return accumulate(schedule, hour, schedule.arm_of(rng, hour), [rng.beta(0.5, 2.0, len(hour))])

    return draw
