"""Runs benchmarks one after another and keeps what each printed in results/NAME.txt.

python benchmarks/run.py                 the quick ones: event_log, serving_speed, gateway_speed
python benchmarks/run.py crash [WORD …]  one, with words of your own for it

A benchmark that fails leaves its old result as it is, and the exit code is 1.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUICK = ("event_log", "serving_speed", "gateway_speed")
WORDS = {"serving_speed": ("salon/emoji-64", "--seconds", "5")}
NAMES = (*QUICK, "crash", "gpu")
LIMIT_SECONDS = 280.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=NAMES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments, words = parser.parse_known_args()
    began = time.monotonic()
    if arguments.name:
        return 0 if kept(arguments.name, words or list(WORDS.get(arguments.name, ())), arguments.results, LIMIT_SECONDS) else 1
    if words:
        parser.error(f"{' '.join(words)}: name the benchmark that these words are for")
    well = [kept(name, list(WORDS.get(name, ())), arguments.results, LIMIT_SECONDS - (time.monotonic() - began)) for name in QUICK]
    print(f"{sum(well)} of {len(well)} benchmarks in {time.monotonic() - began:.0f} s; results in {arguments.results}")
    return 0 if all(well) else 1


def kept(name: str, words: list[str], results: Path, limit_seconds: float) -> bool:
    """Run one, show its lines as they come, and keep them if it ended well."""
    print(f"── {name} {' '.join(words)}", flush=True)
    lines: list[str] = []
    # SIGINT lets a benchmark's `finally` run, which ends the server that it started
    process = subprocess.Popen(
        ["timeout", "--signal=INT", f"{max(1.0, limit_seconds):.0f}", sys.executable, "-u", str(HERE / f"{name}.py"), *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    if process.wait():
        print(f"{name} failed with exit code {process.returncode} (124: over its time)", file=sys.stderr)
        return False
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.txt").write_text("".join(lines))
    return True


if __name__ == "__main__":
    sys.exit(main())
