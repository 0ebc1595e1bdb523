"""Bandits whose truth is known: are intervals right when weights, seasons and delays move together, and what does learning save?

python benchmarks/designs/adaptive.py [--quick] [--seed N] [--runs N]

Every run: 20 stretches of 300 units (or as it says), three arms, rates that swing by half up and down, hits that come up to two stretches
late, and 6 units a stretch that were drawn with the weights before. After every stretch the policy moves the weights as the gateway
does (`next_weights`, units one stretch old), and somebody looks: 19 looks at every interval. A wrong interval leaves out the difference
that the units so far would have shown on average (Hadad's: with its own weights over time). Each comparison is judged by itself at
95 %; ± is one Monte Carlo standard error. At the end the report itself is built. Exits with 1 where ours is wrong more often than 5 %,
or covers less than 93 %, by over three errors.
"""

import argparse
import math
import os
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import numpy as np  # noqa: E402
from machine import machine  # noqa: E402

from analytics.designs import Bandit  # noqa: E402
from analytics.experiment import Experiment, Metric  # noqa: E402
from analytics.facts import ArmFacts, ExperimentFacts, WeightPeriod  # noqa: E402
from analytics.facts_of_designs import AllocationStretch, Draw  # noqa: E402
from analytics.inference.adaptive_periods import allocation_periods  # noqa: E402
from analytics.inference.adaptive_table import Stretch  # noqa: E402
from analytics.inference.confidence_sequence import two_sided_critical  # noqa: E402
from analytics.inference.tails import two_sided_p  # noqa: E402
from analytics.moments import Joint  # noqa: E402
from analytics.policy.weights import next_weights  # noqa: E402
from analytics.report.adaptive_contrast import adaptive_found, adaptive_guaranteed, table_of  # noqa: E402
from analytics.report.build import build_report  # noqa: E402
from analytics.report.evidence import always_valid  # noqa: E402
from analytics.report.question import Question  # noqa: E402

ALPHA, PLANNED, STRETCHES, UNITS, STRAYS = 0.05, 5000, 20, 300, 6
ARMS = ("base", "vivid", "soft")
# When a unit hits, after how many stretches it is known.
DELAYS = (0.5, 0.3, 0.2)
START = datetime(2026, 11, 1, tzinfo=UTC)
METRIC = Metric(kind="proportion", event="like")
PATHS = ("at any look", "pooled, at any look", "guaranteed")
LAST = ("at any look", "guaranteed", "one look, AIPW", "one look, Hadad", "one look, pooled")


@dataclass(frozen=True)
class Setting:
    """Rates of the arms before the season; `units` a stretch; `added`: from which stretch "soft" can be got; `retired`: from which
    "vivid" no more."""

    name: str
    policy: str
    floor: float
    rates: tuple[float, float, float]
    season: float = 0.5
    added: int = 0
    retired: int = STRETCHES
    units: int = UNITS


SETTINGS = (
    Setting("thompson, floor 5 %, no effect", "thompson", 0.05, (0.10, 0.10, 0.10)),
    Setting("thompson, floor 10 %, no effect", "thompson", 0.10, (0.10, 0.10, 0.10)),
    Setting("thompson, floor 5 %, no effect, ten times the units", "thompson", 0.05, (0.10, 0.10, 0.10), units=10 * UNITS),
    Setting("thompson, floor 5 %, one better", "thompson", 0.05, (0.10, 0.14, 0.11)),
    Setting("thompson, floor 10 %, one better", "thompson", 0.10, (0.10, 0.14, 0.11)),
    Setting("top-two, floor 5 %, one better", "top_two", 0.05, (0.10, 0.14, 0.11)),
    Setting("thompson, floor 5 %, one added, one retired", "thompson", 0.05, (0.10, 0.12, 0.13), added=6, retired=13),
)


@dataclass
class Course:
    """A run so far: per stretch weights, units and hits [propensities][arms][delay], and the rates that held."""

    weights: list[np.ndarray] = field(default_factory=list)
    draws: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=list)
    rates: list[np.ndarray] = field(default_factory=list)

    def stretch(self, s: int, now: int) -> Stretch:
        """What is known of stretch `s` after stretch `now`."""
        found: dict[str, list[Draw]] = {}
        for chance, n, hits in self.draws[s]:
            known = hits[:, : now - s + 1].sum(axis=1)
            for k, arm in enumerate(ARMS):
                if n[k]:
                    p = known[k] / n[k]
                    found.setdefault(arm, []).append(
                        Draw(
                            propensity=float(chance[k]),
                            joint=Joint(n=int(n[k]), means=(float(p),), products=((float(n[k] * p * (1 - p)),),)),
                        )
                    )
        return Stretch(weights=dict(zip(ARMS, map(float, self.weights[s]), strict=True)), draws=found)

    def truth(self, now: int, k: int, *, stabilised: bool = False) -> float:
        """The difference to the control that all units so far would have shown, over the stretches in which both could be got;
        `stabilised`: with the weights of the estimate for one look."""
        rows = [s for s in range(now + 1) if self.weights[s][0] > 0 and self.weights[s][k] > 0]
        if not rows:
            return 0.0
        known = np.cumsum(DELAYS)
        h = [(1 / self.weights[s][0] + 1 / self.weights[s][k]) ** -0.5 if stabilised else 1.0 for s in rows]
        return float(np.average([(self.rates[s][k] - self.rates[s][0]) * known[min(now - s, 2)] for s in rows], weights=h))


