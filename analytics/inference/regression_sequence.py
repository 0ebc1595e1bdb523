"""A regression coefficient at any look: the anytime-valid t test.

Lindon, Ham, Tingley & Bojinov (2022), "Anytime-valid linear models and regression adjusted causal inference in randomized
experiments", arXiv 2210.08589: a right-Haar, g-prior mixture over the coefficient. Exact for normal errors at every n above the columns.
"""

import math

from analytics.inference.confidence_sequence import LARGEST_E


def e_value(statistic: float, units: int, columns: int, g: float = 1.0) -> float:
    """Evidence against "the coefficient is 0" from its ordinary t `statistic`; `columns` of the design include the intercept.

    1 while units <= columns. At most `LARGEST_E`. `g` > 0, fixed beforehand: the larger, the tighter the later looks.
    """
    nu = units - columns
    if nu < 1:
        return 1.0
    r = g / (g + units)
    square = statistic * statistic / nu
    # Both logarithms grow without bound; their difference ends at -ln r.
    gained = math.log1p(square) - math.log1p(r * square) if math.isfinite(square) else -math.log(r)
    log = math.log(r) / 2 + (nu + 1) / 2 * gained
    return math.exp(log) if log < math.log(LARGEST_E) else LARGEST_E


def critical(units: int, columns: int, alpha: float, g: float = 1.0) -> float:
    """How many standard errors the interval of the coefficient reaches to each side; infinite while there is no bound."""
    nu = units - columns
    if nu < 1:
        return math.inf
    r = g / (g + units)
    log_w = (math.log(r) + 2 * math.log(alpha)) / (nu + 1)
    w = math.exp(log_w)
    return math.sqrt(nu * -math.expm1(log_w) / (w - r)) if w > r else math.inf
