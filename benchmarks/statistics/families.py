"""Many metrics and arms at once, and the Bayesian view: error over the whole family, and whether credible means credible."""

from collections.abc import Callable

import sums
from audience import Generator
from claims import Claim
from fixed_horizon import covers
from simulation import Simulation, Values

from analytics.experiment import Experiment, Metric
from analytics.inference.bayes import PRIOR_SD
from analytics.report.build import build_report

GROUP = "Families and posteriors, read once"
ARMS = {"a": 0.4, "b": 0.3, "c": 0.3}
METRICS = [f"metric-{i}" for i in range(5)]
SIZES = {"a": 400, "b": 300, "c": 300}
RUNS, QUICK = 2500, 100


def simulations() -> list[Simulation]:
    """Holm and Benjamini–Hochberg over ten comparisons; posteriors over experiments drawn from the prior."""
    null = Claim("Holm, ten comparisons without effect: any called significant", "any false", "at most", 0.05)
    outside = Claim("Holm, the same: any adjusted interval without the truth", "any outside", "at most", 0.05)
    half = Claim("Holm, half of ten with an effect: any false one called significant", "any false", "at most", 0.05)
    rate = Claim("Benjamini–Hochberg, half of ten with an effect: false among those called significant", "false rate", "at most", 0.05)
    evidence = Claim("e-BH, half of ten with an effect: false among those called significant", "e false rate", "at most", 0.05)
    found = Claim("Benjamini–Hochberg, the same: effects found", "found", "at least", 0.5)
    credible = Claim("posterior, lifts drawn from the prior N(0, 0.3²): credible interval holds the lift", "credible", "about", 0.95, 0.01)
    better = Claim("the same: P(better) less how often it was better", "calibration", "about", 0.0, 0.01, share=False)
    shrunk = Claim("the same, P(better) above 95 %: worse all the same", "mistaken", "at most", 0.05)
    return [
        Simulation("family: Holm, no effect", _family("holm", 0), [null, outside], RUNS, QUICK, GROUP),
        Simulation("family: Holm, half with an effect", _family("holm", 5), [half], RUNS, QUICK, GROUP),
        Simulation("family: Benjamini–Hochberg", _family("benjamini_hochberg", 5), [rate, found, evidence], RUNS, QUICK, GROUP),
        Simulation("posterior: drawn from the prior", _posterior, [credible, better, shrunk], 6000, 300, GROUP),
    ]


def _family(correction: str, effects: int) -> Callable[[Generator, int], Values]:
    """Correlated metrics of the same people; the first `effects` of the ten comparisons differ by 0.35 standard deviations."""
    experiment = Experiment(
        route="hero",
        arms=ARMS,
        control="a",
        primary="likes",
        secondary=tuple(METRICS),
        correction=correction,  # type: ignore[arg-type]
    )
    metrics = {name: Metric(kind="mean", event="like") for name in ("likes", *METRICS)}

    def run(rng: Generator, runs: int) -> Values:
        values: Values = {"any false": [], "any outside": [], "false rate": [], "e false rate": [], "found": []}
        for _ in range(runs):
            rows = {arm: 10 + rng.normal(0, 0.7, (6, n)) + rng.normal(0, 0.7, n) for arm, n in SIZES.items()}
            places = [(name, arm) for name in METRICS for arm in ("b", "c")]
            truth = {place: 0.35 if i < effects else 0.0 for i, place in enumerate(places)}
            for i, name in enumerate(METRICS):
                for arm in ("b", "c"):
                    rows[arm][i + 1] += truth[name, arm]
            handed = {name: {arm: sums.moments(table[i]) for arm, table in rows.items()} for i, name in enumerate(metrics)}
            report = build_report("simulated", experiment, metrics, sums.facts(handed, SIZES, ARMS), sums.later(48))
            told = [(truth[m.metric, c.arm], c) for m in report.metrics if m.role == "secondary" for c in m.comparisons]
            called = [(t, c) for t, c in told if c.adjusted_p_value is not None and c.adjusted_p_value <= 0.05]
            values["any false"].append(float(any(t == 0 for t, _ in called)))
            values["any outside"].append(float(any(not covers(c.difference.ci, t) for t, c in told)))
            values["false rate"].append(sum(t == 0 for t, _ in called) / max(1, len(called)))
            values["found"].append(sum(t != 0 for t, _ in called) / max(1, effects))
            if any(c.e_bh is not None for _, c in told):
                rejected = [t for t, c in told if c.e_bh]
                values["e false rate"].append(sum(t == 0 for t in rejected) / max(1, len(rejected)))
        return values

    return run


def _posterior(rng: Generator, runs: int) -> Values:
    """Experiments whose true lift is drawn from the report's own prior; a control that is known well, as the prior assumes."""
    values: Values = {"credible": [], "calibration": [], "mistaken": []}
    experiment = Experiment(route="hero", arms={"a": 0.5, "b": 0.5}, control="a", primary="m")
    metrics = {"m": Metric(kind="mean", event="like")}
    for _ in range(runs):
        lift = float(rng.normal(0.0, PRIOR_SD))
        n = int(rng.integers(100, 2000))
        rows = {"a": rng.normal(10.0, 10.0, 20_000), "b": rng.normal(10.0 * (1 + lift), 40.0, n)}
        handed = {"m": {arm: sums.moments(values_of) for arm, values_of in rows.items()}}
        units = {arm: len(values_of) for arm, values_of in rows.items()}
        report = build_report("simulated", experiment, metrics, sums.facts(handed, units, {"a": 0.5, "b": 0.5}), sums.later(48))
        bayes = report.metrics[0].comparisons[0].bayes
        if bayes is not None:
            values["credible"].append(covers(bayes.relative_ci, lift))
            values["calibration"].append(bayes.prob_better - float(lift > 0))
            if bayes.prob_better > 0.95:
                values["mistaken"].append(float(lift <= 0))
    return values
