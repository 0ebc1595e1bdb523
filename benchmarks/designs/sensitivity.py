"""How many people until it is known which arm is better: split, in one grid, or asked in duels? The same simulated audience each time.

python benchmarks/designs/sensitivity.py [--quick] [--seed N]

People come back a few times and look at four pictures (two in a duel). Each has a habit of clicking, each prompt its own appeal, each
place of the grid its own chance to be looked at; the better arm's pictures appeal more by the effect. Units are people who were shown
something, whether they did anything or not. 80 % power: decided for the better arm in 80 % of the runs; at one look by the p-value, at any
look by what decides in a report, which is read at every size tried. Errors are of the simulation (bootstrap over runs).
"""

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from machine import machine  # noqa: E402

from analytics.facts import Moments  # noqa: E402
from analytics.inference import diversified_bets  # noqa: E402
from analytics.inference.ratio import ratio_contrast  # noqa: E402
from analytics.inference.sign_test import sign_test  # noqa: E402
from analytics.inference.tails import two_sided_p  # noqa: E402
from analytics.report.evidence import always_valid  # noqa: E402

Floats = NDArray[np.float64]
ALPHA, POWER = 0.05, 0.80
EFFECTS = (0.1, 0.2, 0.4)


class Audience(NamedTuple):
    """`habit`: the middle chance to click a picture that is looked at, before its appeal; `spread`: between people, of its
    logarithm; `visits`: how often one comes back, on average."""

    habit: float
    spread: float
    visits: float


AUDIENCES = {"few clicks, people much alike": Audience(0.05, 0.5, 1.0), "many clicks, people far apart": Audience(0.15, 1.5, 3.0)}
# How often each place of a 2 x 2 grid is looked at, and how much likelier the left one of two is taken.
LOOKED_AT = np.array([1.0, 0.7, 0.5, 0.35])
LEFT = 1.2
MOST_VISITS, SIZES = 8, 17


class Pool(NamedTuple):
    """People to draw from. `split[arm]`: clicks and pictures of each [people, 2]; `interleave`, `duel`: the score of each [people], NaN for
    those that made no vote."""

    split: tuple[Floats, Floats]
    interleave: Floats
    duel: Floats


class Found(NamedTuple):
    """Units to 80 % power, and the error of that; NaN where no size tried has it."""

    units: float
    error: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few people and runs: does it work")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    people, runs = (20_000, 30) if arguments.quick else (200_000, 300)
    rng, began = np.random.default_rng(arguments.seed), time.perf_counter()
    print(machine("salon", "numpy", "scipy"))
    print(f"seed {arguments.seed}, {people:,} people to draw from, {runs} runs of each\n")
    print(f"units to {POWER:.0%} power at alpha {ALPHA}, ± Monte Carlo error; how many times fewer than a split")
    print(f"{'effect':>7}  {'design':<10} {'one look':>16} {'fewer':>14} {'any look':>17} {'fewer':>14}")
    for kind, audience in AUDIENCES.items():
        print(kind)
        for effect in EFFECTS[-1:] if arguments.quick else EFFECTS:
            pool = draw_people(audience, people, effect, rng)
            split: tuple[Found, Found] | None = None
            for name, reading in READINGS.items():
                found = needed(name, reading, pool, runs, rng)
                split = split or found
                fewer = [times(own, whole) for own, whole in zip(found, split, strict=True)]
                print(f"{effect:>+7.0%}  {name:<10} {shown(found[0]):>16} {fewer[0]:>14} {shown(found[1]):>17} {fewer[1]:>14}", flush=True)
    print("\nTwo like arms: ever told apart, in a report read at every size tried (split, grid, duel)")
    pool = draw_people(AUDIENCES["many clicks, people far apart"], people, 0.0, rng)
    for name, reading in READINGS.items():
        sizes = np.unique(np.geomspace(60, 400 if arguments.quick else 4000, 40).round().astype(int))
        wrong = np.array([[outcome.any() for outcome in reading(pool, sizes, 2000, rng)] for _ in range(runs)], dtype=float)
        print(f"  {name:<10} p < {ALPHA} at some look {share(wrong[:, 0])}, what decides at any look {share(wrong[:, 1])}")
    print("\nTwo like arms, people who go on voting: read after every 20 votes of 800 by 200 people, each with a leaning of its own")
    for spread in (0.0, 1.0, 4.0):
        wrong = np.array([returning(spread, rng) for _ in range(runs)], dtype=float)
        leaning = "all lean alike" if spread == 0 else f"leanings Beta({1 / spread:g}, {1 / spread:g})"
        print(f"  {leaning:<24} sign test at some look {share(wrong[:, 0])}, bets {share(wrong[:, 1])}")
    print(f"\n{time.perf_counter() - began:.0f} s")
    return 0


