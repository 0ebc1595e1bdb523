"""The facts of a quantile of rows clustered by unit (Deng, Knoblich & Lu 2018), from the rows themselves."""

import numpy as np

from analytics.analyze.table import Codes, Floats
from analytics.facts import QuantileFacts
from analytics.inference.quantile import quantile_half_width


def quantile_facts(values: Floats, unit: Codes, level: float) -> QuantileFacts:
    """Of events [events] with their units [events]; sample quantiles by the inverted cdf. Raises ValueError without events."""
    n = len(values)
    if n == 0:
        raise ValueError("a quantile of no events")
    h = quantile_half_width(level, n)
    places = [min(n - 1, max(0, int(np.ceil(share * n)) - 1)) for share in (level, level - h, level + h)]
    ordered = np.partition(values, sorted(set(places)))
    value, low, high = (float(ordered[place]) for place in places)
    each = np.bincount(unit)
    seen = each > 0
    count = each[seen].astype(np.float64)
    below = np.bincount(unit, weights=(values <= value).astype(np.float64))[seen].astype(np.float64)
    apart, more = below - below.mean(), count - count.mean()
    return QuantileFacts(
        level=level,
        events=n,
        units=len(count),
        value=value,
        low=low,
        high=high,
        below_mean=float(below.mean()),
        below_m2=float(apart @ apart),
        count_mean=float(count.mean()),
        count_m2=float(more @ more),
        comoment=float(apart @ more),
    )
