"""Who saw several arms, and whether that is few enough."""

import msgspec

from analytics.checks.propensities import Propensities, propensities
from analytics.facts import ExperimentFacts

MULTIPLE_EXPOSURE_SHARE = 0.01


class Exposure(msgspec.Struct, frozen=True, kw_only=True):
    """`multiple_exposure`: units that saw several arms (left out). `propensity_balance[arm]`: the mean of 1{arm}/propensity over
    the units that could have got the arm, which is 1 when the logged propensities are those of the draw; more of it is in
    the check of propensities."""

    multiple_exposure: int
    multiple_exposure_share: float
    generations_without_exposure: int
    propensity_balance: dict[str, float]
    ok: bool
    problems: tuple[str, ...] = ()


def exposure(facts: ExperimentFacts, drawn: Propensities | None = None) -> Exposure:
    """Units in several arms, generations of unexposed units; with the problems that `drawn`, the propensities, have."""
    drawn = drawn or propensities(facts)
    share = multiple_exposure_share(facts)
    problems = list(drawn.problems)
    if share > MULTIPLE_EXPOSURE_SHARE:
        problems.insert(0, f"{facts.multiple_exposure} units ({share:.1%}) saw more than one arm and are left out")
    return Exposure(
        multiple_exposure=facts.multiple_exposure,
        multiple_exposure_share=share,
        generations_without_exposure=facts.generations_without_exposure,
        propensity_balance=drawn.balance,
        ok=not problems,
        problems=tuple(problems),
    )


def multiple_exposure_share(facts: ExperimentFacts) -> float:
    """Units in several arms, of all exposed units."""
    total = sum(arm.units for arm in facts.arms) + facts.multiple_exposure
    return facts.multiple_exposure / total if total else 0.0
