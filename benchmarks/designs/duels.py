"""Duels whose truth is known: do the board's intervals hold, and how many votes find the best arm?

python benchmarks/designs/duels.py [--quick] [--seed N]

Raters come back and are loyal: with the chance printed they answer a pair as they always do, else afresh. Every vote by itself follows
Bradley-Terry or Davidson exactly, so that the strengths are the truth; votes of one rater hang together. Ends with 1 when
an interval by raters holds the truth less often than promised, by more than 0.02 and three Monte Carlo errors.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import numpy as np  # noqa: E402
from machine import machine  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from analytics.experiment import Experiment  # noqa: E402
from analytics.facts_of_designs import DuelFacts, Meeting, SideVotes  # noqa: E402
from analytics.inference.bradley_terry import bradley_terry  # noqa: E402
from analytics.inference.davidson import davidson  # noqa: E402
from analytics.inference.tails import two_sided_critical  # noqa: E402
from analytics.policy.pairs import next_pairs  # noqa: E402
from analytics.report.standings import board, votes_of  # noqa: E402

ALPHA = 0.05
SLACK = 0.02
FLOOR = 0.2
STRENGTHS = (0.5, 0.25, 0.0, -0.25, -0.5)
CONTEST = (0.35, 0.1, 0.0, 0.0, -0.1, -0.2, -0.3, -0.4)
NO_SIDES = SideVotes(raters=0, decided=0, left=0, left_squares=0, left_decided=0, decided_squares=0)


class Audience:
    """Raters who vote when they are asked, and what they have said: `held` [raters][pairs][3]."""

    def __init__(self, strengths: Sequence[float], nu: float, raters: int, loyalty: float, chance: np.random.Generator) -> None:
        self.pairs = list(combinations(range(len(strengths)), 2))
        self.names = [chr(ord("a") + arm) for arm in range(len(strengths))]
        gap = np.array([strengths[i] - strengths[j] for i, j in self.pairs])
        odds = np.stack([np.exp(gap / 2), np.exp(-gap / 2), np.full(len(gap), nu)], axis=1)
        self.ends = np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)
        self.raters, self.loyalty, self.chance = raters, loyalty, chance
        self.habits = chance.random((raters, len(self.pairs)))
        self.held = np.zeros((raters, len(self.pairs), 3), dtype=np.int64)

    def vote(self, chances: dict[str, float] | None, each: int) -> None:
        """So many votes of every rater, on pairs drawn by these chances; None: all alike."""
        weights = None if chances is None else [chances[f"{self.names[i]}|{self.names[j]}"] for i, j in self.pairs]
        rater = np.repeat(np.arange(self.raters), each)
        pair = self.chance.choice(len(self.pairs), len(rater), p=weights)
        loyal = self.chance.random(len(rater)) < self.loyalty
        said = np.where(loyal, self.habits[rater, pair], self.chance.random(len(rater)))
        np.add.at(self.held, (rater, pair, (said[:, None] > self.ends[pair, :2]).sum(axis=1)), 1)

    def facts(self) -> DuelFacts:
        """As the warehouse hands them over."""
        met = [place for place in range(len(self.pairs)) if self.held[:, place].any()]
        cells = self.held[:, met].reshape(self.raters, -1)
        products, seen = cells.T @ cells, self.held.sum(axis=2) > 0
        total, named = self.held.sum(axis=0), [(self.names[i], self.names[j]) for i, j in self.pairs]
        return DuelFacts(
            meetings=[
                Meeting(
                    first=named[place][0],
                    second=named[place][1],
                    won=int(total[place, 0]),
                    lost=int(total[place, 1]),
                    tied=int(total[place, 2]),
                    raters=int(seen[:, place].sum()),
                )
                for place in met
            ],
            raters=int(seen.any(axis=1).sum()),
            raters_of={
                name: int(seen[:, [place for place, pair in enumerate(named) if name in pair]].any(axis=1).sum()) for name in self.names
            },
            products=[(int(a), int(b), int(products[a, b])) for a, b in zip(*np.nonzero(np.triu(products)), strict=True)],
            sides=NO_SIDES,
        )


def experiment(names: Sequence[str]) -> Experiment:
    """A duel of these arms."""
    return Experiment(
        route="r", arms=dict.fromkeys(names, 1 / len(names)), control=names[0], primary="preferred", design="duel", alpha=ALPHA
    )


def with_error(values: Sequence[float] | NDArray[np.float64]) -> str:
    """Mean and its Monte Carlo error."""
    found = np.asarray(values, dtype=np.float64)
    return f"{found.mean():.4f} ± {found.std() / math.sqrt(len(found)):.4f}"


def covered(runs: int, raters: int, each: int, rounds: int, loyalty: float, nu: float, active: bool, chance: np.random.Generator) -> bool:
    """One line of the first table; does the interval by raters keep its promise?"""
    truth = np.array(STRENGTHS) - np.mean(STRENGTHS)
    by_rater: list[float] = []
    as_if: list[float] = []
    single: list[float] = []
    rank_missed: list[float] = []
    orders: list[float] = []
    named: list[float] = []
    pairs = np.array(list(combinations(range(len(truth)), 2)))
    true_gap, half = truth[pairs[:, 0]] - truth[pairs[:, 1]], two_sided_critical(ALPHA, raters - 1)
    for _ in range(runs):
        audience = Audience(STRENGTHS, nu, raters, loyalty, chance)
        facts = audience.facts()
        for _ in range(rounds):
            audience.vote(next_pairs(facts, audience.names, FLOOR) if active else None, each)
            facts = audience.facts() if active else facts
        facts = audience.facts()
        report = board(experiment(audience.names), facts)
        if report is None or any(s.ranks is None or s.elo_ci[0] is None for s in report.standings):
            continue
        fit = (davidson if report.tie_chance is not None else bradley_terry)(votes_of(facts, audience.names))
        gap = fit.strengths[pairs[:, 0]] - fit.strengths[pairs[:, 1]]
        for found, covariance in ((by_rater, fit.covariance()), (as_if, fit.naive_covariance())):
            i, j = pairs[:, 0], pairs[:, 1]
            se = np.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j])
            found.append(float(np.mean(np.abs(gap - true_gap) <= half * se)))
        elo = {s.arm: s.elo_ci for s in report.standings}
        true_elo = [1000 + 400 / math.log(10) * s for s in truth]
        hit = [(elo[n][0] or 0) <= t <= (elo[n][1] or 0) for n, t in zip(audience.names, true_elo, strict=True)]
        single.append(float(np.mean(hit)))
        ranks = {s.arm: s.ranks or (0, 0) for s in report.standings}
        rank_missed.append(float(any(not ranks[name][0] <= place + 1 <= ranks[name][1] for place, name in enumerate(audience.names))))
        orders.append(float(report.one_order_p_value is not None and report.one_order_p_value < ALPHA))
        named.append(float(bool(report.circles)))
    label = f"{'Davidson' if nu else 'Bradley-Terry':<14}{'active' if active else 'uniform':<9}{loyalty:<8g}"
    print(f"{label}{'   '.join(map(with_error, (single, by_rater, as_if, rank_missed, orders, named)))}   {len(single):,}", flush=True)
    return bool(min(np.mean(single), np.mean(by_rater)) >= 1 - ALPHA - SLACK - 3 * np.std(by_rater) / math.sqrt(len(by_rater)))


def contest(runs: int, rounds: int, raters: int, active: bool, chance: np.random.Generator) -> NDArray[np.float64]:
    """[runs][rounds/2]: after every second round, is the arm on top of the board the best one?"""
    right = np.zeros((runs, rounds // 2))
    best = int(np.argmax(CONTEST))
    for run in range(runs):
        audience = Audience(CONTEST, 0.3, raters, 0.3, chance)
        facts = audience.facts()
        for number in range(rounds):
            audience.vote(next_pairs(facts, audience.names, FLOOR) if active else None, 1)
            facts = audience.facts() if active or number % 2 else facts
            if number % 2:
                report = board(experiment(audience.names), facts)
                top = report.standings[0] if report else None
                right[run, number // 2] = top is not None and top.elo is not None and top.arm == audience.names[best]
    return right


def votes_to(right: NDArray[np.float64], share: float, raters: int) -> str:
    """Votes from which on the best arm is on top in this share of the runs."""
    late = np.nonzero(right.mean(axis=0) < share)[0]
    rounds = 1 if not len(late) else int(late[-1]) + 2
    return f"{rounds * raters:,}" if rounds <= right.shape[1] else f"over {right.shape[1] * raters:,}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs: does it run, and is nothing far off")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    chance, began = np.random.default_rng(arguments.seed), time.perf_counter()
    runs, raters, each, rounds = (20, 60, 4, 4) if arguments.quick else (500, 60, 4, 8)
    print(machine("salon", "numpy", "scipy"))
    print(f"seed {arguments.seed}, {'quick' if arguments.quick else 'full'}\n")
    print(f"{len(STRENGTHS)} arms, strengths {', '.join(map(str, STRENGTHS))}; {raters} raters, {each * rounds} votes each")
    print(f"active: chances move every {each * raters} votes, floor {FLOOR:g}")
    print("covered at 95 %: an arm's Elo; the difference of two, errors by raters; the same as if every vote were a stranger's. Then how")
    print("often any rank interval misses, one order is rejected at 5 %, and a circle is named, all three wrongly.")
    print(
        f"{'model':<14}{'pairs':<9}{'loyal':<8}{'Elo':<18}{'by raters':<18}{'naive':<18}{'rank missed':<18}{'order':<18}{'circle':<18}runs"
    )
    held = [
        covered(runs, raters, each, rounds, loyalty, nu, active, chance)
        for nu in (0.0, 0.6)
        for loyalty, active in ((0.0, False), (0.7, False), (0.7, True))
    ]
    runs, rounds, raters = (10, 10, 40) if arguments.quick else (150, 30, 40)
    print(f"\nthe best of {len(CONTEST)} arms (strengths {', '.join(map(str, CONTEST))}; nu 0.3, loyalty 0.3) on top of the board")
    found = {name: contest(runs, rounds, raters, name == "active", chance) for name in ("uniform", "active")}
    columns = [number for number in (2, 4, 7, 9, 14) if number < rounds // 2]
    print(
        f"{'pairs':<9}"
        + "".join(f"{f'after {(number + 1) * 2 * raters:,} votes':<22}" for number in columns)
        + "votes to 80 %   to 90 %       runs"
    )
    for name, right in found.items():
        shares = "".join(f"{with_error(right[:, number]):<22}" for number in columns)
        print(f"{name:<9}{shares}{votes_to(right, 0.8, 2 * raters):<16}{votes_to(right, 0.9, 2 * raters):<14}{runs:,}")
    print(f"\n{sum(held)} of {len(held)} lines keep their intervals, in {time.perf_counter() - began:.0f} s")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
