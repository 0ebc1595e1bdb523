"""Two arms of one model at 90/10 under Poisson arrivals: does the rare arm wait longer?

python benchmarks/serving/latency_gap.py [--seconds 200] [--others 15]

Every system gets 70 % of what it can draw itself, so that none is asked for the impossible. The same arrivals come ten
times, and every one of them is of the rare arm in exactly one round, drawn at random: what an image saw as one and as the
other differs by the arm and by noise, not by the arrivals (`traffic.paired_gap`). Latency counts from the planned arrival.
Exit code 1 when Salon's interval reaches beyond ± 2 %.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from alone import alone  # noqa: E402
from machine import machine  # noqa: E402
from systems import NAMES  # noqa: E402

ALLOWED = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0, help="for Salon, about, all rounds together")
    parser.add_argument("--others", type=float, default=15.0, help="for each of the others; 0: Salon alone")
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()
    print(machine("onnxruntime", "numpy", "torch", "diffusers", "peft"))
    print(f"salon/emoji-64, 64x64 pixels, {given.steps} steps, guidance 2, two adapters, 90/10, 70 % of each system's own capacity")
    print(f"\n{'':16}{'capacity':>10}{'rate':>8}{'images':>8}{'mean ms':>15}{'p50 ms':>15}{'p95 ms':>15}   gap of the rare arm, 95 %")
    mixed: dict[str, Any] = {}
    # pipelines draw one image after the other, whatever the arm: there is nothing to see, and it takes minutes
    for name in [name for name in NAMES if name != "pipelines"] if given.others else ["mixed"]:
        seconds = given.seconds if name == "mixed" else given.others
        run = alone(name, "--load", "open", "--seconds", str(seconds), "--steps", str(given.steps))
        mixed = mixed or run
        columns = "".join(f"{common:7.0f} /{rare:6.0f}" for common, rare in (run[key] for key in ("mean_ms", "p50_ms", "p95_ms")))
        print(f"{name:>14}  {run['capacity']:8.1f}/s{run['rate']:6.1f}/s{run['images']:8}{columns}   {gap(run)}", flush=True)
    well = abs(mixed["gap"]) + mixed["half"] <= ALLOWED
    print(f"\nms of the common arm / of the rare arm. Salon's interval lies within ± {100 * ALLOWED:.0f} %: {'yes' if well else 'NO'}")
    for name in [name for name in NAMES if name != "pipelines"]:
        print(f"{name:>14}: {NAMES[name]}")
    return 0 if well else 1


def gap(run: dict[str, Any]) -> str:
    return f"{100 * run['gap']:+.1f} % ({100 * (run['gap'] - run['half']):+.1f} to {100 * (run['gap'] + run['half']):+.1f})"


if __name__ == "__main__":
    sys.exit(main())
