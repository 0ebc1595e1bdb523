"""Can these numbers be trusted? One file per check, `check` runs them all."""

from analytics.checks.all_checks import Bots, Checks, check
from analytics.checks.even_loss import Loss, even_loss
from analytics.checks.exposure import Exposure, exposure
from analytics.checks.failures import Failures, failures
from analytics.checks.holes import Holes, holes
from analytics.checks.latency import LatencyGap, latency_gap
from analytics.checks.left_out import LeftOut, left_out
from analytics.checks.novelty import Fading, Novelty, novelty_check
from analytics.checks.position import Position, position
from analytics.checks.pre_period import PrePeriod, pre_period
from analytics.checks.propensities import Propensities, propensities
from analytics.checks.sample_ratio import SRM_CONCENTRATION, SRM_GATE, SampleRatio, sample_ratio

__all__ = [
    "SRM_CONCENTRATION",
    "SRM_GATE",
    "Bots",
    "Checks",
    "Exposure",
    "Fading",
    "Failures",
    "Holes",
    "LatencyGap",
    "LeftOut",
    "Loss",
    "Novelty",
    "Position",
    "PrePeriod",
    "Propensities",
    "SampleRatio",
    "check",
    "even_loss",
    "exposure",
    "failures",
    "holes",
    "latency_gap",
    "left_out",
    "novelty_check",
    "position",
    "pre_period",
    "propensities",
    "sample_ratio",
]
