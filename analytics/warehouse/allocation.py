"""A bandit's draws: outcomes per stretch of weights, arm and logged propensity."""

from collections.abc import Mapping
from datetime import datetime

from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import AllocationStretch
from analytics.inference.adaptive import AllocationPeriod
from analytics.inference.adaptive_periods import allocation_periods
from analytics.inference.adaptive_table import Stretch
from analytics.warehouse.client import Warehouse
from analytics.warehouse.controls import first_start, read_controls, weight_periods
from analytics.warehouse.figures import Figures, Stretches
from analytics.warehouse.rows import microseconds
from analytics.warehouse.scope import Scope
from analytics.warehouse.source import current_source
from analytics.warehouse.unit_events import exposure_span, loaded
from analytics.warehouse.unit_states import lay_out
from analytics.warehouse.unit_table import units_of


def read_allocation(figures: Figures, stretches: Stretches, where: str = "1") -> list[AllocationStretch]:
    """One per stretch, units of all metrics that are no quantile; `where`: of those units alone."""
    draws = figures.by_draw(stretches, where)
    return [
        AllocationStretch(started_at=at, weights=weights, draws={name: tables[place] for name, tables in draws.items()})
        for place, (at, weights) in enumerate(stretches)
    ]


def read_mature(
    warehouse: Warehouse, name: str, experiment: Experiment, metrics: Mapping[str, Metric], exposed_before: datetime
) -> list[AllocationPeriod]:
    """The primary metric of the units first exposed before a time, for the next weights; none where it is no
    proportion or mean per unit. Raises LookupError (no tables), OSError."""
    primary = experiment.primary
    if primary not in metrics or metrics[primary].inferred_as not in ("proportion", "mean"):
        return []
    only = {primary: metrics[primary]}
    controls = read_controls(warehouse, Scope(name, None))
    # Nothing from before exposures is asked for: no days of it are loaded.
    with loaded(warehouse, current_source(warehouse, name), [], 0.0) as source:
        span = exposure_span(warehouse, source)
        if not span[0]:
            return []
        layout = lay_out(source, experiment, only, span, 0, brief=True)
        with units_of(warehouse, layout) as units:
            figures = Figures(units, layout, experiment, only)
            started_at = first_start(controls) or figures.first_exposure()
            stretches = weight_periods(controls, experiment, started_at) if started_at else []
            found = read_allocation(figures, stretches, f"exposed_at < {microseconds(exposed_before)}")
    parts = [Stretch(weights=stretch.weights, draws=stretch.draws[primary]) for stretch in found if primary in stretch.draws]
    return allocation_periods(parts, list(experiment.arms))
