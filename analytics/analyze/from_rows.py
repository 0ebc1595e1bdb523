"""What needs the rows themselves, not their moments: the bootstrap, and guaranteed intervals of bounded values."""

import msgspec

from analytics.analyze.asked import Asked
from analytics.analyze.measure import Measured, outcome_series
from analytics.analyze.metric_option import Cap
from analytics.analyze.series import whole
from analytics.analyze.table import Table, TableError
from analytics.analyze.units import Units
from analytics.inference import empirical_bernstein
from analytics.inference.bootstrap import bootstrap
from analytics.inference.contrast import Interval
from analytics.report.schema import MetricReport

# Values drawn in all: more would take minutes.
MOST_DRAWN = 5_000_000_000


class Resampled(msgspec.Struct, frozen=True, kw_only=True):
    """A check beside the closed forms: intervals of one comparison by drawing units anew, `draws` times, at its `ci_level`;
    percentiles, and `basic` (reflected). Without covariates, strata and periods."""

    metric: str
    arm: str
    draws: int
    ci_level: float
    difference_ci: Interval
    relative_ci: Interval
    basic_difference_ci: Interval
    basic_relative_ci: Interval


def resample(table: Table, units: Units, asked: Asked, measured: list[Measured], compared: list[MetricReport]) -> list[Resampled]:
    """Every comparison but those of quantiles. Raises ValueError where that would draw too much."""
    if not asked.bootstrap:
        return []
    if asked.bootstrap * units.count > MOST_DRAWN:
        raise ValueError(
            f"--bootstrap {asked.bootstrap:,} of {units.count:,} units draws {asked.bootstrap * units.count:,} values; at most "
            f"{MOST_DRAWN:,} are drawn: give at most {MOST_DRAWN // units.count:,}"
        )
    result = []
    for option, known, metric in zip(asked.metrics, measured, compared, strict=True):
        if known.kind == "quantile":
            continue
        series, _ = outcome_series(table, units, option, known.kind, _cap(known), asked.empty)
        columns = whole(table, units, series)
        by_arm = {arm: [column[units.arm == k] for column in columns] for k, arm in enumerate(units.arms)}
        control = by_arm[asked.control]
        for comparison in metric.comparisons:
            treated = by_arm.get(comparison.arm, [column[:0] for column in columns])
            found = bootstrap(
                control[0],
                treated[0],
                control_below=control[1] if len(control) > 1 else None,
                treated_below=treated[1] if len(treated) > 1 else None,
                draws=asked.bootstrap,
                alpha=1 - comparison.ci_level,
            )
            result.append(
                Resampled(
                    metric=metric.metric,
                    arm=comparison.arm,
                    draws=found.draws,
                    ci_level=comparison.ci_level,
                    difference_ci=found.difference,
                    relative_ci=found.lift,
                    basic_difference_ci=found.basic_difference,
                    basic_relative_ci=found.basic_lift,
                )
            )
    return result


def bounded_means(table: Table, units: Units, asked: Asked, place: int, known: Measured, comparisons: int) -> dict[str, Interval]:
    """Per arm, the guaranteed interval of the mean of a metric with declared bounds, at half of its comparison's share of alpha.

    Rows count in the order of the file. Raises TableError for values outside.
    """
    option = asked.metrics[place]
    bounds = asked.bounds.get(option.name)
    if bounds is None or known.kind != "mean":
        return {}
    series, _ = outcome_series(table, units, option, known.kind, _cap(known), asked.empty)
    (values,) = whole(table, units, series)
    share, tightest = asked.rules.alpha / max(1, comparisons) / 2, asked.rules.planned_units / 2
    try:
        return {arm: empirical_bernstein.bound(values[units.arm == k], *bounds, share, tightest) for k, arm in enumerate(units.arms)}
    except ValueError as error:
        raise TableError(f"{table.path}: column {option.column!r} does not keep to --bounds {bounds[0]:g},{bounds[1]:g}: {error}") from None


def _cap(known: Measured) -> Cap | None:
    """The value that was applied, so that no percentile is looked for again."""
    return None if known.cap is None else Cap(value=known.cap)
