"""Draws per stretch of weights → allocation periods: one metric's sums per arm, with predictions from what came before."""

from collections.abc import Sequence

from analytics.facts_of_designs import Draw
from analytics.inference.adaptive import AllocationPeriod, ArmState, Drawn
from analytics.inference.adaptive_table import Stretch


def allocation_periods(
    stretches: Sequence[Stretch], arms: Sequence[str], *, floor: float = 0.0, width: float = 1.0, strict: bool = False
) -> list[AllocationPeriod]:
    """Of a mean or a proportion, outcomes as (y - floor)/width; a period holds the arms of weight above 0.

    The prediction of an arm is its mean over the stretches before; of one without any, that of all arms. In the first stretch it is
    the mean of its own units, which no weight has followed yet; `strict`: 0, since that mean was not known beforehand.
    """
    periods, known = [], dict.fromkeys(arms, (0, 0.0))
    for stretch in stretches:
        drawn = {arm: [_drawn(draw, floor, width) for draw in stretch.draws.get(arm, ()) if draw.joint.n] for arm in arms}
        sums = {arm: (sum(d.n for d in parts), sum(d.s1 for d in parts)) for arm, parts in drawn.items()}
        units = sum(n for n, _ in sums.values())
        if not units:
            continue
        alike = _mean(list(known.values()), _mean([] if strict else list(sums.values()), 0.0))
        states = {
            arm: _state(drawn[arm], stretch.weights[arm], _mean([known[arm]], alike)) for arm in arms if stretch.weights.get(arm, 0.0) > 0
        }
        periods.append(AllocationPeriod(units=units, arms=states))
        known = {arm: (n + sums[arm][0], total + sums[arm][1]) for arm, (n, total) in known.items()}
    return periods


def _mean(sums: Sequence[tuple[int, float]], otherwise: float) -> float:
    n = sum(count for count, _ in sums)
    return sum(total for _, total in sums) / n if n else otherwise


def _drawn(draw: Draw, floor: float, width: float) -> Drawn:
    n, mean = draw.joint.n, (draw.joint.means[0] - floor) / width
    return Drawn(n=n, s1=n * mean, s2=draw.joint.products[0][0] / width**2 + n * mean * mean, propensity=draw.propensity)


def _state(parts: Sequence[Drawn], weight: float, prediction: float) -> ArmState:
    """The most frequent propensity is the period's own; without a unit the weight stands for it."""
    if not parts:
        return ArmState(n=0, s1=0.0, s2=0.0, propensity=weight, prediction=prediction)
    first, *others = sorted(parts, key=lambda part: -part.n)
    return ArmState(
        n=sum(part.n for part in parts),
        s1=sum(part.s1 for part in parts),
        s2=sum(part.s2 for part in parts),
        propensity=first.propensity,
        prediction=prediction,
        differently=tuple(others),
    )
