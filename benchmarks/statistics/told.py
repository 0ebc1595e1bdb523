"""What simulations found, told line by line: the whole of a script that only has simulations."""

import argparse
import time
from collections.abc import Sequence

from machine import machine
from simulation import Simulation, all_measured, cores


def told(description: str | None, simulations: Sequence[Simulation], seed: int, words: Sequence[str] | None = None) -> int:
    """Run and print those that the command line (`words`, by default this process's) asks for. 1 when a claim fails, else 0."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs: does it run, and is nothing far off")
    parser.add_argument("--only", metavar="WORD", help="simulations whose name or group contains this")
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--processes", type=int, default=cores())
    arguments = parser.parse_args(words)
    wanted = (arguments.only or "").lower()
    chosen = [one for one in simulations if wanted in one.name.lower() or wanted in one.group.lower()]
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
