"""What the designs beside "ab" need to be told: bandits, duels, switchbacks; and ramps, which move an "ab" by themselves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

if TYPE_CHECKING:
    from analytics.experiment import Experiment, Metric

Design = Literal["ab", "interleave", "duel", "bandit", "switchback"]
# Designs that put pictures of several arms before one unit, within one request.
MIXED = ("interleave", "duel")
# Nobody can write a third: weights that differ by less are meant to be alike.
ROUNDED = 0.02
TWO_WEEKS_MINUTES, FEWEST_BLOCKS = 20_160.0, 100
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Minutes = Annotated[float, msgspec.Meta(gt=0, le=10_080)]


class Bandit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How weights follow the primary metric (`design = "bandit"`).

    Every `every_minutes` each arm's weight becomes `floor` + (1 - K `floor`) x its probability to be best (`thompson`), or half of
    that to be best or second (`top_two`), from the units exposed at least `maturity_hours` ago; not above `caps[arm]`. Nothing
    moves before every arm has the experiment's `minimum_units`. An arm of weight 0 is retired and gets none. `sticky`: who has
    been given an arm keeps it while its weight is above 0.
    """

    policy: Literal["thompson", "top_two"] = "thompson"
    floor: Annotated[float, msgspec.Meta(gt=0, le=0.5)] = 0.05
    caps: dict[str, Share] = msgspec.field(default_factory=dict)
    every_minutes: Minutes = 60.0
    maturity_hours: Annotated[float, msgspec.Meta(ge=0, le=8760)] = 0.0
    sticky: bool = True


class Duel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which two arms meet (`design = "duel"`): every pair alike (`uniform`), or those whose order is least known more often,
    above all between arms that may be best (`active`): each pair keeps `floor` times its uniform share, and chances move every
    `every_minutes`."""

    pairs: Literal["uniform", "active"] = "uniform"
    floor: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.2
    every_minutes: Minutes = 60.0


class Switchback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a route switches over time (`design = "switchback"`): one arm for all in each block; what is asked for in the first
    `washout_minutes` of a block counts for nothing. `lag` blocks are taken to be related (Newey-West)."""

    block_minutes: Minutes = 60.0
    washout_minutes: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    lag: Annotated[int, msgspec.Meta(ge=0, le=50)] = 2

    def __post_init__(self) -> None:
        if self.washout_minutes >= self.block_minutes:
            raise ValueError(f"`washout_minutes` = {self.washout_minutes:g} leaves nothing of `block_minutes` = {self.block_minutes:g}")


class Ramp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The share of all arms but the control, step by step. A step is left after `step_hours`, with `step_units` exposed in every
    arm of weight above 0 since the start, and with every guardrail shown to hold at any look."""

    shares: tuple[Share, ...]
    step_hours: Annotated[float, msgspec.Meta(ge=0)] = 24.0
    step_units: Annotated[int, msgspec.Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.shares or any(a >= b for a, b in zip(self.shares, self.shares[1:], strict=False)):
            raise ValueError(f"`shares` = {list(self.shares)}; give at least one, each larger than the one before")


def check_design(experiment: "Experiment") -> None:
    """Raises ValueError for settings that do not go together."""
    for name in ("bandit", "duel", "switchback"):
        if getattr(experiment, name) is not None and experiment.design != name:
            raise ValueError(f'`{name}` belongs to design = "{name}", and the design is {experiment.design!r}')
    active = {arm: weight for arm, weight in experiment.arms.items() if weight > 0}
    if experiment.design in MIXED:
        if len(active) < 2:
            raise ValueError(f'`arms` has {len(active)} arm with a weight above 0; design = "{experiment.design}" mixes at least 2')
        if max(active.values()) - min(active.values()) > ROUNDED:
            raise ValueError(f'the weights of `arms` differ; arms of design = "{experiment.design}" meet alike: give each the same, or 0')
    if experiment.design in (*MIXED, "switchback") and experiment.equalise:
        raise ValueError(f'`equalise` holds arms that are served side by side; it does not go with design = "{experiment.design}"')
    if experiment.design == "bandit":
        bandit = experiment.bandit or Bandit()
        unknown = [arm for arm in bandit.caps if arm not in experiment.arms]
        if unknown:
            raise ValueError(f"`bandit.caps` names {unknown[0]!r}, which is not an arm; arms are {', '.join(map(repr, experiment.arms))}")
        room = sum(bandit.caps.get(arm, 1.0) for arm in active)
        if room < 1:
            raise ValueError(f"`bandit.caps` leave room for {room:g} of the traffic; raise one, so that they sum to 1 or more")
        low = [arm for arm, cap in bandit.caps.items() if cap < bandit.floor]
        if low:
            raise ValueError(f"`bandit.caps` holds {low[0]!r} to {bandit.caps[low[0]]:g}, below the `floor` of {bandit.floor:g}")
    if experiment.ramp is not None and experiment.design != "ab":
        raise ValueError(f'`ramp` belongs to design = "ab", and the design is {experiment.design!r}')


def planned_units(experiment: "Experiment") -> int:
    """How many observations of all arms are planned, which is where sequences are tightest. Of a switchback they are blocks: no
    more than `planned_units`, nor than two weeks have (100 where these are fewer)."""
    if experiment.design != "switchback":
        return experiment.planned_units
    blocks = TWO_WEEKS_MINUTES / (experiment.switchback or Switchback()).block_minutes
    return min(experiment.planned_units, max(FEWEST_BLOCKS, round(blocks)))


def judged_noun(experiment: "Experiment") -> str:
    """What an experiment is judged by, one of them."""
    return "block" if experiment.design == "switchback" else "unit"


def design_problem(experiment: "Experiment", metrics: Mapping[str, "Metric"]) -> str:
    """Why the primary metric does not fit the design, in words; empty when it does."""
    metric = metrics.get(experiment.primary)
    if metric is None or experiment.design == "ab":
        return ""
    if experiment.design == "bandit" and metric.inferred_as not in ("proportion", "mean"):
        return 'a bandit learns from a proportion or a mean per unit; take such a metric for design = "bandit"'
    if experiment.design in MIXED and (metric.kind == "quantile" or metric.event in ("generation", "image")):
        return 'pictures of several arms are decided between by what people do to them: take a metric of "preference", "click" or "like"'
    if experiment.design == "switchback" and metric.kind == "quantile":
        return "blocks of a switchback are compared by sums: take a proportion, a mean or a ratio"
    return ""
