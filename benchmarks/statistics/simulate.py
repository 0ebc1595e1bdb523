"""Do the statistics keep what they promise? Simulated experiments whose truth is known, through the report itself.

python benchmarks/statistics/simulate.py [--quick] [--only WORD] [--seed N] [--processes N]

Every line: an estimate ± its Monte Carlo standard error, what it should be, how many runs, and the verdict. A claim fails when
the estimate is off by more than the slack printed and three standard errors. Exits with 1 when a claim fails.
"""

import os
import sys
from pathlib import Path

# Many small problems on few cores: threads inside numpy would only stand in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import families  # noqa: E402
import fixed_horizon  # noqa: E402
import guardrails  # noqa: E402
import hourly  # noqa: E402
import sample_ratios  # noqa: E402
from simulation import Simulation  # noqa: E402
from told import told  # noqa: E402


def simulations() -> list[Simulation]:
    """All of them, in the order in which they are printed."""
    return [
        *fixed_horizon.simulations(),
        *families.simulations(),
        *hourly.simulations(),
        *guardrails.simulations(),
        *sample_ratios.simulations(),
    ]


def main() -> int:
    return told(__doc__, simulations(), 5)


if __name__ == "__main__":
    sys.exit(main())
