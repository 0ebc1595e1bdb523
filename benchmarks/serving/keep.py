"""Every measurement of the engine on this machine's CPU, one after another; what each printed is kept in results/NAME.txt.

python benchmarks/serving/keep.py [NAME …]
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from run import kept  # noqa: E402

RESULTS = HERE / "results"
LIMIT_SECONDS = 600.0
NAMES = ("overhead", "mixed_arms", "latency_gap", "gateway_memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*NAMES, []], help="; ".join(NAMES))
    chosen = parser.parse_args().name or [name for name in NAMES if (HERE / f"{name}.py").exists()]
    well = [kept(name, [], RESULTS, LIMIT_SECONDS, HERE / f"{name}.py") for name in chosen]
    print(f"{sum(well)} of {len(well)} ended well; results in {RESULTS}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
