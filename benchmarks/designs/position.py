"""The position model before audiences whose eyes and tastes are known: coverage of every interval, raw rates that reverse two arms,
trust, drift, and how often the checks cry wolf.

python benchmarks/designs/position.py [--quick] [--only WORD] [--seed N] [--processes N]

Every line: an estimate ± its Monte Carlo standard error and what it should be. Grids of 4; units see 1 to about 30 grids, and those of one
unit share its taste. Exits with 1 when a claim fails.
"""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "statistics")]

import numpy as np  # noqa: E402
from claims import Claim  # noqa: E402
from simulation import Simulation, Values  # noqa: E402
from told import told  # noqa: E402

from analytics.checks.position import position  # noqa: E402
from analytics.experiment import Experiment  # noqa: E402
from analytics.facts_of_designs import Crossed, GridFacts, PlaceFacts, SeedOrder  # noqa: E402
from analytics.report.position import PlacedValue  # noqa: E402
from analytics.report.position_evidence import position_report  # noqa: E402

CELLS, ARMS = 4, 2
EXPERIMENT = Experiment(route="hero", arms={"a": 0.5, "b": 0.5}, control="a", primary="click_rate", design="interleave")
EYES = (1.0, 0.7, 0.45, 0.9)
# What an app does that shows the control's pictures first.
FIRST = ((0.9, 0.6, 0.1, 0.7), (0.1, 0.4, 0.9, 0.3))
NOTHING = (0.0, 0.0, 0.0, 0.0)
Z = 1.959963984540054


@dataclass(frozen=True)
class Audience:
    """`attraction` per arm, `eyes` per cell, `later` those of the second half (None: the same), `given` events per cell that no picture
    earned, `spread` of tastes; `placed`: each arm's share of each cell (None: two pictures of each arm, shuffled)."""

    attraction: tuple[float, float] = (0.10, 0.12)
    eyes: tuple[float, ...] = EYES
    later: tuple[float, ...] | None = None
    given: tuple[float, ...] = NOTHING
    spread: float = 0.7
    units: int = 600
    placed: tuple[tuple[float, ...], ...] | None = None


def drawn(rng: np.random.Generator, one: Audience) -> PlaceFacts:
    """Pictures, counted as the warehouse counts them."""
    grids = 1 + rng.geometric(0.25, one.units)
    unit = np.repeat(np.arange(one.units), grids)
    n = len(unit)
    taste = np.exp(rng.normal(0, one.spread, one.units) - one.spread**2 / 2)[unit]
    order = rng.permuted(np.tile(np.arange(CELLS), (n, 1)), axis=1)
    arm = order % ARMS if one.placed is None else (rng.random((n, CELLS)) >= np.array(one.placed[0])).astype(int)
    half = rng.integers(0, 2, n)
    eyes = np.array([one.eyes, one.later or one.eyes])[half]
    chance = np.array(one.attraction)[arm] * eyes + np.array(one.given)
    got = rng.random((n, CELLS)) < np.minimum(1.0, chance * taste[:, None])
    cell = np.tile(np.arange(CELLS), (n, 1))
    numbers = np.array([np.bincount(order[:, k], minlength=CELLS) for k in range(CELLS)]).T
    facts = GridFacts(
        layout="",
        grid=CELLS,
        pictures=n * CELLS,
        units=one.units,
        by_arm=crossed(unit, arm * CELLS + cell, got, ARMS * CELLS, one.units),
        by_half=crossed(unit, half[:, None] * CELLS + cell, got, 2 * CELLS, one.units),
    )
    orders = [SeedOrder(grid=CELLS, counts=numbers.tolist())]
    return PlaceFacts(event="click", one_in=1, split_at=datetime(2026, 3, 1, tzinfo=UTC), grids=[facts], orders=orders)


