"""A bandit's draws: outcomes per stretch of weights, arm and logged propensity."""

from collections.abc import Mapping
from datetime import datetime

from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import AllocationStretch
from analytics.inference.adaptive import AllocationPeriod
from analytics.warehouse.client import Warehouse
from analytics.warehouse.figures import Figures, Stretches


def read_allocation(figures: Figures, stretches: Stretches) -> list[AllocationStretch]:
    """One per stretch, units of all metrics that are no quantile."""
    return []


def read_mature(
    warehouse: Warehouse, name: str, experiment: Experiment, metrics: Mapping[str, Metric], exposed_before: datetime
) -> list[AllocationPeriod]:
    """The primary metric of the units first exposed before a time, for the next weights. Raises LookupError (no tables), OSError."""
    return []