def draw_people(audience: Audience, people: int, effect: float, rng: np.random.Generator) -> Pool:
    """What each would do in each design; the better arm's appeal is 1 + `effect` times the other's."""
    shape = (people, MOST_VISITS)
    visits = np.minimum(1 + rng.poisson(audience.visits, people), MOST_VISITS)
    there = np.arange(MOST_VISITS)[None, :] < visits[:, None]
    habit = audience.habit * np.exp(rng.normal(0.0, audience.spread, people))[:, None, None]
    prompt = np.exp(rng.normal(0.0, 0.5, shape))[:, :, None]
    appeal = prompt * np.exp(rng.normal(0.0, 0.5, (*shape, 4)))

    def clicks(better: NDArray[np.bool_]) -> NDArray[np.bool_]:
        chance = -np.expm1(-habit * LOOKED_AT * appeal * np.where(better, 1 + effect, 1.0))
        return np.asarray((rng.random((*shape, 4)) < chance) & there[:, :, None])

    arms = [np.stack([clicks(np.array(arm == 1)).sum((1, 2)), 4.0 * visits], axis=1) for arm in (0, 1)]
    better = rng.permuted(np.broadcast_to(np.array([True, True, False, False]), (*shape, 4)), axis=2)
    clicked = clicks(better)
    apart = (clicked & better).sum(2) - (clicked & ~better).sum(2)
    interleave = scores((1 + np.sign(apart)) / 2, np.asarray(clicked.any(2)))
    # In a duel people decide between the first two pictures, the better arm's on the left or not; some say they cannot, some nothing.
    left = rng.random(shape) < 0.5
    good, plain = appeal[:, :, 0] * (1 + effect) * np.where(left, LEFT, 1.0), appeal[:, :, 1] * np.where(left, 1.0, LEFT)
    won = np.where(rng.random(shape) < 0.15, 0.5, rng.random(shape) < good / (good + plain))
    answers = there & (rng.random(shape) < rng.beta(1.0, 1.0, people)[:, None])
    return Pool((arms[0], arms[1]), interleave, scores(won, answers))


def scores(votes: Floats, made: NDArray[np.bool_]) -> Floats:
    """The mean of each person's votes [people]; NaN without one."""
    count = made.sum(1)
    return np.asarray(np.where(count > 0, (votes * made).sum(1) / np.maximum(count, 1), np.nan))


Reading = Callable[[Pool, NDArray[np.int64], float, np.random.Generator], tuple[NDArray[np.bool_], NDArray[np.bool_]]]


