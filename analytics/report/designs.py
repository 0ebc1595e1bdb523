"""What a design adds to a report, and what it takes from it."""

from collections.abc import Mapping

import msgspec

from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts
from analytics.report.adaptive import AdaptiveReport
from analytics.report.board import BoardReport
from analytics.report.position import PositionReport
from analytics.report.preference import PreferenceReport
from analytics.report.schema import MetricReport
from analytics.report.switchback import SwitchbackReport


class Additions(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a report that belong to its design; None where it has none."""

    adaptive: AdaptiveReport | None = None
    preference: PreferenceReport | None = None
    board: BoardReport | None = None
    switchback: SwitchbackReport | None = None
    position: PositionReport | None = None


def additions(experiment: Experiment, facts: ExperimentFacts, compared: list[MetricReport]) -> Additions:
    """For this experiment."""
    return Additions()


def judged_units(experiment: Experiment, facts: ExperimentFacts) -> Mapping[str, int]:
    """How much there is to judge each arm by: units; of a switchback blocks, of grids and duels units that compared the arm."""
    counted = {arm.arm: arm.units for arm in facts.arms}
    return {arm: counted.get(arm, 0) for arm in experiment.arms}
