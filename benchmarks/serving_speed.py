"""Seconds per image, images per second and start-up time of the embedded engine, for any model directory.

python benchmarks/serving_speed.py salon/emoji-64
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine

from serving.engine import Job, LocalEngine
from serving.registry import Registry
from serving.variant import Variant

START = """
import pathlib, sys, time
from serving.engine import LocalEngine
from serving.registry import Registry
from serving.variant import Variant
engine = LocalEngine(Registry(sys.argv[2]), cache=pathlib.Path(sys.argv[2]))
engine.load(Variant(model=sys.argv[1]))
engine.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each measurement may take")
    arguments = parser.parse_args()
    print(f"{machine('onnxruntime', 'numpy')} · model {arguments.model}")
    with tempfile.TemporaryDirectory() as folder:
        variant = Variant(model=arguments.model, steps=arguments.steps, guidance=arguments.guidance)
        engine = LocalEngine(Registry(folder), cache=Path(folder))
        engine.load(variant)
        starts = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", START, arguments.model, folder], check=True)
            starts.append(time.perf_counter() - begun)
        print(f"start-up, whole process, digest known: {min(starts):.2f} s (least of 3)")
        for together in (1, 2, 4, 8, 10, 20):
            measure(engine, variant, together, arguments.seconds)
        engine.close()


def measure(engine: LocalEngine, variant: Variant, together: int, seconds: float) -> None:
    """Groups of `together` images until `seconds` are over; prints the median group's wall time and the CPU time per image."""
    walls: list[float] = []
    images = 0
    cpu, begun = time.process_time(), time.perf_counter()
    while not walls or time.perf_counter() - begun < seconds:
        at = time.perf_counter()
        for future in [engine.submit(Job(variant=variant, prompt=f"a red heart {i}", seed=i)) for i in range(together)]:
            future.result()
        walls.append(time.perf_counter() - at)
        images += together
    wall = sorted(walls)[len(walls) // 2]
    per_image = (time.process_time() - cpu) / images
    settings = f"{variant.steps} steps, guidance {variant.guidance:g}"
    print(f"{together:3d} at once, {settings}: {wall:.3f} s, {together / wall:.2f} images/s, {per_image:.3f} CPU-s per image")


if __name__ == "__main__":
    main()
