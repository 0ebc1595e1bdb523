"""What designs beside "ab" need of the warehouse, put into the facts."""

from collections.abc import Mapping

import msgspec

from analytics.designs import MIXED
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.warehouse.allocation import read_allocation
from analytics.warehouse.blocks import with_blocks
from analytics.warehouse.client import Warehouse
from analytics.warehouse.figures import Figures, Stretches
from analytics.warehouse.places import read_places
from analytics.warehouse.preferences import with_preferences
from analytics.warehouse.source import Source


def with_design(
    facts: ExperimentFacts,
    warehouse: Warehouse,
    source: Source,
    figures: Figures,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    stretches: Stretches,
) -> ExperimentFacts:
    """The facts with those of the experiment's design. Where people are not what is randomised, `periods` count what is."""
    facts = msgspec.structs.replace(facts, places=read_places(warehouse, source, experiment, metrics))
    if experiment.design == "bandit":
        return msgspec.structs.replace(facts, allocation=read_allocation(figures, stretches))
    if experiment.design in MIXED:
        return with_preferences(facts, warehouse, source, experiment, metrics, stretches)
    if experiment.design == "switchback":
        return with_blocks(facts, warehouse, source, experiment, metrics, stretches)
    return facts
