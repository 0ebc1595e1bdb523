"""Every proof about events, one after another; what each printed is kept in benchmarks/events/results/NAME.txt when it ended well.

python benchmarks/events/campaigns.py [NAME …]

Two campaigns of faults (one broker, three brokers), three with a protection switched off that the counts must notice, and the
throughput of every station: about 25 minutes on 2 cores. Faults fill a disk where we may mount one (root).
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from run import kept  # noqa: E402

RESULTS = HERE / "results"
LIMIT_SECONDS = 1500.0
SHORT = ("--events", "80000", "--rate", "2500", "--faults", "16", "--gateways", "1", "--sinks", "1", "--sabotage")
CAMPAIGNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "throughput": ("throughput", ()),
    "chaos-1-broker": ("chaos", ("--brokers", "1", "--events", "550000", "--faults", "60")),
    "chaos-3-brokers": ("chaos", ("--brokers", "3", "--events", "550000", "--faults", "60")),
    "without-sink-tokens": ("chaos", (*SHORT, "sink-tokens", "--only", "answer swallowed,sink killed,warehouse killed")),
    "without-sink-intents": ("chaos", (*SHORT, "sink-intents", "--only", "answer swallowed,sink killed,warehouse killed")),
    "without-gateway-fsync": ("chaos", (*SHORT, "gateway-fsync", "--only", "gateway killed,disk filled")),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="*", choices=[*CAMPAIGNS, []], help="; ".join(CAMPAIGNS))
    chosen = parser.parse_args().name or list(CAMPAIGNS)
    well = []
    for name in chosen:
        script, words = CAMPAIGNS[name]
        well.append(kept(name, list(words), RESULTS, LIMIT_SECONDS, HERE / f"{script}.py"))
    print(f"{sum(well)} of {len(well)} ended well; results in {RESULTS}")
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
