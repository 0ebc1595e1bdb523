"""What a design adds to a report, and what it takes from it."""

from collections.abc import Mapping

import msgspec

from analytics.designs import MIXED
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.inference.adaptive_table import Table
from analytics.report.adaptive import AdaptiveReport
from analytics.report.adaptive_contrast import shown_arms
from analytics.report.adaptive_evidence import adaptive_report
from analytics.report.block_contrast import shown_blocks
from analytics.report.board import BoardReport
from analytics.report.position import PositionReport
from analytics.report.position_evidence import position_report
from analytics.report.preference import PreferenceReport
from analytics.report.preference_evidence import preference_report, voters
from analytics.report.schema import MetricArm, MetricReport
from analytics.report.standings import board
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
        adaptive=adaptive_report(experiment, facts),
        preference=preference_report(experiment, facts),
        switchback=switchback_report(experiment, facts, compared),
        position=position_report(experiment, facts.places),
        board=board(experiment, facts.preference.duels) if facts.preference else None,
    )


def warnings(added: Additions) -> list[str]:
    """Risks that the parts of a design have found."""
    return [
        *(added.switchback.warnings if added.switchback else []),
        *(added.adaptive.warnings if added.adaptive else []),
        *(added.preference.warnings if added.preference else []),
        *(added.board.warnings if added.board else []),
    ]


def shown(experiment: Experiment, facts: ExperimentFacts, name: str, metric: Metric, drawn: Table | None = None) -> Mapping[str, MetricArm]:
    """What is shown of each arm where its units' own moments would mislead; empty where they do not. `drawn`: of a bandit."""
    if drawn is not None:
        return shown_arms(drawn, metric.kind, list(experiment.arms))
    if facts.blocks is not None:
        return shown_blocks(facts.blocks, name, metric.kind, list(experiment.arms))
    return {}


def judged_units(experiment: Experiment, facts: ExperimentFacts) -> Mapping[str, int]:
    """How much there is to judge each arm by: units; of a switchback blocks, of grids and duels units that compared the arm.
    An arm of these or of a bandit that is retired, or not there yet, is not waited for."""
    if experiment.design == "switchback":
        return blocks_of_arms(experiment, facts)
    counted = voters(experiment, facts) if experiment.design in MIXED else {arm.arm: arm.units for arm in facts.arms}
    if experiment.design in ("bandit", *MIXED):
        now = facts.periods[-1].weights if facts.periods else experiment.arms
        return {arm: counted.get(arm, 0) for arm in experiment.arms if now.get(arm, 0.0) > 0 or arm == experiment.control}
    return {arm: counted.get(arm, 0) for arm in experiment.arms}
