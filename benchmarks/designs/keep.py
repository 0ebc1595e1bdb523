"""Every proof about designs, one after another; what each printed is kept in results/NAME.txt when it ended well.

python benchmarks/designs/keep.py [NAME …]
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from run import kept  # noqa: E402

RESULTS = HERE / "results"
LIMIT_SECONDS = 900.0
ORDER = ("adaptive", "sensitivity", "duels", "switchback", "position", "off_policy", "over_http")
NAMES = [name for name in ORDER if (HERE / f"{name}.py").exists()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*NAMES, []], help="; ".join(NAMES))
    chosen = parser.parse_args().name or NAMES
    well = [kept(name, [], RESULTS, LIMIT_SECONDS, HERE / f"{name}.py") for name in chosen]
    print(f"{sum(well)} of {len(well)} ended well; results in {RESULTS}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
