"""Does an effect differ between slices? Cochran's Q (Cochran 1954) and I squared (Higgins & Thompson 2002)."""

import math
from collections.abc import Sequence

from analytics.inference.tails import chi_square_p


def cochran_q(estimates: Sequence[float], ses: Sequence[float]) -> tuple[float, int, float, float]:
    """(Q, degrees of freedom, p, I^2) of independent estimates with standard errors > 0.

    Q = sum of w (x - mean)^2 with w = 1/se^2 is chi-square with S - 1 degrees of freedom where all S slices share one effect;
    I^2 = max(0, (Q - df)/Q) is the share of the spread that is not noise. Fewer than 2 slices: (0, 0, 1, 0).
    Raises ValueError for lists of different lengths, an estimate that is no number, or an se that is not above 0.
    """
    if len(estimates) != len(ses):
        raise ValueError(f"{len(estimates)} estimates and {len(ses)} ses: give one se for each estimate")
    for index, (estimate, se) in enumerate(zip(estimates, ses, strict=True)):
        if not (math.isfinite(estimate) and 0 < se < math.inf):
            raise ValueError(f"slice {index} has estimate {estimate} and se {se}: leave out what has no finite estimate and se > 0")
    df = len(estimates) - 1
    if df < 1:
        return (0.0, 0, 1.0, 0.0)
    # In units of the smallest se, so that squares neither over- nor underflow; from the first, so that large values do not cancel.
    smallest = min(ses)
    weights = [(smallest / se) ** 2 for se in ses]
    apart = [(estimate - estimates[0]) / smallest for estimate in estimates]
    mean = math.fsum(w * x for w, x in zip(weights, apart, strict=True)) / math.fsum(weights)
    q = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, apart, strict=True))
    return (q, df, chi_square_p(q, df), max(0.0, (q - df) / q) if q > 0 else 0.0)
