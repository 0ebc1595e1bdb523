"""k arms, each with a LoRA of its own, 8 images always under way: ways to serve them, each alone in its process, one after the other.

python benchmarks/serving/mixed_arms.py [--seconds 3] [--arms 1,2,4,8] [--repeats 1]

The LoRAs are random, of rank 8, for the modules that finetune trains. Latencies are of whole images as the client sees them; the
gap is the last arm's mean latency against the others', with Welch's 95 % interval (images that shared a batch are not independent, so
it is narrower than it should be: `latency_gap.py` does it properly). Memory is the process above its imported libraries: weights, adapters,
sessions, activations. "apart" is the largest difference of any looked-at pixel from diffusers' pipelines, of 255 levels.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--arms", default="1,2,4,8")
    parser.add_argument("--repeats", type=int, default=1, help="the one with the least CPU time per image is shown")
    parser.add_argument("--systems", default=",".join(NAMES))
    parser.add_argument("--steps", type=int, default=10)
    given = parser.parse_args()
    print(machine("onnxruntime", "numpy", "torch", "diffusers", "peft"))
    print(f"salon/emoji-64, 64x64 pixels, {given.steps} steps, guidance 2 (two rows), 8 images under way, calls of at most 16 rows")
    systems = [name for name in NAMES if name in given.systems.split(",")]
    words = ["--seconds", str(given.seconds), "--steps", str(given.steps)]

    def best(name: str, arms: int) -> dict[str, Any]:
        runs = [alone(name, "--arms", str(arms), *words) for _ in range(given.repeats)]
        return min(runs, key=lambda run: float(run["cpu_seconds_per_image"]))

    plain = best("mixed", 0)
    print(
        f"\n{'':16}{'images/s':>9}{'CPU-ms':>8}{'p50 ms, arms':>16}{'p95 ms, arms':>16}"
        f"{'gap of the last arm':>22}{'memory MB':>11}{'ready s':>9}"
    )
    print("no adapter, one arm")
    show("Salon", plain)
    for arms in map(int, given.arms.split(",")):
        print(f"k = {arms}")
        found = {name: best(name, arms) for name in systems}
        for name, run in found.items():
            show(name, run, against=plain if name == "mixed" else None)
        if "pipelines" in found and len(found) > 1:
            apart = {name: furthest(run, found["pipelines"]) for name, run in found.items() if name != "pipelines"}
            print("    levels apart from diffusers' pipelines: " + ", ".join(f"{name} {levels}" for name, levels in apart.items()))
            if max(apart.values()) > 2:
                print("FAILED: these are not the same pictures")
                return 1
    print("\nCPU-ms: process time of all threads per image. ×: against the model with no adapter, by CPU time and by memory.")
    for name in systems:
        print(f"{name:>14}: {NAMES[name]}")
    return 0


def show(name: str, run: dict[str, Any], against: dict[str, Any] | None = None) -> None:
    gap = f"{100 * run['gap']:+.1f} ± {100 * run['half']:.1f} %" if run["gap"] == run["gap"] else ""
    line = f"{name:>14}  {run['images_per_second']:9.2f}{1000 * run['cpu_seconds_per_image']:8.1f}"
    line += f"{between(run['p50_ms']):>16}{between(run['p95_ms']):>16}{gap:>22}{run['model_mb']:11.0f}{run['ready_seconds']:9.2f}"
    if against:
        time, memory = (run[key] / against[key] for key in ("cpu_seconds_per_image", "model_mb"))
        line += f"   {time:.2f} × time, {memory:.2f} × memory"
    print(line, flush=True)


def between(ms: list[float]) -> str:
    low, high = min(ms), max(ms)
    return f"{low:.0f}" if len(ms) == 1 else f"{low:.0f} to {high:.0f}"


def furthest(run: dict[str, Any], other: dict[str, Any]) -> int:
    return max(
        abs(a - b) for mine, theirs in zip(run["pictures"], other["pictures"], strict=True) for a, b in zip(mine, theirs, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
