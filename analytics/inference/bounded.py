"""Values known to lie between two bounds, put on [0, 1]: what guaranteed intervals of a mean start from."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def on_unit_interval(values: ArrayLike, low: float, high: float) -> NDArray[np.float64]:
    """`values` (one dimension, in the order in which they came) with `low` as 0 and `high` as 1.

    Raises ValueError for bounds that cannot be and for the first value outside them or NaN: a guarantee for bounded values
    holds for no others.
    """
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"bounds = [{low}, {high}]: give two finite numbers, the lower one first")
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise ValueError(f"values have {given.ndim} dimensions: give one number per unit")
    outside = ~((given >= low) & (given <= high))
    if outside.any():
        index = int(np.argmax(outside))
        raise ValueError(f"values[{index}] = {given[index]} lies outside the bounds [{low}, {high}]: widen them or cap the metric")
    return np.asarray((given - low) / (high - low))
