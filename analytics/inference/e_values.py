"""Many e-values at once: e-BH, and the intervals that go with what it rejects.

Wang & Ramdas (2022), "False discovery rate control with e-values"; Xu, Wang & Ramdas (2024), "Post-selection inference for
e-value based confidence intervals". Under any dependence, at any stopping time.
"""

import math
from collections.abc import Sequence


def e_bh(e: Sequence[float], alpha: float) -> list[bool]:
    """Which of K hypotheses are rejected with false discovery rate <= `alpha`, in the order given.

    The k largest, for the largest k whose k-th e-value reaches K/(alpha k). Raises ValueError for an e-value below 0 or NaN.
    """
    for index, value in enumerate(e):
        if not value >= 0:
            raise ValueError(f"e[{index}] = {value} is no e-value: give numbers from 0 up")
    count = len(e)
    order = sorted(e, reverse=True)
    rejected = max((k for k, value in enumerate(order, start=1) if value * k * alpha >= count), default=0)
    threshold = order[rejected - 1] if rejected else math.inf
    return [rejected > 0 and value >= threshold for value in e]


def interval_alpha(rejected: Sequence[bool], alpha: float) -> float | None:
    """Level alpha R/K of the e-intervals of the R rejected of K: their false coverage rate is <= `alpha`. None where R = 0."""
    count = sum(rejected)
    return alpha * count / len(rejected) if count else None
