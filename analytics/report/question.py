"""What is asked of statistics: a metric with what is known of it per arm, and the rules of comparing."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from analytics.experiment import Guardrail
from analytics.facts import Joint, Moments, QuantileFacts, Regressed
from analytics.facts_of_designs import BlockFacts
from analytics.inference.adaptive_table import Table
from analytics.report.schema import MetricArm, Role

Facts = Moments | QuantileFacts


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How comparisons are made: error rate, where sequences are tightest (units of both arms of a comparison), the interval of
    a lift, the correction over a family, and how many looks were planned."""

    alpha: float = 0.05
    planned_units: float = 5000
    lift: Literal["delta", "fieller", "log_delta"] = "delta"
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    looks: int | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One metric to compare: what is known per arm, and why it is asked.

    `joint` per arm turns on CUPED (several covariates: Lin's regression; `regressed`, from rows, takes its place). `periods` (of
    constant weights) and `strata` hold the same per arm for parts of the units: the comparison is then made within each and put
    together. `bounds` of a mean turn on the guaranteed interval. `brief`, for parts of an experiment: without what is planned for or
    stands beside the whole (planned looks, guaranteed interval, exact posterior). `allocation` (a bandit's draws per stretch of
    weights and arm; empty for a quantile) or `blocks` (of a switchback) take the place of all of these; `shown` is then what is
    shown of each arm.
    """

    metric: str
    role: Role
    kind: str
    direction: Literal["up", "down"]
    facts: Mapping[str, Facts]
    guardrail: Guardrail | None = None
    joint: Mapping[str, Joint] | None = None
    regressed: Mapping[str, Regressed] | None = None
    periods: Sequence[Mapping[str, Joint]] = ()
    strata: Sequence[Mapping[str, Joint]] = ()
    bounds: tuple[float, float] | None = None
    cap: float | None = None
    sql: str = ""
    note: str = ""
    brief: bool = False
    allocation: Table | None = None
    blocks: BlockFacts | None = None
    shown: Mapping[str, MetricArm] = msgspec.field(default_factory=dict)
