"""Runs benchmarks one after another and keeps what each printed in results/NAME.txt.

python benchmarks/run.py                 the quick ones: event_log, serving_speed, gateway_speed
python benchmarks/run.py crash [WORD …]  one, with words of your own for it

A benchmark that fails leaves its old result as it is, and the exit code is 1.
"""

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
QUICK = ("event_log", "serving_speed", "gateway_speed")
WORDS = {"serving_speed": ("salon/emoji-64", "--seconds", "5")}
NAMES = (*QUICK, "crash", "demo")
LIMIT_SECONDS = 280.0
DEMO_SECONDS = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=NAMES)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments, words = parser.parse_known_args()
    began = time.monotonic()
    if arguments.name:
        limit_seconds = DEMO_SECONDS if arguments.name == "demo" else LIMIT_SECONDS
        return 0 if kept(arguments.name, words or list(WORDS.get(arguments.name, ())), arguments.results, limit_seconds) else 1
    if words:
        parser.error(f"{' '.join(words)}: name the benchmark that these words are for")
    well = [kept(name, list(WORDS.get(name, ())), arguments.results, LIMIT_SECONDS - (time.monotonic() - began)) for name in QUICK]
    print(f"{sum(well)} of {len(well)} benchmarks in {time.monotonic() - began:.0f} s; results in {arguments.results}")
    return 0 if all(well) else 1


def kept(name: str, words: list[str], results: Path, limit_seconds: float, script: Path | None = None) -> bool:
    """Run one (NAME.py unless `script` is given), show its lines as they come, and keep them if it ended well."""
    print(f"── {name} {' '.join(words)}", flush=True)
    lines: list[str] = []
    process = subprocess.Popen([sys.executable, "-u", str(script or HERE / f"{name}.py"), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # SIGINT lets a benchmark's `finally` run, which ends the server that it started
    limit = threading.Timer(max(1.0, limit_seconds), process.send_signal, [signal.SIGINT])
    limit.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
    finally:
        late = not limit.is_alive()
        limit.cancel()
    if code:
        print(f"{name} failed with exit code {code}{': it was stopped, its time was over' if late else ''}", file=sys.stderr)
        return False
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.txt").write_text("".join(lines))
    return True


if __name__ == "__main__":
    sys.exit(main())
