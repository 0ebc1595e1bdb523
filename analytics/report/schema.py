"""The report as JSON (design §3.6); text and page are views of it. `None` is "cannot be told", never NaN or infinity."""

from datetime import date, datetime
from typing import Literal

import msgspec

from analytics.checks import Checks, SampleRatio
from analytics.decision_event import PastDecision
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.inference.contrast import Interval
from analytics.report.adaptive import AdaptiveReport
from analytics.report.board import BoardReport
from analytics.report.position import PositionReport
from analytics.report.preference import PreferenceReport
from analytics.report.switchback import SwitchbackReport

Role = Literal["primary", "secondary", "guardrail"]
Action = Literal["keep_running", "ship", "stop", "rollback", "invalid"]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A value with its standard error and interval, in the metric's unit or relative to the control's mean."""

    value: float | None
    se: float | None
    ci: Interval


class AlwaysValid(msgspec.Struct, frozen=True, kw_only=True):
    """Holds at every look. `p_value` counts all comparisons of the family (Bonferroni); `e_value` is of this one alone."""

    relative_ci: Interval
    difference_ci: Interval
    p_value: float
    e_value: float


class BetaBinomial(msgspec.Struct, frozen=True, kw_only=True):
    """Two proportions with exact posteriors, priors Beta(1, 1); losses are differences of proportions."""

    prob_better: float
    expected_loss_ship: float
    expected_loss_keep: float


class Exact(msgspec.Struct, frozen=True, kw_only=True):
    """Two-sided p-values of exact tests, where counts are small; `p_value` of the comparison is then Boschloo's (Fisher's where
    there are too many units for it). None: not computed."""

    fisher: float
    barnard: float | None
    boschloo: float | None


class Guaranteed(msgspec.Struct, frozen=True, kw_only=True):
    """Holds at every look and every sample size (no asymptotics): for proportions and bounded means."""

    difference_ci: Interval
    method: str


class GroupSequential(msgspec.Struct, frozen=True, kw_only=True):
    """The planned look that has been reached (1-based; 0: none yet), its critical value, and what it says."""

    look: int
    looks: int
    information: float
    critical: float | None
    difference_ci: Interval
    crossed: bool


class Bayes(msgspec.Struct, frozen=True, kw_only=True):
    """Posterior of the lift, prior N(0, 0.3^2). `prob_better` and losses know which direction is better; losses are lifts."""

    prob_better: float
    expected_loss_ship: float
    expected_loss_keep: float
    relative_ci: Interval
    beta_binomial: BetaBinomial | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the control. All intervals but `always_valid` have probability `ci_level`, which agrees with
    `adjusted_p_value`. `ok`, for guardrails: True shown to hold, False shown to be broken, None not known yet. `lift_method`: how
    the interval of the lift was made. `e_bh`: rejected by e-BH over all comparisons of the report, at any look."""

    arm: str
    vs: str
    difference: Estimate
    relative: Estimate
    p_value: float | None
    adjusted_p_value: float | None
    always_valid: AlwaysValid | None
    bayes: Bayes | None
    df: float | None
    variance_reduction: float | None
    method: str
    ci_level: float
    ok: bool | None = None
    lift_method: str = ""
    exact: Exact | None = None
    guaranteed: Guaranteed | None = None
    group_sequential: GroupSequential | None = None
    e_bh: bool | None = None


class MetricArm(msgspec.Struct, frozen=True, kw_only=True):
    """`mean` is the ratio or the quantile where the metric is one; `sd` per unit (per event for a quantile)."""

    arm: str
    n: int
    mean: float | None
    sd: float | None


class MetricReport(msgspec.Struct, frozen=True, kw_only=True):
    """A metric in every arm, and every other arm against the control. `direction` says which way is better."""

    metric: str
    role: Role
    kind: str
    direction: Literal["up", "down"]
    arms: list[MetricArm]
    comparisons: list[Comparison]
    margin: float | None = None
    cap: float | None = None
    sql: str = ""


