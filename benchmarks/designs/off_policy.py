"""Off-policy estimates: against a shop's two real logs, and against policies whose value is known.

python benchmarks/designs/off_policy.py [--quick] [--seed N]

The shop (Open Bandit Dataset, ../shared/data/open-bandit) ran two policies at once on the same people, so the mean of either log
is what the other log should say of its policy; both are noisy, and the verdict is on their difference. Then logs are drawn from a
known truth: bias, error and coverage of every estimator, ± its Monte Carlo standard error. Exits with 1 when a line fails.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

import numpy as np  # noqa: E402
from machine import machine  # noqa: E402

from analytics.ope.answer import Answer, answer  # noqa: E402
from analytics.ope.file_log import Columns, folds, read_log  # noqa: E402
from analytics.ope.logged import Chunk, Key, Log  # noqa: E402
from analytics.ope.policy_table import Policy, read_policy  # noqa: E402

SHOP = HERE.parents[1].parent / "shared" / "data" / "open-bandit"
COLUMNS = Columns(action="item_id", reward="click", propensity="propensity", position="position")
ITEMS, SLOTS, COUNTRIES, ROWS = 6, 3, 4, 4000
EXPLORED = 0.1


def rows_of(name: str) -> list[dict[str, str]]:
    with (SHOP / f"{name}_men.csv").open() as lines:
        return list(csv.DictReader(lines))


def shares(rows: list[dict[str, str]]) -> dict[tuple[str, str], float]:
    """How often the policy showed each item in each position."""
    slots, cells = Counter(r["position"] for r in rows), Counter((r["item_id"], r["position"]) for r in rows)
    return {cell: count / slots[cell[1]] for cell, count in cells.items()}


def written(folder: Path, table: dict[tuple[str, str], float]) -> Policy:
    file = folder / "policy.csv"
    lines = [f"{item},{slot},{chance!r}" for (item, slot), chance in sorted(table.items())]
    file.write_text("item_id,position,probability\n" + "\n".join(lines) + "\n")
    return read_policy(file, ["item_id"], "position", ())


def without(folder: Path, rows: list[dict[str, str]], item: str, slot: str | None) -> Path:
    """The log less an item, everywhere or in one position."""
    file = folder / "log.csv"
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(r for r in rows if r["item_id"] != item or (slot is not None and r["position"] != slot))
    return file


def shop(quick: bool) -> bool:
    """Each policy from the other's log."""
    logs = {"random": rows_of("random"), "bts": rows_of("bts")}
    names = {"random": "uniform", "bts": "Thompson"}
    well = True
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for log, other in (("random", "bts"), ("bts", "random")):
            policy = written(folder, shares(logs[other]))
            found = answer(read_log(SHOP / f"{log}_men.csv", COLUMNS), policy)
            clicks = np.array([float(r["click"]) for r in logs[other]])
            truth, se = clicks.mean(), clicks.std(ddof=1) / len(clicks) ** 0.5
            print(f"\n{names[log]} log -> {names[other]}'s click rate, {found.n:,} rows, {found.effective_samples:,.0f} effective")
            print(f"  mean weight {found.weights.mean:.3f} ± {found.weights.se:.3f}; overlap {'ok' if found.overlap.ok else 'NOT OK'}")
            low, high = truth - 1.96 * se, truth + 1.96 * se
            print(f"  {'estimator':<12}{'value':>9}{'se':>9}  {'95 % interval':<18}  difference from {names[other]}'s own log")
            print(f"  {'its own log':<12}{truth:>9.5f}{se:>9.5f}  {low:.5f}..{high:.5f}")
            for each in found.estimates:
                z = (each.value - truth) / (each.se**2 + se**2) ** 0.5
                ok = abs(z) < 1.96
                span = f"{each.ci[0]:.5f}..{each.ci[1]:.5f}"
                inside = "inside its own interval" if low <= each.value <= high else "outside its own interval"
                told = f"{z:+.2f} standard errors of both, {inside}  {'ok' if ok else 'FAILED'}"
                print(f"  {each.estimator:<12}{each.value:>9.5f}{each.se:>9.5f}  {span:<18}  {told}")
                well &= ok
            cells = sorted(shares(logs[log]))
            items = sorted({item for item, _ in cells})
            gone = [(item, None) for item in (items[:2] if quick else items)]
            places = cells[:2] if quick else cells
            refused = sum(_refuses(folder, logs[log], policy, item, slot) for item, slot in gone)
            in_one = sum(_refuses(folder, logs[log], policy, item, slot) for item, slot in places)
            ok = refused == len(gone)
            print(f"  an item taken out of the log: refused {refused} of {len(gone)}  {'ok' if ok else 'FAILED'}")
            print(f"  taken out in one position only: refused {in_one} of {len(places)} (the others are so rare that it may be chance)")
            well &= ok
    return well


def _refuses(folder: Path, rows: list[dict[str, str]], policy: Policy, item: str, slot: str | None) -> bool:
    found = answer(read_log(without(folder, rows, item, slot), COLUMNS), policy)
    return not found.estimates and found.overlap.missing == [item]


