"""What the experiment of a route gives a request: one arm for all of its pictures, or an arm to each of them."""

import random
from collections.abc import Sequence
from datetime import datetime

import msgspec

from analytics.designs import MIXED, Bandit, Switchback
from gateway.assignment import Assignment, Split
from gateway.blocks import Block, block_at
from gateway.ledger import Life, pair_name
from gateway.mixed import draw_pair, team_draft
from gateway.plans import Plan
from gateway.sticky import Sticky


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """`arm` and the `propensity` that it had; or, in designs that mix, `arms` by position. `life` None: the request takes no part.

    A duel's `propensity` is the chance of its pair. `place_propensity`: of a mixed grid, the probability that an arm holds the place
    that it has (for a duel the chance of the pair). `facts`: attributes of the generation, its images and its feedback.
    """

    life: Life | None = None
    arm: str = ""
    propensity: float | None = None
    arms: tuple[str, ...] = ()
    place_propensity: float | None = None
    facts: dict[str, str] = {}

    @property
    def each_arm(self) -> tuple[str, ...]:
        """Every arm that takes part, once."""
        return tuple(dict.fromkeys(self.arms)) or ((self.arm,) if self.arm else ())

    @property
    def pair(self) -> str:
        """The pair of a duel by its name, else empty."""
        return pair_name(*self.arms) if self.life is not None and self.life.declared.design == "duel" else ""


NO_PART = Draw()


async def draw(plan: Plan, unit: str, places: int, now: datetime, sticky: Sticky, dice: random.Random) -> Draw:
    """What `unit` gets that asks for `places` pictures at `now`. An assignment that is sticky is remembered when this returns.

    An interleaved grid has 2 places or more, a duel has 2: other requests take no part.
    """
    life, split = plan.life, plan.split
    if life is None or split is None:
        return NO_PART
    design = life.declared.design
    if design == "ab":
        arm, propensity = split.assign(unit)
        return Draw(life=life, arm=arm, propensity=propensity)
    if design in MIXED:
        return _mixed(life, places, dice)
    if design == "switchback":
        block = _block(life, split, now)
        facts = {"block": str(block.number), **({"washout": "true"} if block.washout else {})}
        return Draw(life=life, arm=block.arm, propensity=block.propensity, facts=facts)
    weights = life.allocation.weights
    arm, propensity = await sticky.assign(life.name, unit, split, weights) if _is_sticky(life) else split.assign(unit)
    return Draw(life=life, arm=arm, propensity=propensity)


async def assignments(plan: Plan, units: Sequence[str], now: datetime, sticky: Sticky) -> list[Assignment | None]:
    """The arm that each unit would get at `now`, and its propensity. Nothing is remembered. None without an experiment, and where
    it gives each picture an arm of its own."""
    life, split = plan.life, plan.split
    if life is None or split is None or life.declared.design in MIXED:
        return [None] * len(units)
    if life.declared.design == "switchback":
        block = _block(life, split, now)
        return [Assignment(block.arm, block.propensity)] * len(units)
    if _is_sticky(life):
        return [*await sticky.told(life.name, units, split, life.allocation.weights)]
    return [split.assign(unit) for unit in units]


def _mixed(life: Life, places: int, dice: random.Random) -> Draw:
    arms = [arm for arm, weight in life.allocation.weights.items() if weight > 0]
    if len(arms) < 2:
        return NO_PART
    if life.declared.design == "duel":
        if places != 2:
            return NO_PART
        pair, chance = draw_pair(arms, life.pairs, dice)
        return Draw(life=life, arms=pair, propensity=chance, place_propensity=chance)
    return Draw(life=life, arms=team_draft(arms, places, dice), place_propensity=1 / len(arms)) if places >= 2 else NO_PART


def _block(life: Life, split: Split, now: datetime) -> Block:
    started_at = datetime.fromisoformat(life.started_at)
    weighed_at = datetime.fromisoformat(life.weighed_at or life.started_at)
    return block_at(split, life.declared.switchback or Switchback(), started_at, weighed_at, now)


def _is_sticky(life: Life) -> bool:
    return life.declared.design == "bandit" and (life.declared.bandit or Bandit()).sticky
