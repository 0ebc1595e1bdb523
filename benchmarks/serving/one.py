"""One system under one load, alone in its process; prints one line of JSON. The scripts beside it call it.

python benchmarks/serving/one.py mixed --arms 4 --load closed --seconds 5
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from arms import write_adapters  # noqa: E402
from systems import NAMES, Order, System, Task, open_system  # noqa: E402
from traffic import PROMPTS, Flow, arrivals, closed, opened, paired_gap, rare_in_one_round, resident_mb, welch_gap  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=NAMES)
    parser.add_argument("--arms", type=int, default=2, help="arms with an adapter each; 0: the model alone")
    parser.add_argument("--load", choices=("closed", "open"), default="closed")
    parser.add_argument("--model", default="salon/emoji-64")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="closed: how long it is measured; open: about how long the rounds take")
    parser.add_argument("--rounds", type=int, default=10, help="open: the rare arm has 1 / rounds of the traffic")
    parser.add_argument("--utilisation", type=float, default=0.7, help="open: of what the system itself can draw")
    given = parser.parse_args()
    import_heavy(given.system)
    before = resident_mb()
    with tempfile.TemporaryDirectory() as folder:
        adapters = write_adapters(given.model, given.arms, Path(folder))
        task = Task(given.model, adapters, given.steps, given.guidance, given.rows, Path(folder))
        began = time.perf_counter()
        system = open_system(given.system, task)
        ready = time.perf_counter() - began
        try:
            result = under_closed(system, task, given) if given.load == "closed" else under_open(system, given)
            result |= {"ready_seconds": ready, "model_mb": resident_mb() - before, "pictures": pictures(system, task)}
        finally:
            system.close()
    print(json.dumps({"system": given.system, "arms": given.arms} | result))
    return 0


def import_heavy(system: str) -> None:
    """So that memory above the libraries' own can be told."""
    if system in ("peft", "pipelines"):
        import torch_systems  # noqa: F401
    else:
        import onnxruntime  # noqa: F401


def under_closed(system: System, task: Task, given: Any) -> dict[str, object]:
    flow: Flow = closed(system, range(task.arms), given.at_once, given.seconds)
    gap, half = welch_gap(flow.seen, task.arms - 1)
    ms = [[1000 * seen.seconds for seen in flow.seen if seen.arm == arm] for arm in range(task.arms)]
    return {
        "images": len(flow.seen),
        "images_per_second": flow.images_per_second,
        "cpu_seconds_per_image": flow.cpu_seconds / len(flow.seen),
        "p50_ms": [float(np.median(arm)) for arm in ms],
        "p95_ms": [float(np.percentile(arm, 95)) for arm in ms],
        "gap": gap,
        "half": half,
    }


def under_open(system: System, given: Any) -> dict[str, object]:
    mix = [1 if i % given.rounds == 0 else 0 for i in range(10 * given.rounds)]
    capacity = closed(system, mix, given.at_once, min(6.0, given.seconds / 4)).images_per_second
    rate = capacity * given.utilisation
    many = max(2 * given.rounds, round(given.seconds * rate / given.rounds))
    times, arm = arrivals(many, rate, seed=1), rare_in_one_round(many, given.rounds, seed=2)
    latency = np.array([[seen.seconds for seen in opened(system, times, list(row))] for row in arm])
    gap, half = paired_gap(latency, arm)
    return {
        "capacity": capacity,
        "rate": rate,
        "images": latency.size,
        "mean_ms": [1000 * float(latency[arm == i].mean()) for i in (0, 1)],
        "p50_ms": [1000 * float(np.median(latency[arm == i])) for i in (0, 1)],
        "p95_ms": [1000 * float(np.percentile(latency[arm == i], 95)) for i in (0, 1)],
        "gap": gap,
        "half": half,
    }


def pictures(system: System, task: Task) -> list[list[int]]:
    """One picture of each arm, alone, as every 97th byte: to see that all systems draw the same ones."""
    out = []
    for arm in range(task.arms):
        order = Order(arm, PROMPTS[arm % len(PROMPTS)], 1000 + arm)
        system.submit(order)
        out.append([int(byte) for byte in order.done.result().reshape(-1)[::97]])
    return out


if __name__ == "__main__":
    sys.exit(main())
