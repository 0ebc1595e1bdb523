"""Where a falling function crosses zero: what intervals that invert a test come down to."""

import math
from collections.abc import Callable


def falling_root(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of a falling `function` in [low, high], to about 1e-15 of its bracket, by the Illinois form of false position.

    `low` where it is nowhere above 0, `high` where it is nowhere below 0; values may be infinite.
    """
    at_low, at_high = function(low), function(high)
    if not at_low > 0:
        return low
    if not at_high < 0:
        return high
    side = 0
    for step in range(200):
        bounded = math.isfinite(at_low) and math.isfinite(at_high) and step < 60
        middle = (low * at_high - high * at_low) / (at_high - at_low) if bounded else (low + high) / 2
        if not low < middle < high:
            # Where one value dwarfs the other the chord's zero rounds to an end.
            middle = (low + high) / 2
            if not low < middle < high:
                return middle
        value = function(middle)
        if value == 0 or high - low <= 1e-15 * max(abs(low), abs(high)):
            return middle
        if value > 0:
            low, at_low = middle, value
            at_high = at_high / 2 if side > 0 else at_high
            side = 1
        else:
            high, at_high = middle, value
            at_low = at_low / 2 if side < 0 else at_low
            side = -1
    return (low + high) / 2