def run(setting: Setting, rng: np.random.Generator) -> dict[str, float]:
    """Shares of the two comparisons that were ever wrong, that were covered at the last look, widths there, and hits lost."""
    bandit = Bandit(policy="top_two" if setting.policy == "top_two" else "thompson", floor=setting.floor)
    weights = np.array([1.0, 1.0, 1.0 if setting.added == 0 else 0.0])
    weights /= weights.sum()
    course, before, phase = Course(), weights, rng.random() * 2 * math.pi
    wrong = {name: np.zeros(2, dtype=bool) for name in PATHS}
    lost = 0.0
    for now in range(STRETCHES):
        rates = np.array(setting.rates) * (1 + setting.season * math.sin(phase + now / 2))
        if now == setting.added and now:
            weights = np.array([*(weights[:2] * 0.75), 0.25])
        if now == setting.retired:
            weights = np.array([weights[0], 0.0, weights[2]]) / (weights[0] + weights[2])
        course.weights.append(weights)
        course.rates.append(rates)
        course.draws.append([_drawn(rng, weights, setting.units - STRAYS, rates), _drawn(rng, before, STRAYS, rates)])
        lost += sum(float(n @ (rates.max() - rates)) for _, n, _ in course.draws[-1])
        before = weights
        stretches = [course.stretch(s, now) for s in range(now + 1)]
        if now:
            _look(course, stretches, now, wrong)
            moved = next_weights(
                allocation_periods(stretches[:now], ARMS),
                dict(zip(ARMS, map(float, weights), strict=True)),
                bandit,
                up=True,
                minimum_units=50,
            )
            weights = weights if moved is None else np.array([moved[arm] for arm in ARMS])
    found = {f"ever {name}": float(flags.mean()) for name, flags in wrong.items()} | _last(course, stretches)
    possible = STRETCHES if setting.retired == STRETCHES else setting.retired
    split = np.mean([float(np.mean(r.max() - r)) for r in course.rates[:possible]])
    return found | {"lost": 1000 * lost / (STRETCHES * setting.units), "lost by a split": 1000 * float(split)}


def _drawn(rng: np.random.Generator, weights: np.ndarray, units: int, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = rng.multinomial(units, weights / weights.sum())
    hits = np.array([rng.multinomial(rng.binomial(n[k], rates[k]), DELAYS) for k in range(3)])
    return weights, n, hits


def _look(course: Course, stretches: list[Stretch], now: int, wrong: dict[str, np.ndarray]) -> None:
    question = _question(stretches)
    for i, arm in enumerate(ARMS[1:]):
        truth = course.truth(now, i + 1)
        contrast = adaptive_found(question, arm, "base").contrast
        if contrast is not None:
            p = two_sided_p(contrast.statistic(), None)
            shown = always_valid(contrast, p, ALPHA, 1, PLANNED, "delta").difference_ci
            wrong["at any look"][i] |= not _covers(shown, truth)
        wrong["pooled, at any look"][i] |= not _covers(_pooled(stretches, arm, sequence=True), truth)
        if now % 5 == 4:
            bounds = adaptive_guaranteed(question, arm, "base", ALPHA, PLANNED)
            wrong["guaranteed"][i] |= not isinstance(bounds, str) and not _covers(bounds, truth)


def _last(course: Course, stretches: list[Stretch]) -> dict[str, float]:
    """From the report itself, after the last stretch."""
    report = build_report("simulated", _experiment(), {"rate": METRIC}, _facts(stretches), START + timedelta(hours=STRETCHES))
    assert report.adaptive is not None
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in LAST}
    for i, comparison in enumerate(report.metrics[0].comparisons):
        truth = course.truth(STRETCHES - 1, i + 1)
        hadad = next((one.ci for one in report.adaptive.differences if one.arm == comparison.arm), None)
        shown = {
            "at any look": comparison.always_valid.difference_ci if comparison.always_valid else None,
            "guaranteed": comparison.guaranteed.difference_ci if comparison.guaranteed else None,
            "one look, AIPW": comparison.difference.ci if comparison.p_value is not None else None,
            "one look, Hadad": hadad,
            "one look, pooled": _pooled(stretches, comparison.arm, sequence=False),
        }
        for name, interval in shown.items():
            if interval is not None and interval[0] is not None and interval[1] is not None:
                right = course.truth(STRETCHES - 1, i + 1, stabilised=True) if name == "one look, Hadad" else truth
                rows[name].append((float(_covers(interval, right)), (interval[1] - interval[0]) / 2))
    found = {}
    for name, pairs in rows.items():
        if pairs:
            found[f"covers {name}"], found[f"half {name}"] = map(float, np.mean(pairs, axis=0))
    return found