def crossed(unit: np.ndarray, row: np.ndarray, got: np.ndarray, rows: int, units: int) -> Crossed:
    """Totals and products per unit."""
    flat = (unit[:, None] * rows + row).ravel()
    per_unit = np.zeros((units, 2 * rows))
    per_unit[:, 0::2] = np.bincount(flat, minlength=units * rows).reshape(units, rows)
    per_unit[:, 1::2] = np.bincount(flat, weights=got.ravel(), minlength=units * rows).reshape(units, rows)
    products = per_unit.T @ per_unit
    pairs = [(i, j, int(products[i, j])) for i in range(2 * rows) for j in range(i, 2 * rows) if products[i, j]]
    return Crossed(totals=per_unit.sum(axis=0).astype(int).tolist(), products=pairs)


def covers(found: PlacedValue | None, truth: float) -> float:
    """1 where the interval has the truth."""
    if found is None or found.ci[0] is None or found.ci[1] is None:
        return 0.0
    return float(found.ci[0] <= truth <= found.ci[1])


def naive(found: PlacedValue, shown: int, truth: float) -> float:
    """Whether an interval that takes pictures one by one has the raw rate."""
    return float(abs(found.value - truth) <= Z * (found.value * (1 - found.value) / shown) ** 0.5)


def fitted(one: Audience) -> Callable[[np.random.Generator, int], Values]:
    """What the report shows against the truth."""

    def run(rng: np.random.Generator, runs: int) -> Values:
        values: Values = {}
        for _ in range(runs):
            places = drawn(rng, one)
            report = position_report(EXPERIMENT, places)
            if report is None or not report.grids[0].cells:
                values.setdefault("no model", []).append(1.0)
                continue
            (grid,) = report.grids
            told = {"no model": 0.0, "raw lift": 0.0, "reversed raw": 0.0, "reversed corrected": 0.0}
            lift = one.attraction[1] / one.attraction[0] - 1
            for arm in grid.arms:
                rate = one.attraction[0 if arm.arm == "a" else 1]
                if one.placed is None:
                    seen = rate * sum(one.eyes) / CELLS
                    told["raw"], told["one by one"] = covers(arm.raw, seen), naive(arm.raw, arm.shown, seen)
                told[f"ips {arm.arm}"], told[f"mle {arm.arm}"] = covers(arm.ips, rate), covers(arm.mle, rate)
                if arm.raw_lift is not None and arm.corrected_lift is not None:
                    told["raw lift"], told["corrected lift"] = covers(arm.raw_lift, lift), covers(arm.corrected_lift, lift)
                    low, high = arm.raw_lift.ci, arm.corrected_lift.ci
                    told["below raw"], told["below corrected"] = float(arm.raw_lift.value < 0), float(arm.corrected_lift.value < 0)
                    told["reversed raw"] = float(low[1] is not None and low[1] < 0)
                    told["reversed corrected"] = float(high[1] is not None and high[1] < 0)
                    told["right corrected"] = float(high[0] is not None and high[0] > 0)
            for key, value in told.items():
                values.setdefault(key, []).append(value)
            for cell in range(1, CELLS):
                values.setdefault("examination", []).append(covers(grid.cells[cell].examination, one.eyes[cell]))
            if grid.trust is not None:
                values.setdefault("trust", []).append(float(grid.trust.p_value < 0.05))
                for trusted in grid.trust.cells[1:]:
                    slope, floor = one.eyes[trusted.cell], one.given[trusted.cell]
                    values.setdefault("slope", []).append(float(abs(trusted.slope - slope) <= Z * trusted.slope_se))
                    values.setdefault("floor", []).append(float(abs(trusted.floor - floor) <= Z * trusted.floor_se))
        return values

    return run


def checked(one: Audience) -> Callable[[np.random.Generator, int], Values]:
    """P-values of the checks."""

    def run(rng: np.random.Generator, runs: int) -> Values:
        values: Values = {}
        for _ in range(runs):
            found = position(drawn(rng, one), list(EXPERIMENT.arms))
            if found is None:
                continue
            for name, p in (("drift", found.drift), ("balance", found.balance), ("order", found.order)):
                if p is not None:
                    values.setdefault(name, []).append(float(p < 0.05))
                    values.setdefault(f"{name} alarm", []).append(float(p < 0.001))
        return values

    return run


