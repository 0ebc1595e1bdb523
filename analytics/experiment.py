"""The words of an experiment: arms and weights, metrics, guardrails, as the configuration states them."""

import math
from typing import Annotated, Literal

import msgspec

Design = Literal["ab", "interleave", "duel", "bandit", "switchback"]
MetricKind = Literal["proportion", "mean", "ratio", "quantile"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}\Z")]
Positive = Annotated[float, msgspec.Meta(gt=0)]

BUILT_IN_METRICS = ("latency_p95_ms", "failure_rate")


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number per unit, from events of `event` within `window_hours` after the unit's first exposure.

    proportion: did the unit do it at all; mean: the sum of `value` (or the count where `value` is not sent);
    ratio: count of `event` over count of `denominator`, both per unit (delta method); quantile: of `value`, level `quantile`.
    """

    kind: MetricKind
    event: str
    denominator: str | None = None
    per: Literal["unit"] = "unit"
    window_hours: Positive | None = None
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    cap: Positive | None = None
    direction: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        if (self.kind == "ratio") != (self.denominator is not None):
            raise ValueError('`denominator` (an event kind) belongs to kind = "ratio", and is needed there')
        if (self.kind == "quantile") != (self.quantile is not None):
            raise ValueError('`quantile` (0 < level < 1) belongs to kind = "quantile", and is needed there')


class Guardrail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Must not get worse by more than `margin`, relative to control. `direction` says which way is better."""

    margin: Annotated[float, msgspec.Meta(gt=0, le=10)]
    direction: Literal["up", "down"] = "down"


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison of variants on one route. `arms` maps an arm (the name of a variant) to its weight."""

    route: str
    arms: dict[str, float]
    control: str
    primary: str
    unit: Literal["user"] = "user"
    design: Design = "ab"
    secondary: tuple[str, ...] = ()
    guardrails: dict[str, Guardrail] = msgspec.field(default_factory=dict)
    salt: str = ""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=0.5)] = 0.05
    planned_units: Annotated[int, msgspec.Meta(ge=10)] = 5000
    minimum_units: Annotated[int, msgspec.Meta(ge=0)] = 100
    minimum_hours: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    autostart: bool = False

    def __post_init__(self) -> None:
        check_weights(self.arms)
        if len(self.arms) < 2:
            raise ValueError(f"`arms` names {len(self.arms)} arm; an experiment compares at least 2")
        if self.control not in self.arms:
            raise ValueError(f"`control` is {self.control!r}, which is not an arm; arms are {', '.join(map(repr, self.arms))}")


def check_weights(weights: dict[str, float]) -> None:
    """Raises ValueError unless all weights are in [0, 1] and sum to 1."""
    for arm, weight in weights.items():
        if not (math.isfinite(weight) and 0 <= weight <= 1):
            raise ValueError(f"the weight of arm {arm!r} is {weight}; give a number from 0 to 1")
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the weights of `arms` sum to {total:g}; make them sum to 1")
