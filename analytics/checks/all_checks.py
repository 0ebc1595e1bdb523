"""Every check of an experiment, in one struct."""

from collections.abc import Sequence

import msgspec

from analytics.checks.exposure import Exposure, exposure
from analytics.checks.failures import Failures, failures, nothing_known
from analytics.checks.holes import Holes, holes
from analytics.checks.latency import LatencyGap, latency_gap
from analytics.checks.left_out import LeftOut, left_out
from analytics.checks.novelty import Novelty, novelty_check
from analytics.checks.position import Position, position
from analytics.checks.pre_period import PrePeriod, pre_period
from analytics.checks.propensities import Propensities, propensities
from analytics.checks.sample_ratio import SampleRatio, sample_ratio
from analytics.facts import ExperimentFacts


class Bots(msgspec.Struct, frozen=True, kw_only=True):
    """Suspicious traffic: events with any flag (left out of the metrics unless `counted`), and units that look like bots."""

    flagged_events: int
    units: int
    flagged_share: float
    counted: bool = False


class Checks(msgspec.Struct, frozen=True, kw_only=True):
    """What has to hold before a number is believed."""

    srm: SampleRatio
    exposure: Exposure
    latency_gap: LatencyGap
    bots: Bots
    propensities: Propensities
    holes: Holes
    left_out: LeftOut
    pre_period: PrePeriod
    novelty: Novelty
    failures: Failures = msgspec.field(default_factory=nothing_known)
    position: Position | None = None


def check(facts: ExperimentFacts, arms: Sequence[str], control: str, alpha: float) -> Checks:
    """All checks of an experiment; `arms` in the order of its definition."""
    flagged = facts.flagged_events / facts.events_read if facts.events_read else 0.0
    drawn = propensities(facts)
    return Checks(
        srm=sample_ratio(facts.periods, arms),
        exposure=exposure(facts, drawn),
        latency_gap=latency_gap(facts.latency, arms, control, alpha),
        bots=Bots(flagged_events=facts.flagged_events, units=facts.bot_units, flagged_share=flagged, counted=facts.flagged_counted),
        propensities=drawn,
        holes=holes(facts, arms),
        left_out=left_out(facts, arms),
        pre_period=pre_period(facts, arms, control),
        novelty=novelty_check(facts, arms, control),
        failures=failures(facts, arms, control),
        position=position(facts.places, arms),
    )
