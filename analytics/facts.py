"""What the warehouse hands to statistics: sufficient statistics per arm, never rows of units."""

from datetime import date, datetime

import msgspec

from analytics.decision_event import PastDecision
from analytics.facts_of_designs import AllocationStretch, BlockFacts, PlaceFacts, PreferenceFacts
from analytics.moments import Joint as Joint
from analytics.moments import Moments as Moments


class Regressed(msgspec.Struct, frozen=True, kw_only=True, tag="regressed"):
    """One arm's outcome y regressed on p covariates x, within the arm alone (Lin 2013: the interacted regression is one per arm).

    `mean`, `m2`: of y per unit (a ratio: of R + (y - R d)/mean(d)). `covariate_means` [p] of the arm; `coefficients` [p];
    `covariance` [1 + p][1 + p]: of the prediction at the arm's own covariate means and of the coefficients (HC2 from rows,
    homoskedastic from moments).
    """

    n: int
    mean: float
    m2: float
    covariate_means: tuple[float, ...]
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    covariates: tuple[str, ...] = ()


class QuantileFacts(msgspec.Struct, frozen=True, kw_only=True, tag="quantile"):
    """One quantile of events clustered by unit (Deng, Knoblich & Lu 2018).

    `value`, `low`, `high` are sample quantiles (inverted cdf) at level, level - h, level + h with
    h = z_.975 sqrt(level (1 - level) / events); per unit: `below` counts events <= value, `count` counts events.
    """

    level: float
    events: int
    units: int
    value: float
    low: float
    high: float
    below_mean: float
    below_m2: float
    count_mean: float
    count_m2: float
    comoment: float


class ArmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: exposed units, work done for them, and latency (queue + service) per generation in ms."""

    arm: str
    units: int
    generations: int
    images: int
    failures: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    variant_digest: str
    mean_inverse_propensity: float | None
    inverse_propensity_m2: float | None = None
    exposed_without_generation: int = 0


class WeightPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time with constant weights: the units first exposed in it, per arm."""

    started_at: datetime
    weights: dict[str, float]
    units: dict[str, int]


class GalleryPicture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture for the report's gallery: the arms of one row share prompt and seed."""

    prompt: str
    seed: int
    arm: str
    png: bytes


class WithFlagged(msgspec.Struct, frozen=True, kw_only=True):
    """The same experiment with flagged events counted like any other: units per weight period, the primary metric per arm.

    `clean_periods`: units per weight period without those that have a flagged event. `allocation`: a bandit's draws of that metric.
    """

    periods: list[WeightPeriod]
    clean_periods: list[WeightPeriod]
    primary: dict[str, Moments | QuantileFacts]
    allocation: list[AllocationStretch] = msgspec.field(default_factory=list)


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The units with one value of a dimension: how many per arm in each weight period, and the primary metric per arm."""

    value: str
    units: list[dict[str, int]]
    primary: dict[str, Moments | QuantileFacts]


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The units first exposed on one day (UTC): how many per arm in each weight period, the primary metric as it stands now."""

    day: date
    units: list[dict[str, int]]
    primary: dict[str, Moments]


class Age(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric of one day of life: events of the units' `day`-th 24 hours since exposure (0: the first), over the
    units that have lived through it."""

    day: int
    primary: dict[str, Moments]


class ExperimentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report needs. `metrics[name][arm]`; `latency[arm]`: mean latency in ms per unit.

    `multiple_exposure` units saw more than one arm: they are left out of every figure of the arms. `flagged_events` have
    any flag set, `flags[name]` that one. They are left out of every figure of the arms unless `flagged_counted`.
    `with_flagged` is what the figures would be with them; None where there are none, or they are counted anyway.
    `bot_units` are units with a bot flag.

    `joint[metric][arm]`: for metrics with covariates. `by_period[metric][i][arm]`: the units first exposed in `periods[i]`, where
    weights changed; `by_stratum[metric][stratum][arm]`: where the experiment is post-stratified. `breakdowns[dimension]`,
    `cohorts` and `ages` are of the primary metric. `pre_period[arm]`: what the primary metric was per unit in the `pre_period_days`
    before exposure; empty where nobody did anything then. `excluded[rule][arm]` units are left out by the experiment's rules,
    `training_units[arm]` because their feedback trained an arm of this experiment. `caps[metric]`: the value that a percentile
    cap came to. `sql[metric]`: what the metric became. `decisions`: what
    reports recommended, each time that it changed; in no figure. `allocation` (bandit), `preference` (interleave, duel) and
    `blocks` (switchback) are there in their designs, `places` where grids have more than one picture.
    """

    experiment: str
    started_at: datetime | None
    data_as_of: datetime | None
    events_read: int
    flagged_events: int
    bot_units: int
    late_events: int
    multiple_exposure: int
    generations_without_exposure: int
    arms: list[ArmFacts]
    periods: list[WeightPeriod]
    metrics: dict[str, dict[str, Moments | QuantileFacts]]
    latency: dict[str, Moments]
    flags: dict[str, int] = msgspec.field(default_factory=dict)
    flagged_counted: bool = False
    with_flagged: WithFlagged | None = None
    joint: dict[str, dict[str, Joint]] = msgspec.field(default_factory=dict)
    by_period: dict[str, list[dict[str, Joint]]] = msgspec.field(default_factory=dict)
    by_stratum: dict[str, dict[str, dict[str, Joint]]] = msgspec.field(default_factory=dict)
    breakdowns: dict[str, list[Slice]] = msgspec.field(default_factory=dict)
    cohorts: list[Cohort] = msgspec.field(default_factory=list)
    ages: list[Age] = msgspec.field(default_factory=list)
    pre_period: dict[str, Moments] = msgspec.field(default_factory=dict)
    pre_period_days: float = 14.0
    excluded: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    training_units: dict[str, int] = msgspec.field(default_factory=dict)
    caps: dict[str, float] = msgspec.field(default_factory=dict)
    sql: dict[str, str] = msgspec.field(default_factory=dict)
    decisions: list[PastDecision] = msgspec.field(default_factory=list)
    allocation: list[AllocationStretch] = msgspec.field(default_factory=list)
    preference: PreferenceFacts | None = None
    blocks: BlockFacts | None = None
    places: PlaceFacts | None = None