def split_reading(
    pool: Pool, sizes: NDArray[np.int64], planned: float, rng: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the share of pictures clicked is told apart at each size, by p at that look alone and by what decides at any look."""
    sums = []
    for people in pool.split:
        own = people[rng.integers(0, len(people), int(sizes[-1]) // 2)]
        y, d = own[:, 0], own[:, 1]
        sums.append([np.cumsum(column)[sizes // 2 - 1] for column in (y, d, y * y, d * d, y * d)])
    one, every = np.zeros(len(sizes), dtype=bool), np.zeros(len(sizes), dtype=bool)
    for at, size in enumerate(sizes // 2):
        a, b = (_moments(int(size), *(column[at] for column in columns)) for columns in sums)
        contrast = ratio_contrast(a, b)
        if contrast is None:
            continue
        p = two_sided_p(contrast.statistic(), contrast.df)
        low, high = always_valid(contrast, p, ALPHA, 1, planned, "delta").difference_ci
        one[at] = p < ALPHA
        every[at] = low is not None and high is not None and not low <= 0 <= high
    return one, every


def graded(design: str) -> Reading:
    """The same of scores, by the sign test and by the bets."""

    def reading(
        pool: Pool, sizes: NDArray[np.int64], planned: float, rng: np.random.Generator
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        people: Floats = getattr(pool, design)
        drawn = people[rng.integers(0, len(people), int(sizes[-1]))]
        one, every = zip(*(_told(drawn[:size]) for size in sizes), strict=True)
        return np.array(one), np.array(every)

    return reading


def _told(drawn: Floats) -> tuple[bool, bool]:
    voted = drawn[~np.isnan(drawn)]
    p = sign_test(int((voted > 0.5).sum()), int((voted < 0.5).sum()))
    return p < ALPHA, diversified_bets.e_value(*np.unique(voted, return_counts=True), 0.5) >= 1 / ALPHA


def _moments(n: int, y: float, d: float, yy: float, dd: float, yd: float) -> Moments:
    return Moments(
        n=n, mean=y / n, m2=yy - y * y / n, denominator_mean=d / n, denominator_m2=dd - d * d / n, comoment=yd - y * d / n
    )  # fmt: skip


def needed(name: str, reading: Reading, pool: Pool, runs: int, rng: np.random.Generator) -> tuple[Found, Found]:
    """Units to 80 % power at one look and at any look, searched around what the normal approximation says."""
    if name == "split":
        a, b = (people[:, 0].sum() / people[:, 1].sum() for people in pool.split)
        variance = sum(
            float(np.var(people[:, 0] - rate * people[:, 1]) / people[:, 1].mean() ** 2)
            for people, rate in zip(pool.split, (a, b), strict=True)
        )
        guess = 2 * variance * 7.85 / (b - a) ** 2
    else:
        values: Floats = getattr(pool, name)
        voted = values[~np.isnan(values)]
        guess = float(7.85 * voted.var() / (voted.mean() - 0.5) ** 2) * len(values) / len(voted)
    sizes = np.unique(np.maximum(20, np.geomspace(guess / 4, guess * 5, SIZES)).round().astype(np.int64))
    told = np.array([reading(pool, sizes, 1.5 * guess, rng) for _ in range(runs)], dtype=float)
    told[:, 1] = np.maximum.accumulate(told[:, 1], axis=1)
    return _crossed(told[:, 0], sizes, rng), _crossed(told[:, 1], sizes, rng)


def _crossed(told: Floats, sizes: NDArray[np.int64], rng: np.random.Generator) -> Found:
    """Where the share of `told` [runs, sizes] reaches 80 %, between sizes by the logarithm."""

    def size(runs: Floats) -> float:
        power = np.maximum.accumulate(runs.mean(0))
        if power[-1] < POWER:
            return math.nan
        return float(np.exp(np.interp(POWER, power + 1e-9 * np.arange(len(power)), np.log(sizes))))

    again = [size(told[rng.integers(0, len(told), len(told))]) for _ in range(100)]
    return Found(size(told), float(np.nanstd(again)) if not all(map(math.isnan, again)) else math.nan)


def returning(spread: float, rng: np.random.Generator) -> tuple[bool, bool]:
    """200 people of no common leaning vote 800 times in a random order; a score is the mean of the votes until now."""
    people, votes = 200, 800
    leaning = np.full(people, 0.5) if spread == 0 else rng.beta(1 / spread, 1 / spread, people)
    who = rng.integers(0, people, votes)
    vote = (rng.random(votes) < leaning[who]).astype(float)
    sign = bets = False
    for now in range(20, votes + 1, 20):
        _, first, place = np.unique(who[:now], return_index=True, return_inverse=True)
        means = np.bincount(place, vote[:now]) / np.bincount(place)
        ordered = means[np.argsort(first)]
        told = _told(ordered)
        sign, bets = sign or told[0], bets or told[1]
    return sign, bets


def shown(found: Found) -> str:
    """`1,234 ± 56`."""
    return "not reached" if math.isnan(found.units) else f"{found.units:,.0f} ± {found.error:,.0f}"


def times(own: Found, whole: Found) -> str:
    """How many times fewer units, with the error of the quotient."""
    ratio = whole.units / own.units
    error = ratio * math.hypot(own.error / own.units, whole.error / whole.units)
    return "" if own is whole or math.isnan(ratio) else f"{ratio:.1f} ± {error:.1f}"


def share(wrong: Floats) -> str:
    """`4.3 % ± 1.2`."""
    mean = float(wrong.mean())
    return f"{mean:.1%} ± {math.sqrt(max(mean * (1 - mean), 0.25 / len(wrong) ** 2) / len(wrong)):.1%}"


READINGS: dict[str, Reading] = {"split": split_reading, "interleave": graded("interleave"), "duel": graded("duel")}

if __name__ == "__main__":
    sys.exit(main())
