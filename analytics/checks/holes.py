"""Holes in the log: exposures whose request left no generation, generations of units that were never exposed."""

from collections.abc import Sequence

import msgspec

from analytics.checks.even_loss import Loss, even_loss
from analytics.facts import ExperimentFacts

# Of the exposed units: more than this without a generation is a leak in the log, whichever arm it meets.
HOLES_SHARE = 0.01


class Holes(msgspec.Struct, frozen=True, kw_only=True):
    """`exposed_without_generation`: units of an arm whose requests left no generation, against the shares of the weights.
    `share` of all exposed units. `ok` is False where one arm has more of them than its share, or they are many."""

    exposed_without_generation: Loss
    share: float
    generations_without_exposure: int
    ok: bool
    problems: tuple[str, ...] = ()


def holes(facts: ExperimentFacts, arms: Sequence[str]) -> Holes:
    """A hole in one arm more than in another is a loss of outcomes that only that arm has."""
    lost = even_loss({arm.arm: arm.exposed_without_generation for arm in facts.arms}, facts.periods, arms)
    units = sum(arm.units for arm in facts.arms)
    share = lost.total / units if units else 0.0
    problems = []
    if not lost.ok:
        problems.append(f"units without a generation are not spread as the weights are: {told(lost)}")
    if share > HOLES_SHARE:
        problems.append(f"{lost.total} of {units} exposed units ({share:.1%}) have no generation in the log")
    return Holes(
        exposed_without_generation=lost,
        share=share,
        generations_without_exposure=facts.generations_without_exposure,
        ok=not problems,
        problems=tuple(problems),
    )


def told(loss: Loss) -> str:
    """`'base' 12 of 6 expected, …; e-value 2e+04`."""
    found = ", ".join(f"{arm!r} {n} of {loss.expected[arm]:.0f} expected" for arm, n in loss.units.items())
    return f"{found} (e-value {loss.e_value:.3g})"
