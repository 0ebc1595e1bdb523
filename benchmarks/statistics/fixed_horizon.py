"""Read once: do intervals hold the truth as often as they say, and do A/A experiments stay silent?"""

from collections.abc import Callable
from dataclasses import dataclass

from audience import Generator
from cases import (
    Z_95,
    Case,
    Drawn,
    cuped_mean,
    cuped_ratio,
    cuped_share,
    lin,
    negative,
    normal,
    quantile,
    ramp,
    ratio,
    revenue,
    share,
    stratified,
)
from claims import Claim
from simulation import Simulation, Values
from sums import later

from analytics.inference.contrast import Interval
from analytics.report.build import build_report
from analytics.report.schema import Comparison

RUNS, QUICK = 6000, 200


@dataclass(frozen=True)
class Kind:
    """One way to compare, in words, its case, and how far its intervals may be off at this size (asymptotics)."""

    text: str
    case: Case
    slack: float = 0.0
    adjusted: bool = False
    lift_shown: bool = False
    contrast: bool = False


KINDS = (
    Kind("mean, Welch, 150 and 100 units", normal(150, 100), 0.003),
    Kind("mean below 0, 150 units an arm", negative(150), 0.003),
    Kind("mean, lift by Fieller", normal(150, 100, lift="fieller"), 0.003),
    Kind("mean, lift by log-delta", normal(150, 100, lift="log_delta"), 0.003),
    Kind("revenue (skewness above 10), 2,000 units an arm", revenue(2000), 0.006),
    Kind("revenue, lift by Fieller", revenue(2000, lift="fieller"), 0.006),
    Kind("revenue, lift by log-delta", revenue(2000, lift="log_delta"), 0.006),
    Kind("share 10 → 12 %, 600 and 400 units", share(600, 400, 0.10, 0.12), 0.003),
    Kind("share 10 → 12 %, lift by log-delta", share(600, 400, 0.10, 0.12, lift="log_delta"), 0.003),
    # About 15 against 22 likes: the delta method's own error, which is why `lift = "fieller"` is there.
    Kind("rare share 1 → 1.5 %, 1,500 units an arm", share(1500, 1500, 0.010, 0.015), 0.006, lift_shown=True),
    Kind("rare share, lift by score interval (fieller)", share(1500, 1500, 0.010, 0.015, lift="fieller"), 0.006),
    Kind("tiny counts 4 → 8 %, 50 units an arm (exact tests)", share(50, 50, 0.04, 0.08), 0.006),
    Kind("ratio of totals, delta method, 400 units an arm", ratio(400), 0.004),
    Kind("median of events clustered by unit, 300 units an arm", quantile(300, 0.50, 0.0), 0.006),
    Kind("95th percentile of the same", quantile(300, 0.95, Z_95), 0.012),
    Kind("CUPED, mean, 150 units an arm", cuped_mean(150), 0.004, adjusted=True),
    Kind("CUPED, share, 500 units an arm", cuped_share(500), 0.004, adjusted=True),
    Kind("CUPED, ratio with its own past as covariate, 400 units an arm", cuped_ratio(400), 0.006, adjusted=True),
    Kind("Lin's regression, three covariates, 300 and 150 units", lin(300, 150), 0.006, adjusted=True),
    Kind("post-stratified, four strata, 400 units an arm", stratified(400), 0.005),
    Kind("ramp 10 → 30 → 50 % while the rate falls from 30 to 10 %", ramp(told=True), 0.004),
    Kind("the same ramp with all units in one heap", ramp(told=False), contrast=True),
)


def simulations() -> list[Simulation]:
    """One per kind."""
    return [Simulation(kind.text, measure(kind.case), _claims(kind), runs=RUNS, quick=QUICK, group="Read once") for kind in KINDS]


def _claims(kind: Kind) -> list[Claim]:
    if kind.contrast:
        return [Claim(f"{kind.text}: interval of the difference", "difference", "shown")]
    lift = Claim(f"{kind.text}: lift", "lift", "at least", 0.95, kind.slack)
    if kind.lift_shown:
        lift = Claim(f"{kind.text}: lift by the delta method", "lift", "shown")
    claims = [
        Claim(f"{kind.text}: difference", "difference", "at least", 0.95, kind.slack),
        lift,
        Claim(f"{kind.text}: A/A with p ≤ 0.05", "false", "at most", 0.05, kind.slack),
    ]
    # An interval without a lower noise than the raw one has not used its covariates.
    return [*claims, Claim(f"{kind.text}: variance taken out", "reduced", "at least", 0.05)] if kind.adjusted else claims


def measure(case: Case) -> Callable[[Generator, int], Values]:
    """Draw, report, compare with the truth: once with an effect and once without."""

    def run(rng: Generator, runs: int) -> Values:
        values: Values = {"difference": [], "lift": [], "false": [], "reduced": []}
        for _ in range(runs):
            drawn = case(rng, True)
            found = _only(drawn)
            values["difference"].append(covers(found.difference.ci, drawn.difference))
            values["lift"].append(covers(found.relative.ci, drawn.lift))
            if found.variance_reduction is not None:
                values["reduced"].append(found.variance_reduction)
            p = _only(case(rng, False)).p_value
            values["false"].append(float(p is not None and p <= 0.05))
        return values

    return run


def covers(ci: Interval, truth: float) -> float:
    """1 if the interval holds the truth; an interval without bounds holds everything."""
    low, high = ci
    return float((low is None or low <= truth) and (high is None or truth <= high))


def _only(drawn: Drawn) -> Comparison:
    report = build_report("simulated", drawn.experiment(), {"m": drawn.metric}, drawn.facts, later(48))
    return report.metrics[0].comparisons[0]
