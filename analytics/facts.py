"""What the warehouse hands to statistics: sufficient statistics per arm, never rows of units."""

from datetime import datetime

import msgspec


class Moments(msgspec.Struct, frozen=True, kw_only=True, tag="moments"):
    """Per-unit totals of one metric in one arm. `m2` is the centred sum of squares; `comoment` that of products.

    For a ratio metric `mean` is of the numerator and the `denominator_*` fields are filled; else they are 1, 0, 0.
    """

    n: int
    mean: float
    m2: float
    denominator_mean: float = 1.0
    denominator_m2: float = 0.0
    comoment: float = 0.0


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

    `clean_periods`: units per weight period without those that have a flagged event.
    """

    periods: list[WeightPeriod]
    clean_periods: list[WeightPeriod]
    primary: dict[str, Moments | QuantileFacts]


class ExperimentFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a report needs. `metrics[name][arm]`; `latency[arm]`: mean latency in ms per unit.

    `multiple_exposure` units saw more than one arm: they are left out of every figure of the arms. `flagged_events` have
    any flag set, `flags[name]` that one. They are left out of every figure of the arms unless `flagged_counted`.
    `with_flagged` is what the figures would be with them; None where there are none, or they are counted anyway.
    `bot_units` are units with a bot flag.
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
