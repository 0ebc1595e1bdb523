"""Do the statistics keep what they promise? Simulated experiments whose truth is known, through the report itself.

python benchmarks/statistics/simulate.py [--quick] [--only WORD] [--seed N] [--processes N]

Every line: an estimate ± its Monte Carlo standard error, what it should be, how many runs, and the verdict. A claim fails when
the estimate is off by more than the slack printed and three standard errors. Exits with 1 when a claim fails.
"""

import argparse
import os
import sys
import time
from pathlib import Path

# Many small problems on few cores: threads inside numpy would only stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import families  # noqa: E402
import fixed_horizon  # noqa: E402
import guardrails  # noqa: E402
import hourly  # noqa: E402
import sample_ratios  # noqa: E402
from machine import machine  # noqa: E402
from simulation import Simulation, all_measured, cores  # noqa: E402


def simulations() -> list[Simulation]:
    """All of them, in the order in which they are printed."""
    return [
        *fixed_horizon.simulations(),
        *families.simulations(),
        *hourly.simulations(),
        *guardrails.simulations(),
        *sample_ratios.simulations(),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs: does it run, and is nothing far off")
    parser.add_argument("--only", metavar="WORD", help="simulations whose name or group contains this")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--processes", type=int, default=cores())
    arguments = parser.parse_args()
    wanted = (arguments.only or "").lower()
    chosen = [one for one in simulations() if wanted in one.name.lower() or wanted in one.group.lower()]
    if not chosen:
        parser.error(f"no simulation has {arguments.only!r} in its name")
    began = time.perf_counter()
    print(machine("salon", "numpy", "scipy"))
    print(f"seed {arguments.seed}, {'quick' if arguments.quick else 'full'}, {arguments.processes} processes", flush=True)
    group, claims, failed = "", 0, []
    for outcome in all_measured(chosen, arguments.quick, arguments.seed, arguments.processes):
        if outcome.simulation.group != group:
            group = outcome.simulation.group
            print(f"\n{group}")
        for verdict in outcome.verdicts:
            print(verdict.line(), flush=True)
        for problem in outcome.problems:
            print(f"  {problem}  FAILED", flush=True)
        claims += len(outcome.verdicts) + len(outcome.problems)
        failed += [v.claim.text for v in outcome.verdicts if not v.ok] + outcome.problems
    print(f"\n{claims - len(failed)} of {claims} lines hold, in {time.perf_counter() - began:.0f} s")
    for text in failed:
        print(f"FAILED  {text}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
