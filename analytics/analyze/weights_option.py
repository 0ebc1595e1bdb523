"""`--weights [PERIOD:]A=0.5,B=0.5`, parsed and held against the table."""

import math
from collections.abc import Mapping, Sequence

from analytics.analyze.table import TableError
from analytics.experiment import check_weights
from analytics.nearest import nearest


def parse_weights(texts: Sequence[str], periods: Sequence[str]) -> dict[str, dict[str, float]]:
    """One mapping per period; without periods, of the period "". `periods`: the names in the --period column. Raises ValueError."""
    result: dict[str, dict[str, float]] = {}
    for text in texts:
        period, colon, rest = text.partition(":")
        named = bool(colon) and period in periods
        if periods and not named:
            raise ValueError(
                f"--weights {text!r} names no period of the --period column; write PERIOD:A=0.5,B=0.5, known: {', '.join(periods)}"
            )
        key = period if named else ""
        if key in result:
            raise ValueError(
                f"--weights names period {key!r} twice" if named else "--weights is given twice; several periods need --period"
            )
        result[key] = _shares(rest if named else text)
    for missing in [period for period in periods if texts and period not in result]:
        raise ValueError(f"--weights says nothing of period {missing!r}; give every period its weights")
    return result


def check_arms(weights: Mapping[str, float], arms: Sequence[str], column: str) -> None:
    """Every arm of the table has a weight; an arm with a weight and no row is one that got nobody. Raises TableError, ValueError."""
    for arm in arms:
        if arm not in weights:
            unknown = [name for name in weights if name not in arms]
            hint = f" ({nearest(arm, unknown)})" if unknown else ""
            raise TableError(
                f"--weights says nothing of arm {arm!r} of column {column!r}{hint}; give every arm one, 0 if it should have none"
            )
    check_weights(dict(weights))


def _shares(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        arm, _, share = part.rpartition("=")
        try:
            weight = float(share)
        except ValueError:
            weight = math.nan
        if not arm.strip() or not math.isfinite(weight):
            raise ValueError(f"--weights {text!r}: {part!r} is not ARM=SHARE; write for example a=0.5,b=0.5")
        weights[arm.strip()] = weight
    return weights