def _question(stretches: list[Stretch]) -> Question:
    allocation = [
        AllocationStretch(started_at=START, weights=dict(s.weights), draws={"rate": {k: list(v) for k, v in s.draws.items()}})
        for s in stretches
    ]
    table = table_of(allocation, "rate", "proportion", ARMS)
    return Question(metric="rate", role="primary", kind="proportion", direction="up", facts={}, allocation=table)


def _pooled(stretches: list[Stretch], arm: str, *, sequence: bool) -> tuple[float | None, float | None]:
    """What a tool shows that puts all units of an arm together."""
    sums = {}
    for name in ("base", arm):
        draws = [draw.joint for s in stretches for draw in s.draws.get(name, ())]
        n = sum(j.n for j in draws)
        sums[name] = (n, sum(j.n * j.means[0] for j in draws) / n if n else 0.0)
    (n_a, a), (n_b, b) = sums["base"], sums[arm]
    if min(n_a, n_b) < 30 or not 0 < a + b < 2:
        return (None, None)
    critical = two_sided_critical(n_a + n_b, ALPHA, PLANNED) if sequence else 1.959963984540054
    half = critical * math.sqrt(a * (1 - a) / n_a + b * (1 - b) / n_b)
    return (b - a - half, b - a + half)


def _covers(interval: tuple[float | None, float | None], truth: float) -> bool:
    low, high = interval
    return low is None or high is None or low <= truth <= high


def _experiment() -> Experiment:
    weights = {"base": 0.4, "vivid": 0.3, "soft": 0.3}
    return Experiment(
        route="hero", arms=weights, control="base", primary="rate", design="bandit", planned_units=PLANNED, alpha=ALPHA, correction="none"
    )


def _facts(stretches: list[Stretch]) -> ExperimentFacts:
    units = [{arm: sum(draw.joint.n for draw in s.draws.get(arm, ())) for arm in ARMS} for s in stretches]
    starts = [START + timedelta(hours=i) for i in range(len(stretches))]
    return ExperimentFacts(
        experiment="simulated",
        started_at=START,
        data_as_of=starts[-1],
        events_read=0,
        flagged_events=0,
        bot_units=0,
        late_events=0,
        multiple_exposure=0,
        generations_without_exposure=0,
        arms=[
            ArmFacts(
                arm=arm,
                units=sum(counts[arm] for counts in units),
                generations=0,
                images=0,
                failures=0,
                latency_p50_ms=None,
                latency_p95_ms=None,
                variant_digest="",
                mean_inverse_propensity=None,
            )
            for arm in ARMS
        ],
        periods=[
            WeightPeriod(started_at=at, weights=dict(s.weights), units=counts)
            for at, s, counts in zip(starts, stretches, units, strict=True)
        ],
        metrics={},
        latency={},
        allocation=[
            AllocationStretch(started_at=at, weights=dict(s.weights), draws={"rate": {arm: list(draws) for arm, draws in s.draws.items()}})
            for at, s in zip(starts, stretches, strict=True)
        ],
    )


def _mean(rows: list[dict[str, float]], key: str) -> tuple[float, float]:
    values = np.array([row[key] for row in rows if key in row])
    return (float(values.mean()), float(values.std() / math.sqrt(len(values)))) if len(values) else (math.nan, math.nan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs: does it run, and is nothing far off")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--runs", type=int, default=200, help="of each setting")
    arguments = parser.parse_args()
    runs = 4 if arguments.quick else arguments.runs
    began, failed = time.perf_counter(), []
    print(machine("salon", "numpy", "scipy"))
    print(f"seed {arguments.seed}, {runs} runs of each setting, {STRETCHES} stretches of {UNITS} units, 19 looks, season ± 50 %")
    for place, setting in enumerate(SETTINGS):
        rows = [run(setting, np.random.default_rng([arguments.seed, place, i])) for i in range(runs)]
        print(f"\n{setting.name}", flush=True)
        for name in PATHS:
            value, error = _mean(rows, f"ever {name}")
            print(f"  {'ever wrong, ' + name:<36} {value:7.1%} ± {error:.1%}")
            if name != "pooled, at any look" and value > ALPHA + 3 * max(error, math.sqrt(0.05 * 0.95 / runs)):
                failed.append(f"{setting.name}: {name} is ever wrong in {value:.1%}")
        for name in LAST:
            value, error = _mean(rows, f"covers {name}")
            print(f"  {'covers at the end, ' + name:<36} {value:7.1%} ± {error:.1%}   half-width {_mean(rows, f'half {name}')[0]:.4f}")
            if "pooled" not in name and value < 0.93 - 3 * max(error, math.sqrt(0.05 * 0.95 / runs)):
                failed.append(f"{setting.name}: {name} covers {value:.1%}")
        if max(setting.rates) > min(setting.rates):
            (own, error), (split, _) = _mean(rows, "lost"), _mean(rows, "lost by a split")
            print(f"  hits lost of 1,000 units: {own:.1f} ± {error:.1f}, an even split {split:.1f}")
    print(f"\n{len(failed)} lines failed, in {time.perf_counter() - began:.0f} s")
    for text in failed:
        print(f"FAILED  {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
