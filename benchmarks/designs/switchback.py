"""Switchbacks whose truth is known: seasons inside the day, tastes that drift, few blocks, and arms that act on in the next block.

python benchmarks/designs/switchback.py [--quick] [--only WORD] [--seed N] [--processes N]

Every line: an estimate ± its Monte Carlo standard error and what it should be. Blocks of an hour, 100 units in each on average; tastes
are shared by all of a block. The truth is what the same blocks would have shown under each arm. Exits with 1 when a claim fails.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "statistics")]

import numpy as np  # noqa: E402
from claims import Claim  # noqa: E402
from simulation import Simulation, Values  # noqa: E402
from told import told  # noqa: E402

from analytics.facts_of_designs import BlockFacts, BlockTotals  # noqa: E402
from analytics.inference.newey_west import newey_west_se  # noqa: E402
from analytics.inference.randomisation import randomisation_test  # noqa: E402
from analytics.inference.switchback import carry_over, effect  # noqa: E402
from analytics.inference.tails import two_sided_critical  # noqa: E402
from analytics.report.block_contrast import pair_of  # noqa: E402
from analytics.report.comparisons import Question, Rules, compare_family  # noqa: E402

START = datetime(2026, 3, 1, tzinfo=UTC)
HOURS, PLANNED = 336, 336
RATE = 0.10


@dataclass(frozen=True)
class Audience:
    """`season`: how far traffic and taste swing inside the day; `memory` and `noise` of a drift (AR 1, of the log of the rate);
    `share` of the treated arm; `lift`; `lasting`: what part of it stays for the next block."""

    name: str
    season: float = 0.0
    memory: float = 0.0
    noise: float = 0.0
    share: float = 0.5
    lift: float = 0.0
    lasting: float = 0.0
    hours: int = HOURS


def drawn(rng: np.random.Generator, one: Audience) -> tuple[BlockFacts, float]:
    """Blocks, and the true difference."""
    hour = np.arange(one.hours)
    wave = np.sin(2 * np.pi * hour / 24)
    drift, steps = np.zeros(one.hours), rng.normal(size=one.hours) * one.noise
    for i in range(1, one.hours):
        drift[i] = one.memory * drift[i - 1] + steps[i]
    size = rng.poisson(100 * (1 + one.season * np.sin(2 * np.pi * (hour - 6) / 24)))
    base = np.clip(RATE * (1 + one.season * wave) * np.exp(drift), 0, 0.4)
    treated = rng.random(one.hours) < one.share
    before = np.concatenate([[False], treated[:-1]])
    liked = rng.binomial(size, np.clip(base * (1 + one.lift * (treated + one.lasting * before)), 0, 1))
    truth = float((size * base).sum() / size.sum()) * one.lift * (1 + one.lasting)
    arms = ["b" if mine else "a" for mine in treated]
    shares = {"a": 1 - one.share, "b": one.share}
    facts = BlockFacts(
        origin=START,
        block_minutes=60.0,
        numbers=hour.tolist(),
        arms=arms,
        propensities=[shares[arm] for arm in arms],
        stretches=[0] * one.hours,
        weights=[shares],
        latency_ms=[None] * one.hours,
        totals={"m": BlockTotals(numerators=liked.astype(float).tolist(), denominators=size.astype(float).tolist())},
    )
    return facts, truth


def cut(facts: BlockFacts, n: int) -> BlockFacts:
    """As it stood after `n` blocks."""
    totals = facts.totals["m"]
    return BlockFacts(
        origin=facts.origin,
        block_minutes=facts.block_minutes,
        numbers=facts.numbers[:n],
        arms=facts.arms[:n],
        propensities=facts.propensities[:n],
        stretches=facts.stretches[:n],
        weights=facts.weights,
        latency_ms=facts.latency_ms[:n],
        totals={"m": BlockTotals(numerators=totals.numerators[:n], denominators=totals.denominators[:n])},
    )


def compared(facts: BlockFacts) -> Any:
    """The comparison that a report shows."""
    question = Question(metric="m", role="primary", kind="proportion", direction="up", facts={}, blocks=facts, brief=True)
    return compare_family([question], ["a", "b"], "a", Rules(planned_units=PLANNED))[0].comparisons[0]


def one_look(one: Audience) -> Callable[[np.random.Generator, int], Values]:
    """At the end: is the truth in each interval; would requests taken one by one, or blocks without foresight, have said otherwise?"""

    def run(rng: np.random.Generator, runs: int) -> Values:
        values: Values = {}
        for _ in range(runs):
            facts, truth = drawn(rng, one)
            blocks, shares = pair_of(facts, "m", "b", "a")
            found = effect(blocks)
            if found is None:
                continue
            contrast = found.contrast
            apart = abs(contrast.difference - truth)
            hac = newey_west_se(found.scores, blocks.numbers, 2)
            rates = [blocks.numerators[blocks.treated == side].sum() / blocks.denominators[blocks.treated == side].sum() for side in (0, 1)]
            sizes = [blocks.denominators[blocks.treated == side].sum() for side in (0, 1)]
            naive = sum(rate * (1 - rate) / size for rate, size in zip(rates, sizes, strict=True)) ** 0.5
            told = {
                "ours": apart <= two_sided_critical(0.05, contrast.df) * contrast.se,
                "hac": apart <= two_sided_critical(0.05) * hac,
                "requests": abs(rates[1] - rates[0] - truth) <= two_sided_critical(0.05) * naive,
                "foretold": found.variance_reduction,
                "bias": (contrast.difference - truth) / RATE,
            }
            if not one.lift:
                test = randomisation_test(blocks, shares)
                told["randomised"] = test is not None and test.p_value <= 0.05
            else:
                told["power"] = abs(contrast.statistic()) > two_sided_critical(0.05, contrast.df)
            acting = carry_over(blocks)
            if acting is not None:
                told["carry"] = acting.p_value <= 0.05
                told["alarm"] = acting.p_value < 0.001
            for key, value in told.items():
                values.setdefault(key, []).append(float(value))
        return values

    return run


def every_look(one: Audience, step: int) -> Callable[[np.random.Generator, int], Values]:
    """Read every `step` blocks from the 60th on: was the sequence ever wrong, and would the interval for one look have been?"""

    def run(rng: np.random.Generator, runs: int) -> Values:
        values: Values = {"sequence": [], "fixed": []}
        for _ in range(runs):
            facts, truth = drawn(rng, one)
            wrong, fixed = False, False
            for n in range(60, one.hours + 1, step):
                comparison = compared(cut(facts, n))
                if comparison.always_valid is None:
                    continue
                (low, high), (near, far) = comparison.always_valid.difference_ci, comparison.difference.ci
                wrong |= low is not None and not low <= truth <= high
                fixed |= near is not None and not near <= truth <= far
            values["sequence"].append(float(wrong))
            values["fixed"].append(float(fixed))
        return values

    return run


def simulations() -> list[Simulation]:
    plain, day = Audience("blocks alike"), Audience("season ±50 %", season=0.5)
    drift = Audience("season and drift", season=0.5, memory=0.9, noise=0.1)
    uneven = Audience("season and drift, 30/70", season=0.5, memory=0.9, noise=0.1, share=0.7)
    chosen = []
    for one in (plain, day, drift, uneven):
        words = f"{one.name}, 336 blocks"
        claims = [
            Claim(f"{words}: no effect, interval holds it", "ours", "about", 0.95, 0.01),
            Claim(f"{words}: no effect, Newey-West's holds it", "hac", "about", 0.95, 0.02),
            Claim(f"{words}: no effect, randomisation p <= 5 %", "randomised", "at most", 0.05),
            Claim(f"{words}: no effect, requests taken one by one: holds it", "requests", "shown"),
            Claim(f"{words}: variance foretold by earlier blocks", "foretold", "shown"),
            Claim(f"{words}: carry-over p <= 5 % where there is none", "carry", "about", 0.05, 0.01),
        ]
        chosen.append(Simulation(f"one look: {words}", one_look(one), claims, 500, 24, "One look, no effect"))
    for one in (Audience("season and drift", 0.5, 0.9, 0.1, lift=0.2), Audience("30/70", 0.5, 0.9, 0.1, share=0.7, lift=0.2)):
        words = f"{one.name}, lift 20 %"
        claims = [
            Claim(f"{words}: interval holds it", "ours", "about", 0.95, 0.01),
            Claim(f"{words}: Newey-West's holds it", "hac", "about", 0.95, 0.02),
            Claim(f"{words}: found", "power", "shown"),
            Claim(f"{words}: bias, in shares of the control's rate", "bias", "about", 0.0, 0.005),
        ]
        chosen.append(Simulation(f"one look: {words}", one_look(one), claims, 500, 24, "One look, an effect"))
    for hours in (16, 48):
        one = Audience("few", season=0.5, hours=hours)
        words = f"season ±50 %, {hours} blocks"
        claims = [
            Claim(f"{words}: no effect, interval holds it", "ours", "about", 0.95, 0.02),
            Claim(f"{words}: no effect, Newey-West's holds it", "hac", "shown"),
            Claim(f"{words}: no effect, randomisation p <= 5 %", "randomised", "at most", 0.05),
        ]
        chosen.append(Simulation(f"few: {words}", one_look(one), claims, 600, 24, "Few blocks"))
    lasting = Audience("lasting", season=0.5, lift=0.3, lasting=0.5)
    claims = [
        Claim("half of a lift of 30 % lasts for a block: alarm (p < 0.001)", "alarm", "shown"),
        Claim("half of a lift of 30 % lasts for a block: bias, in shares of the control's rate", "bias", "shown"),
    ]
    chosen.append(Simulation("carry-over", one_look(lasting), claims, 300, 24, "An arm that acts on in the next block"))
    for one in (plain, drift, Audience("season and drift, lift 20 %", 0.5, 0.9, 0.1, lift=0.2)):
        claims = [
            Claim(f"{one.name}: interval at any look ever wrong", "sequence", "at most", 0.05),
            Claim(f"{one.name}: interval for one look ever wrong", "fixed", "shown"),
        ]
        chosen.append(Simulation(f"looks: {one.name}", every_look(one, 12), claims, 300, 8, "Read every 12 blocks, from 60 to 336"))
    return chosen


def main(given: Sequence[str] | None = None) -> int:
    return told(__doc__, simulations(), 7, given)


if __name__ == "__main__":
    sys.exit(main())
