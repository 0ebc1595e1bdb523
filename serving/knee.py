"""How many rows a network call should have: the knee of its throughput, measured when a lane is made."""

import time
from collections.abc import Callable

KNEE = 0.95
SECONDS_FOR_ALL = 2.0
LARGEST_ROWS = 64


def find_knee(seconds_of: Callable[[int], float], largest: int = LARGEST_ROWS) -> tuple[int, float]:
    """The smallest number of rows that reaches 95 % of the highest rows per second found, and its seconds per row.

    `seconds_of(rows)` makes one call. Rows are doubled until throughput gains less than 2 %, or until this has taken two
    seconds: past the knee a larger batch makes everyone wait for nobody's gain (docs/serving.md).
    """
    began, rows, measured = time.perf_counter(), 2, dict[int, float]()
    while rows <= largest:
        first = seconds_of(rows)  # the first call of a shape allocates: where calls are short, that is most of it
        measured[rows] = first if first > SECONDS_FOR_ALL / 4 else min(seconds_of(rows), seconds_of(rows))
        if time.perf_counter() - began > SECONDS_FOR_ALL:
            break
        if rows >= 8 and rows / measured[rows] < 1.02 * max(r / s for r, s in measured.items() if r < rows):
            break
        rows *= 2
    best = max(r / s for r, s in measured.items())
    knee = min(r for r, s in measured.items() if r / s >= KNEE * best)
    return knee, measured[knee] / knee
