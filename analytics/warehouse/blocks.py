"""The blocks of a switchback: what was done in each, and what came of it."""

from collections.abc import Mapping

from analytics.experiment import Experiment, Metric
from analytics.facts import WeightPeriod
from analytics.facts_of_designs import BlockFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.figures import Stretches
from analytics.warehouse.source import Source


def read_blocks(
    warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric], stretches: Stretches
) -> tuple[BlockFacts | None, list[WeightPeriod]]:
    """And what was randomised, counted per arm, for the sample ratio."""
    return None, []