def simulations() -> list[Simulation]:
    """All of them, in the order in which they are printed."""
    covered = [
        Claim("how much a cell is looked at: 95 % interval", "examination", "about", 0.95, 0.015),
        Claim("an arm's rate in cell 0, IPS", "ips a", "about", 0.95, 0.015),
        Claim("an arm's rate in cell 0, likelihood", "mle a", "about", 0.95, 0.015),
        Claim("the lift, corrected", "corrected lift", "about", 0.95, 0.015),
    ]
    contrast = [
        Claim("an arm's rate, raw", "raw", "about", 0.95, 0.015),
        Claim("an arm's rate, raw, pictures taken one by one", "one by one", "shown"),
        Claim("the lift, raw", "raw lift", "shown"),
    ]
    wolf = Claim("trust found where there is none (p < 0.05)", "trust", "at most", 0.05, 0.015)
    few = [
        Claim("how much a cell is looked at: 95 % interval", "examination", "about", 0.95, 0.03),
        Claim("no model shown", "no model", "shown"),
    ]
    reversed_ = [
        Claim("the lift, raw", "raw lift", "shown"),
        Claim("raw lift below 0 (truth +25 %)", "below raw", "shown"),
        Claim("corrected lift below 0", "below corrected", "shown"),
        Claim("raw lift below 0 beyond its interval", "reversed raw", "shown"),
        Claim("corrected lift below 0 beyond its interval", "reversed corrected", "at most", 0.025),
        Claim("corrected lift above 0 beyond its interval", "right corrected", "shown"),
    ]
    given = Audience(attraction=(0.08, 0.24), given=(0.0, 0.04, 0.01, 0.03), units=2500, spread=0.4)
    trusted = [
        Claim("trust found (p < 0.05)", "trust", "at least", 0.9),
        Claim("alpha of a cell: 95 % interval", "slope", "about", 0.95, 0.02),
        Claim("beta of a cell: 95 % interval", "floor", "about", 0.95, 0.02),
    ]
    names = ("drift", "balance", "order")
    quiet = [Claim(f"{name}: p < 0.05", name, "at most", 0.05, 0.015) for name in names]
    quiet += [Claim(f"{name}: alarm (p < 0.001)", f"{name} alarm", "at most", 0.001, 0.001) for name in names]
    moved = Audience(later=(1.0, 0.45, 0.7, 0.9), units=1500)
    tilted = Audience(placed=((0.53, 0.5, 0.47, 0.5), (0.47, 0.5, 0.53, 0.5)), units=3000)
    plain, habits, first = Audience(), Audience(spread=1.2, attraction=(0.05, 0.06)), Audience(attraction=(0.1, 0.125), placed=FIRST)
    return [
        Simulation(
            "plain", fitted(plain), [*covered, *contrast, wolf], 1500, 24, "600 units, cells drawn at random, attraction 10 and 12 %"
        ),
        Simulation("habits", fitted(habits), [*covered, *contrast], 1500, 24, "600 units of very different taste, attraction 5 and 6 %"),
        Simulation("few", fitted(Audience(units=60)), few, 1500, 24, "60 units"),
        Simulation("reversed", fitted(first), [*covered, *reversed_], 1500, 24, "An app shows the control's pictures where people look"),
        Simulation("trust", fitted(given), trusted, 600, 16, "2,500 units; cells give away 0, 4, 1 and 3 % of events"),
        Simulation("quiet", checked(plain), quiet, 3000, 24, "Checks where nothing is wrong"),
        Simulation(
            "moved", checked(moved), [Claim("drift: alarm (p < 0.001)", "drift alarm", "at least", 0.9)], 200, 16, "Two cells change places"
        ),
        Simulation(
            "tilted",
            checked(tilted),
            [Claim("balance: alarm (p < 0.001)", "balance alarm", "at least", 0.9)],
            200,
            8,
            "An arm stands first in 53 % of 3,000 units' grids",
        ),
    ]


def main(given: Sequence[str] | None = None) -> int:
    return told(__doc__, simulations(), 7, given)


if __name__ == "__main__":
    sys.exit(main())