class World:
    """Clicks by item, slot and country, with an interaction that the reward model does not know."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rates = np.clip(rng.uniform(0.02, 0.3, (SLOTS, COUNTRIES, ITEMS)), 0, 1)
        self.logs = rng.dirichlet(np.full(ITEMS, 2.0), SLOTS) * 0.7 + 0.3 / ITEMS
        self.wants = rng.dirichlet(np.full(ITEMS, 1.0), SLOTS) * 0.8 + 0.2 / ITEMS
        self.truth = float(np.einsum("sci,si->", self.rates, self.wants) / (SLOTS * COUNTRIES))
        strata = [(str(slot),) for slot in range(SLOTS)]
        self.policy = Policy(columns=("slot",), actions=[str(i) for i in range(ITEMS)], strata=strata, probability=self.wants)

    def log(self, rng: np.random.Generator, *, wrong: bool = False, new: bool = False) -> Log:
        """`wrong`: logged as if the draw had been uniform. `new`: only 10 % saw the target's draw, all have a prediction of it."""
        slot, country = rng.integers(0, SLOTS, ROWS), rng.integers(0, COUNTRIES, ROWS)
        source = self.wants if new else self.logs
        item = (rng.random(ROWS)[:, None] > source[slot].cumsum(axis=1)).sum(axis=1).clip(max=ITEMS - 1)
        shown = rng.random(ROWS) < EXPLORED if new else np.ones(ROWS, dtype=bool)
        chance = self.wants[slot, item] * EXPLORED if new else np.full(ROWS, 1 / ITEMS) if wrong else self.logs[slot, item]
        click = (rng.random(ROWS) < self.rates[slot, country, item]) & shown
        prediction = np.einsum("ni,ni->n", self.rates[slot, country], self.wants[slot]) * 1.3 if new else None
        chunk = Chunk(
            action=item,
            keys=np.stack([slot, country], axis=1),
            propensity=np.where(shown, np.maximum(chance, 1e-12), 1.0),
            fold=folds(np.arange(ROWS)),
            rows=np.ones(ROWS),
            mean=click.astype(float),
            m2=np.zeros(ROWS),
            shown=shown,
            prediction=prediction,
        )
        keys = (Key("slot", [str(i) for i in range(SLOTS)], True), Key("country", [str(i) for i in range(COUNTRIES)]))
        return Log(action="item", actions=[str(i) for i in range(ITEMS)], keys=keys, chunks=lambda: iter([chunk]))


def simulated(title: str, answers: list[tuple[float, Answer]], *, unbiased: bool) -> bool:
    """Bias, root mean squared error, mean standard error and coverage of each estimator over the runs that had estimates."""
    kept = [(truth, found) for truth, found in answers if found.estimates]
    ok_share = np.mean([found.overlap.ok for _, found in answers])
    print(f"\n{title}: {len(answers)} logs of {ROWS:,} rows; estimates in {len(kept)}; overlap ok in {ok_share:.1%}")
    print(f"  {'estimator':<11}{'bias':>20}{'rmse':>9}{'mean se':>9}{'coverage of 95 %':>22}")
    well = True
    for place, name in enumerate(each.estimator for each in kept[0][1].estimates):
        off = np.array([found.estimates[place].value - truth for truth, found in kept])
        ses = np.array([found.estimates[place].se for _, found in kept])
        cover = np.mean([found.estimates[place].ci[0] <= truth <= found.estimates[place].ci[1] for truth, found in kept])
        error, mc = off.std() / len(off) ** 0.5, (0.95 * 0.05 / len(off)) ** 0.5
        # Intervals are normal; skewed weights cost a point or two.
        ok = not unbiased or (abs(off.mean()) < 3 * error + 1e-3 and cover > 0.93 - 3 * mc)
        verdict = "" if not unbiased else "  ok" if ok else "  FAILED"
        errors = f"{off.mean():>+10.5f} ± {error:.5f}{(off**2).mean() ** 0.5:>9.5f}{ses.mean():>9.5f}"
        print(f"  {name:<11}{errors}{cover:>13.1%} ± {mc:.1%}{verdict}")
        well &= ok
    return well


def worlds(quick: bool, seed: int) -> bool:
    """Many small truths, one log each."""
    runs = 60 if quick else 1500
    sequences = np.random.SeedSequence(seed).spawn(runs)
    plain, clipped, wrong, new = [], [], [], []
    for sequence in sequences:
        rng = np.random.default_rng(sequence)
        world = World(rng)
        log = world.log(rng)
        plain.append((world.truth, answer(log, world.policy)))
        clipped.append((world.truth, answer(log, world.policy, 2.0)))
        wrong.append((world.truth, answer(world.log(rng, wrong=True), world.policy)))
        new.append((world.truth, answer(world.log(rng, new=True), world.policy)))
    well = simulated("True propensities, unclipped", plain, unbiased=True)
    simulated("Weights clipped at 2 (biased on purpose)", clipped, unbiased=False)
    simulated("1/K logged for a draw that was not uniform", wrong, unbiased=False)
    told = np.mean([not found.overlap.ok for _, found in wrong])
    print(f"  found out by the mean weight in {told:.1%} of these logs")
    return well & simulated("A new policy shown to 10 %, predictions 30 % too high", new, unbiased=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs: does it run, and is nothing far off")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    began = time.perf_counter()
    print(machine("salon", "numpy", "scipy"))
    print(f"seed {arguments.seed}, {'quick' if arguments.quick else 'full'}")
    well = shop(arguments.quick) if SHOP.is_dir() else True
    if not SHOP.is_dir():
        print(f"\nno shop: {SHOP} is not here")
    well &= worlds(arguments.quick, arguments.seed)
    print(f"\n{'all lines hold' if well else 'A LINE FAILED'}, in {time.perf_counter() - began:.0f} s")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
