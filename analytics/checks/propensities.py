"""Are the logged propensities those of the draw? Units weighted by 1/propensity must add up to all units."""

import math

import msgspec

from analytics.facts import ArmFacts, ExperimentFacts

STANDARD_ERRORS = 3.0


class Propensities(msgspec.Struct, frozen=True, kw_only=True):
    """Per arm: `balance`, the mean of 1{arm}/propensity over the units that could have got the arm, must be 1; `se` of it where
    the log is right; `effective_units` (Kish: squared sum of 1/propensity over the sum of squares): how many units of equal
    propensity tell as much. An arm without logged propensities is in none of them."""

    balance: dict[str, float]
    se: dict[str, float]
    effective_units: dict[str, float]
    ok: bool
    problems: tuple[str, ...] = ()


def propensities(facts: ExperimentFacts) -> Propensities:
    """The balance has mean 1, and the variance is estimated without bias by the sum of w (w - 1), w = 1/propensity, over the
    units of the arm (Horvitz & Thompson 1952). Off by more than 3 standard errors, and by more than units that saw several
    arms (they are missing from the sum) can explain, is a problem."""
    total = sum(arm.units for arm in facts.arms)
    everyone = total + facts.multiple_exposure
    missing = facts.multiple_exposure / everyone if everyone else 0.0
    balance, errors, effective, problems = {}, {}, {}, []
    for arm in facts.arms:
        mean = arm.mean_inverse_propensity
        if mean is None or not math.isfinite(mean) or mean <= 0 or arm.units == 0:
            continue
        open_to = sum(sum(p.units.values()) for p in facts.periods if p.weights.get(arm.arm, 0.0) > 0) or total
        squares = _spread(arm, mean) + arm.units * mean * mean
        balance[arm.arm] = value = arm.units * mean / open_to
        errors[arm.arm] = se = math.sqrt(max(0.0, squares - arm.units * mean)) / open_to
        effective[arm.arm] = (arm.units * mean) ** 2 / squares
        if abs(value - 1) > STANDARD_ERRORS * se + missing * max(1.0, mean) + 1e-6:
            problems.append(
                f"the logged propensities of arm {arm.arm!r} do not fit its units: their balance is {value:.3f} ± {se:.3f}, not 1"
            )
    return Propensities(balance=balance, se=errors, effective_units=effective, ok=not problems, problems=tuple(problems))


def _spread(arm: ArmFacts, mean: float) -> float:
    """The centred sum of squares of 1/propensity; 0, as for constant weights, where it is not known."""
    found = arm.inverse_propensity_m2
    return found if found is not None and math.isfinite(found) and found >= 0 else 0.0
