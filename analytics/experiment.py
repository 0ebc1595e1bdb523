"""The words of an experiment: arms and weights, metrics, guardrails, as the configuration states them."""

import math
from typing import Annotated, Literal

import msgspec

from analytics.designs import Bandit, Design, Duel, Ramp, Switchback, check_design

MetricKind = Literal["proportion", "mean", "ratio", "quantile"]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}\Z")]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Percentile = Annotated[str, msgspec.Meta(pattern=r"^p[0-9]{1,2}(\.[0-9]+)?\Z")]
Filter = dict[str, str | tuple[str, ...]]

BUILT_IN_METRICS = ("latency_p95_ms", "failure_rate")


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number per unit, from events of `event` within `window_hours` after the unit's first exposure.

    proportion: did the unit do it at all; mean: the sum of `value` (or the count where `value` is not sent);
    ratio: count of `event` over count of `denominator`, both per unit (delta method); quantile: of `value`, level `quantile`.
    `per` below the unit makes a share or a mean of it, as a ratio clustered by unit: of the unit's events (a mean of `value`),
    of its generations or its images (a share of those with `event`). `where` keeps the events with these attributes, in
    `denominator_where` those of the denominator. `cap` bounds a unit's total (quantile: an event's value), as a number or as the
    percentile of all arms together (`p99`). `covariate_days`: what the unit did in so many days before its exposure takes its
    share of the noise (CUPED), and so do those of `covariates`, other metrics. `bounds` of a mean per unit give it the
    interval that is guaranteed at any sample size.
    """

    kind: MetricKind
    event: str
    denominator: str | None = None
    per: Literal["unit", "event", "generation", "image"] = "unit"
    where: Filter = msgspec.field(default_factory=dict)
    denominator_where: Filter = msgspec.field(default_factory=dict)
    window_hours: Positive | None = None
    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    cap: Positive | Percentile | None = None
    direction: Literal["up", "down"] = "up"
    covariate_days: Annotated[float, msgspec.Meta(gt=0, le=365)] | None = None
    covariates: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if (self.kind == "ratio") != (self.denominator is not None):
            raise ValueError('`denominator` (an event kind) belongs to kind = "ratio", and is needed there')
        if (self.kind == "quantile") != (self.quantile is not None):
            raise ValueError('`quantile` (0 < level < 1) belongs to kind = "quantile", and is needed there')
        if self.denominator_where and self.denominator is None:
            raise ValueError('`denominator_where` filters the `denominator` of kind = "ratio", and there is none')
        fitting = {"unit": ("proportion", "mean", "ratio", "quantile"), "event": ("mean",)}.get(self.per, ("proportion",))
        if self.kind not in fitting:
            raise ValueError(f"`per` = {self.per!r} belongs to kind = {' or '.join(map(repr, fitting))}, not {self.kind!r}")
        if self.bounds is not None and (self.per != "unit" or self.kind != "mean" or not self.bounds[0] < self.bounds[1]):
            raise ValueError('`bounds` = [low, high], low < high, belongs to kind = "mean" per unit')
        if self.covariates and self.covariate_days is None:
            raise ValueError("`covariates` are taken from before the exposure: say over how many days with `covariate_days`")
        if self.covariate_days is not None and self.kind == "quantile":
            raise ValueError('`covariate_days` does not go with kind = "quantile": CUPED adjusts means')

    @property
    def inferred_as(self) -> MetricKind:
        """The kind whose inference applies: a share or a mean below the unit is a ratio of totals per unit."""
        return "ratio" if self.per != "unit" else self.kind


class Guardrail(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Must not get worse by more than `margin`, relative to control. `direction` says which way is better."""

    margin: Annotated[float, msgspec.Meta(gt=0, le=10)]
    direction: Literal["up", "down"] = "down"


class Exclusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units that a report leaves out, and counts: by name (shell patterns), by the context of their first exposure, or with more
    events in one hour than a person makes."""

    units: tuple[str, ...] = ()
    context: Filter = msgspec.field(default_factory=dict)
    events_per_hour_above: Positive | None = None


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A comparison of variants on one route. `arms` maps an arm (the name of a variant) to its weight.

    `looks`: how many equally spaced looks up to `planned_units` were planned (group-sequential bounds beside those for any
    look). `breakdowns`, `strata`: keys of the exposure's context, to report by, and to post-stratify by.
    `equalise`: faster arms are held back until the slowest would answer, so that pictures are compared and not waits.
    `on_win`, `on_harm`: what a report's recommendation to ship, or to roll back, does by itself; `on_harm` None: it rolls back
    where the experiment ramps or ships by itself, or judges a round's candidate.
    """

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
    lift: Literal["delta", "fieller", "log_delta"] = "delta"
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    looks: Annotated[int, msgspec.Meta(ge=2, le=50)] | None = None
    breakdowns: tuple[str, ...] = ()
    strata: str | None = None
    exclude: Exclusion = msgspec.field(default_factory=Exclusion)
    equalise: bool = False
    bandit: Bandit | None = None
    duel: Duel | None = None
    switchback: Switchback | None = None
    ramp: Ramp | None = None
    on_win: Literal["ask", "ship"] = "ask"
    on_harm: Literal["ask", "rollback"] | None = None

    def __post_init__(self) -> None:
        check_weights(self.arms)
        if len(self.arms) < 2:
            raise ValueError(f"`arms` names {len(self.arms)} arm; an experiment compares at least 2")
        if self.control not in self.arms:
            raise ValueError(f"`control` is {self.control!r}, which is not an arm; arms are {', '.join(map(repr, self.arms))}")
        check_design(self)


def check_weights(weights: dict[str, float]) -> None:
    """Raises ValueError unless all weights are in [0, 1] and sum to 1."""
    for arm, weight in weights.items():
        if not (math.isfinite(weight) and 0 <= weight <= 1):
            raise ValueError(f"the weight of arm {arm!r} is {weight}; give a number from 0 to 1")
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the weights of `arms` sum to {total:g}; make them sum to 1")