class Heterogeneity(msgspec.Struct, frozen=True, kw_only=True):
    """Cochran's Q over the slices' lifts of one arm: does the effect differ between them? `adjusted_p_value`: over all breakdowns."""

    arm: str
    q: float
    df: int
    p_value: float
    adjusted_p_value: float
    i2: float


class SliceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a dimension: its units, its own sample ratio, the primary metric compared within it."""

    value: str
    units: dict[str, int]
    srm: SampleRatio
    arms: list[MetricArm]
    comparisons: list[Comparison]


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric by one dimension; p-values and intervals are corrected over all slices of it."""

    dimension: str
    slices: list[SliceReport]
    heterogeneity: list[Heterogeneity]
    warnings: list[str] = msgspec.field(default_factory=list)


class PathPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The primary metric over the units first exposed up to the end of `day`, with their totals as they stand now."""

    day: date
    units: dict[str, int]
    expected: dict[str, float]
    srm_e_value: float
    lift: dict[str, float | None]
    always_valid_ci: dict[str, Interval]


class AgePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The effect in the units' `day`-th 24 hours since exposure."""

    day: int
    units: dict[str, int]
    lift: dict[str, float | None]
    ci: dict[str, Interval]


class Flagged(msgspec.Struct, frozen=True, kw_only=True):
    """Events with a flag (`share` of all; `by_flag`: one with two flags is in both), and what they would change.

    `counted`: this report counts them like any other. Else `srm_with` and `primary_with` are the sample ratio and the
    primary metric with them, and `srm_of_clean_units` the sample ratio of the units that have no flagged event; None where
    there are none. `ok` is False, with `warnings`, where those tell something else than the report.
    """

    events: int
    share: float
    by_flag: dict[str, int]
    counted: bool
    srm_with: SampleRatio | None = None
    srm_of_clean_units: SampleRatio | None = None
    primary_with: MetricReport | None = None
    ok: bool = True
    warnings: list[str] = msgspec.field(default_factory=list)


class AllChecks(Checks, frozen=True, kw_only=True):
    """The checks on the facts, and the one that compares two reports."""

    flagged: Flagged


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Per generation, queue and service together, in ms."""

    p50: float | None
    p95: float | None


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: its share and the work done for it."""

    arm: str
    control: bool
    variant: str
    weight: float
    units: int
    generations: int
    images: int
    failures: int
    latency_ms: Latency


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do. `arm`: the one to ship, or the one that lost (rollback, stop); None otherwise. `history`: each change of mind
    that was logged before this report, oldest first."""

    action: Action
    arm: str | None
    reason: str
    risks: list[str]
    history: list[PastDecision] = msgspec.field(default_factory=list)


class SufficientStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """All that `build_report` was given: the same call gives the same report, bit for bit."""

    experiment: Experiment
    metrics: dict[str, Metric]
    facts: ExperimentFacts


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one experiment at one moment.

    `data_as_of`: when the latest event in it was received; `late_events`: received over 72 hours after they occurred;
    `flagged`: whether flagged events are counted; `formulas`: each method that it uses, and the page with its formula.
    """

    experiment: str
    route: str
    design: str
    as_of: datetime
    started_at: datetime | None
    data_as_of: datetime | None
    events_read: int
    late_events: int
    flagged: Literal["excluded", "included"]
    method_notes: list[str]
    arms: list[ArmReport]
    checks: AllChecks
    metrics: list[MetricReport]
    decision: Decision
    breakdowns: list[Breakdown]
    path: list[PathPoint]
    novelty: list[AgePoint]
    formulas: dict[str, str] = msgspec.field(default_factory=dict)
    adaptive: AdaptiveReport | None = None
    preference: PreferenceReport | None = None
    board: BoardReport | None = None
    switchback: SwitchbackReport | None = None
    position: PositionReport | None = None
    sufficient_statistics: SufficientStatistics
