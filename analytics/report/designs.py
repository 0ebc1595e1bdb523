"""What a design adds to a report, and what it takes from it."""

from collections.abc import Mapping

import msgspec

from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.report.adaptive import AdaptiveReport
from analytics.report.block_contrast import shown_blocks
from analytics.report.board import BoardReport
from analytics.report.position import PositionReport
from analytics.report.preference import PreferenceReport
from analytics.report.schema import MetricArm, MetricReport
from analytics.report.switchback import SwitchbackReport
from analytics.report.switchback_evidence import blocks_of_arms, switchback_report


class Additions(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a report that belong to its design; None where it has none."""

    adaptive: AdaptiveReport | None = None
    preference: PreferenceReport | None = None
    board: BoardReport | None = None
    switchback: SwitchbackReport | None = None
    position: PositionReport | None = None


def additions(experiment: Experiment, facts: ExperimentFacts, compared: list[MetricReport]) -> Additions:
    """For this experiment."""
    return Additions(
        switchback=switchback_report(experiment, facts, compared),
    )


def warnings(added: Additions) -> list[str]:
    """Risks that the parts of a design have found."""
    return [*(added.switchback.warnings if added.switchback else [])]


def shown(experiment: Experiment, facts: ExperimentFacts, name: str, metric: Metric) -> Mapping[str, MetricArm]:
    """What is shown of each arm where its units' own moments would mislead; empty where they do not."""
    if facts.blocks is not None:
        return shown_blocks(facts.blocks, name, metric.kind, list(experiment.arms))
    return {}


def judged_units(experiment: Experiment, facts: ExperimentFacts) -> Mapping[str, int]:
    """How much there is to judge each arm by: units; of a switchback blocks, of grids and duels units that compared the arm."""
    if experiment.design == "switchback":
        return blocks_of_arms(experiment, facts)
    counted = {arm.arm: arm.units for arm in facts.arms}
    return {arm: counted.get(arm, 0) for arm in experiment.arms}
