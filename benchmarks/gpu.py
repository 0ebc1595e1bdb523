"""What Salon does on a CUDA machine, in one call: each part in a process of its own, so that one that fails costs only itself.

python benchmarks/gpu.py [--parts floors,kernels,…] [--wheels DIR] [--budget 570]
python benchmarks/gpu.py --cpu-smoke      every part on tiny shapes on the CPU: shows that the script runs, measures nothing

Networks have random weights in the exact shape of Stable Diffusion 1.5 and SDXL; nothing is downloaded. `--wheels` names a
folder of wheels that the machine lacks (diffusers, msgspec); they are unpacked beside, not installed. What each part printed
replaces that part's section in gpu-<device>.txt under benchmarks/serving/results, or under $OUT where that is set. Exits with
1 without CUDA, or when a part fails.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "serving/results"
MARK = "── "
# by importance; seconds after which a part is stopped
PARTS = {
    "floors": 60,
    "kernels": 150,
    "pictures": 120,
    "steps-sd15": 120,
    "loras-sd15": 180,
    "bits": 150,
    "speed-sd15": 240,
    "gap-sd15": 180,
    "steps-sdxl": 150,
    "loras-sdxl": 240,
    "loras-sd15-convolutions": 180,
    "compile-sd15": 300,
    "speed-sd15-compiled": 300,
    "compile-sdxl": 420,
    "ort-sd15": 240,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=", ".join(PARTS))
    parser.add_argument("--wheels", type=Path, help="a folder of .whl files, used without a network")
    parser.add_argument("--budget", type=float, default=570.0, help="seconds; parts that have not begun by then are left out, and said")
    parser.add_argument("--cpu-smoke", action="store_true")
    parser.add_argument("--only-part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    # a part must not outlive its parent, which may be stopped from outside
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.only_part:
        return run(given.only_part, smoke=given.cpu_smoke)
    if unknown := [part for part in given.parts.split(",") if part not in PARTS]:
        parser.error(f"--parts {unknown[0]}: unknown; one of {', '.join(PARTS)}")
    import torch

    if not given.cpu_smoke and not torch.cuda.is_available():
        print("there is no CUDA device here, or torch was built without CUDA: nothing was measured", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as carried:
        if given.wheels:
            wheels = [str(path) for path in sorted(given.wheels.glob("*.whl"))]
            quiet = ["--quiet", "--no-index", "--no-deps", "--target", carried]
            subprocess.run([sys.executable, "-m", "pip", "install", *quiet, *wheels], check=True)
        sections, failed, began = dict[str, str](), list[str](), time.monotonic()
        for part in given.parts.split(","):
            left = given.budget - (time.monotonic() - began)
            if left < 20 and not given.cpu_smoke:
                print(f"{MARK}{part}: not run, the budget of {given.budget:.0f} s is spent")
                continue
            lines, code = watched(part, min(left, PARTS[part]), carried, smoke=given.cpu_smoke)
            sections[part] = lines
            if code:
                failed.append(part)
        if not given.cpu_smoke:
            keep(re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-"), sections)
    print(f"failed: {', '.join(failed)}" if failed else "every part that was run ended well")
    return 1 if failed else 0


def watched(part: str, seconds: float, carried: str, *, smoke: bool) -> tuple[str, int]:
    """What `part` printed, errors included, and its exit code; it is killed after `seconds`."""
    # what is installed goes first only where it is not carried
    paths = [carried, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-u", str(HERE / "gpu.py"), "--only-part", part, *(["--cpu-smoke"] if smoke else [])]
    print(f"{MARK}{part}{' (smoke on the CPU, tiny shapes: NO MEASUREMENT)' if smoke else ''}", flush=True)
    began = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
        "TQDM_DISABLE": "1",
    }
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    limit = threading.Timer(max(1.0, seconds), process.kill)
    limit.start()
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
    finally:
        process.kill()
    late = not limit.is_alive()
    limit.cancel()
    end = f"FAILED: stopped after {seconds:.0f} s" if late else f"FAILED with exit code {code}" if code else "ended well"
    lines.append(f"({end}, {time.monotonic() - began:.0f} s)\n")
    print(lines[-1], end="", flush=True)
    return "".join(lines), code


def run(part: str, *, smoke: bool) -> int:
    """One part, in this process."""
    sys.path[:0] = [str(HERE / "serving"), str(HERE), str(ROOT)]
    import gpu_engine
    import gpu_network
    import shapes
    import torch
    from machine import machine

    print(machine("torch", "diffusers", "numpy"))
    if not smoke:
        print(f"{torch.cuda.get_device_name()} · CUDA {torch.version.cuda}")
    bench = gpu_network.Bench(smoke=smoke)
    what, _, more = part.partition("-")
    of = shapes.shape(more.partition("-")[0], tiny=smoke) if more else None
    if part in ("floors", "kernels"):
        getattr(gpu_network, part)(bench)
    elif part in ("pictures", "bits"):
        getattr(gpu_engine, part)(bench)
    elif what == "gap":
        gpu_engine.gap(bench)
    elif what == "speed":
        gpu_engine.speed(bench, compiled=more.endswith("compiled"))
    elif what == "ort":
        gpu_engine.speed(bench, backend="onnx")
    elif what == "loras":
        assert of
        gpu_network.loras(bench, of, convolutions=more.endswith("convolutions"))
    else:
        assert of
        gpu_network.steps(bench, of, compiled=what == "compile")
    return 0


def keep(device: str, sections: dict[str, str]) -> None:
    """Sections of parts that were run replace those of earlier runs; others stay."""
    name = f"gpu-{device}.txt"
    known = RESULTS / name
    blocks = known.read_text().split(MARK)[1:] if known.exists() else []
    kept = {block.split("\n", 1)[0]: block.split("\n", 1)[1] for block in blocks} | sections
    into = Path(os.environ.get("OUT", RESULTS))
    into.mkdir(parents=True, exist_ok=True)
    (into / name).write_text("".join(f"{MARK}{part}\n{kept[part]}" for part in PARTS if part in kept))
    print(f"kept in {into / name}")


if __name__ == "__main__":
    sys.exit(main())
