"""How much of a metric's variance its covariates explain: what CUPED will take, foretold from the past."""

import numpy as np

from analytics.facts import Joint
from analytics.inference.cuped import linearised, solved


def explained(arm: Joint) -> float:
    """R² of the best linear prediction of the outcome (of a ratio: of its linearised unit) by the covariates, from 0 to 1.

    With p covariates of n units chance alone explains p/(n-1); that is taken off (Wherry 1931). 0 where nothing can be told:
    no covariates, a constant outcome, or hardly more units than covariates.
    """
    linear = linearised(arm, np.asarray(arm.means, dtype=np.float64)) if arm.n else None
    if linear is None:
        return 0.0
    _, slopes = linear
    products = slopes @ np.asarray(arm.products, dtype=np.float64) @ slopes.T
    total, cross = float(products[0, 0]), products[1:, 0]
    count = len(cross)
    if not (count and total > 0 and arm.n > count + 2):
        return 0.0
    share = float(cross @ solved(products[1:, 1:], cross)) / total
    return min(1.0, max(0.0, 1 - (1 - share) * (arm.n - 1) / (arm.n - 1 - count)))
