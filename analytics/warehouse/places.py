"""Pictures by the place in their grid: how many were shown there, and how many of them got something."""

from collections.abc import Mapping

from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import PlaceFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.source import Source


def read_places(warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric]) -> PlaceFacts | None:
    """None where no grid has more than one picture, or the primary metric is not about pictures."""
    return None
