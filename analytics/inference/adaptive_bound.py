"""Guaranteed intervals under adaptive propensities for outcomes in [0, 1]: at every look, every sample size, any propensities.

Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro (2022), "Anytime-valid off-policy inference for contextual bandits",
arXiv 2210.10768: empirical Bernstein on doubly robust scores, k = 1. Here bets and centres stay constant within an allocation
period and come from the periods before: as predictable as the paper's, so as valid, and states per period are enough.
"""

import math
from collections.abc import Sequence

from analytics.inference.adaptive import AllocationPeriod, ArmState, Drawn
from analytics.inference.contrast import Interval

LARGEST_BET = 0.5
# What is believed of (score - centre)^2 and of the mean before the first unit, worth one unit.
VARIANCE_GUESS, MEAN_GUESS = 0.05, 0.5


def mean_bounds(periods: Sequence[AllocationPeriod], arm: str, alpha: float, planned_units: float) -> tuple[float, float]:
    """(lower, upper) for the mean of outcomes in [0, 1] if every unit had got `arm`, each at `alpha`: neither ever fails with
    more than that probability. (0, 1) without units, or where `arm` could not be got in some period.

    `planned_units`: all units of the experiment, fixed beforehand; bets are best then. Raises ValueError for sums that outcomes
    in [0, 1] cannot have.
    """
    rows = [period for period in periods if period.units > 0]
    if not rows or any(arm not in period.arms or not period.arms[arm].propensity > 0 for period in rows):
        return (0.0, 1.0)
    states = [(period.units, _checked(arm, period.arms[arm])) for period in rows]
    mirrored = [(units, _mirror(state)) for units, state in states]
    return (_lower(states, alpha, planned_units), 1 - _lower(mirrored, alpha, planned_units))


def difference_bounds(periods: Sequence[AllocationPeriod], control: str, treated: str, alpha: float, planned_units: float) -> Interval:
    """Mean of `treated` minus mean of `control`, outcomes in [0, 1]: four bounds at `alpha`/4 hold together."""
    low_a, high_a = mean_bounds(periods, control, alpha / 4, planned_units)
    low_b, high_b = mean_bounds(periods, treated, alpha / 4, planned_units)
    return (low_b - high_a, high_b - low_a)


def _lower(states: Sequence[tuple[int, ArmState]], alpha: float, planned_units: float) -> float:
    """L = 2 [sum of l xi - ln(1/alpha) - sum of psi(l)(xi - centre)^2]/sum of l, with xi half the score of a unit."""
    stake = -math.log(alpha)
    units_before, sum_before, square_before = 0, MEAN_GUESS / 2, VARIANCE_GUESS
    gained, bets = -stake, 0.0
    for units, state in states:
        prediction = min(state.prediction, state.smallest_propensity)
        r, q = state.residuals(prediction)
        first = (units * prediction + r) / 2
        second = (units * prediction**2 + 2 * prediction * r + q) / 4
        centre = min(0.5, sum_before / (1 + units_before))
        spread = max(0.0, second - 2 * centre * first + units * centre * centre)
        variance = square_before / (1 + units_before)
        # Tuned to the planned units, and beyond them as the paper's own t ln(1 + t).
        horizon = max(planned_units, units_before * math.log1p(units_before))
        bet = min(LARGEST_BET, math.sqrt(2 * stake / (variance * horizon)))
        gained += bet * first - (-math.log1p(-bet) - bet) * spread
        bets += bet * units
        units_before, sum_before, square_before = units_before + units, sum_before + first, square_before + spread
    return min(1.0, max(0.0, 2 * gained / bets))


def _checked(arm: str, state: ArmState) -> ArmState:
    slack = 1e-9 * max(1, state.n)
    if not (-slack <= state.s2 <= state.s1 + slack and state.s1 <= state.n + slack):
        raise ValueError(f"arm {arm!r}: {state.n} outcomes in [0, 1] cannot have sum {state.s1} and sum of squares {state.s2}: scale them")
    if not 0 <= state.prediction <= 1:
        raise ValueError(f"arm {arm!r}: prediction = {state.prediction} of outcomes in [0, 1]: give a number from 0 to 1")
    return state


def _mirror(state: ArmState) -> ArmState:
    """The same arm with 1 - Y for every outcome Y."""
    return ArmState(
        n=state.n,
        s1=state.n - state.s1,
        s2=state.n - 2 * state.s1 + state.s2,
        propensity=state.propensity,
        prediction=1 - state.prediction,
        differently=tuple(
            Drawn(n=part.n, s1=part.n - part.s1, s2=part.n - 2 * part.s1 + part.s2, propensity=part.propensity)
            for part in state.differently
        ),
    )
