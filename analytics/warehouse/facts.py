"""Sufficient statistics of an experiment, computed inside the warehouse: no row of a unit comes to Python."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from analytics.events import flag_names
from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, QuantileFacts, WeightPeriod, WithFlagged
from analytics.warehouse.client import Warehouse
from analytics.warehouse.controls import experiment_names, first_start, read_controls, read_definition, weight_periods
from analytics.warehouse.moments import exposed, exposed_once, read_moments
from analytics.warehouse.quantiles import LATENCY, latency_median, metric_events, read_quantile
from analytics.warehouse.rows import from_microseconds, microseconds
from analytics.warehouse.scope import Scope

__all__ = ["LATE_HOURS", "experiment_names", "read_definition", "read_facts"]

LATE_HOURS = 72
BOT_FLAG = 1


class _Totals(NamedTuple):
    """Of all events in scope."""

    events: int
    flagged: int
    bot_units: int
    late: int
    last_received: int


class _Exposure(NamedTuple):
    """Units by arm and weight period."""

    units: dict[str, int]
    by_period: list[dict[str, int]]
    inverse: dict[str, float | None]
    multiple: int


_Stretches = list[tuple[datetime, dict[str, float]]]


def read_facts(
    warehouse: Warehouse,
    name: str,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    as_of: datetime | None = None,
    *,
    flagged: bool = False,
) -> ExperimentFacts:
    """All that a report on experiment `name` needs, from events received by `as_of` (None: all).

    An event counts once, by event_id. Its time is `occurred_at`, or `received_at` if that is earlier (a clock ahead). A unit
    belongs to the arm of its exposures; with exposures in two arms, in any arms, it is counted in `multiple_exposure` and left
    out of all else. With `flagged`, flagged events count like any other; else they count nowhere, and `with_flagged` tells the
    difference. A unit's total is over its events that count, from its first exposure on, for at most `window_hours`; kinds
    that the gateway itself logs (generation, image) count from the start, as their order against the exposure is the
    gateway's own. A unit without events counts as 0; `cap` bounds the unit's total (quantile: the event's value).
    `preference` events count only where the winner's arm is the unit's. Late events: received over 72 hours after they
    occurred. A quantile without any event in an arm has no entry for that arm. Raises LookupError (no tables), OSError.
    """
    scope = Scope(name, as_of, flagged)
    arms = list(experiment.arms)
    totals = _totals(warehouse, scope)
    controls = read_controls(warehouse, scope)
    started_at = first_start(controls) or _first_exposure(warehouse, scope, arms)
    stretches = weight_periods(controls, experiment, started_at) if started_at else []
    exposure = _exposure(warehouse, scope, arms, [at for at, _ in stretches])
    result = read_moments(warehouse, scope, arms, {key: m for key, m in metrics.items() if m.kind != "quantile"})
    tables: dict[str, dict[str, Moments | QuantileFacts]] = {key: dict(by_arm) for key, by_arm in result.metrics.items()}
    for key, metric in metrics.items():
        if metric.kind == "quantile" and metric.quantile is not None:
            tables[key] = dict(read_quantile(warehouse, scope, arms, metric_events(metric), metric.quantile))
    p95 = read_quantile(warehouse, scope, arms, LATENCY, 0.95)
    tables["latency_p95_ms"] = dict(p95)
    medians = latency_median(warehouse, scope, arms)
    digests = _digests(warehouse, scope)
    return ExperimentFacts(
        experiment=name,
        started_at=started_at,
        data_as_of=from_microseconds(totals.last_received) if totals.events else None,
        events_read=totals.events,
        flagged_events=totals.flagged,
        bot_units=totals.bot_units,
        late_events=totals.late,
        multiple_exposure=exposure.multiple,
        generations_without_exposure=_generations_without_exposure(warehouse, scope),
        arms=[
            ArmFacts(
                arm=arm,
                units=exposure.units.get(arm, 0),
                generations=result.generations.get(arm, 0),
                images=result.images.get(arm, 0),
                failures=result.failures.get(arm, 0),
                latency_p50_ms=medians.get(arm),
                latency_p95_ms=p95[arm].value if arm in p95 else None,
                variant_digest=digests.get(arm, ""),
                mean_inverse_propensity=exposure.inverse.get(arm),
            )
            for arm in arms
        ],
        periods=_periods(stretches, exposure, arms),
        metrics=tables,
        latency=result.latency,
        flags=_flags(warehouse, scope) if totals.flagged else {},
        flagged_counted=flagged,
        with_flagged=_with_flagged(warehouse, name, experiment, metrics, as_of, stretches) if totals.flagged and not flagged else None,
    )


def _with_flagged(
    warehouse: Warehouse, name: str, experiment: Experiment, metrics: Mapping[str, Metric], as_of: datetime | None, stretches: _Stretches
) -> WithFlagged:
    """What the sample ratio and the primary metric are made of, flagged events counted."""
    scope, arms, key = Scope(name, as_of, flagged=True), list(experiment.arms), experiment.primary
    starts = [at for at, _ in stretches]
    exposure, clean = (_exposure(warehouse, scope, arms, starts, clean=clean) for clean in (False, True))
    metric = metrics.get(key)
    primary: dict[str, Moments | QuantileFacts]
    if key == "latency_p95_ms":
        primary = dict(read_quantile(warehouse, scope, arms, LATENCY, 0.95))
    elif metric is not None and metric.quantile is not None:
        primary = dict(read_quantile(warehouse, scope, arms, metric_events(metric), metric.quantile))
    else:
        primary = dict(read_moments(warehouse, scope, arms, {key: metric} if metric else {}).metrics.get(key, {}))
    return WithFlagged(periods=_periods(stretches, exposure, arms), clean_periods=_periods(stretches, clean, arms), primary=primary)


def _periods(stretches: _Stretches, exposure: _Exposure, arms: list[str]) -> list[WeightPeriod]:
    return [
        WeightPeriod(started_at=at, weights=weights, units={arm: by_arm.get(arm, 0) for arm in arms})
        for (at, weights), by_arm in zip(stretches, exposure.by_period, strict=True)
    ]


def _flags(warehouse: Warehouse, scope: Scope) -> dict[str, int]:
    """Events by flag; an event with two flags is in both."""
    sql = f"SELECT flags, count() FROM {scope.events('event_id, flags', '1')} WHERE flags != 0 GROUP BY flags ORDER BY flags"
    counts: dict[str, int] = {}
    for flags, count in warehouse.query(sql, scope.parameters):
        for flag in flag_names(int(flags)):
            counts[flag] = counts.get(flag, 0) + int(count)
    return dict(sorted(counts.items()))


def _totals(warehouse: Warehouse, scope: Scope) -> _Totals:
    events = scope.events("event_id, flags, unit, occurred_at, received_at", "1")
    sql = f"""
        SELECT count(), countIf(flags != 0), uniqExactIf(unit, bitAnd(flags, {BOT_FLAG}) != 0 AND unit != ''),
            countIf(toUnixTimestamp64Micro(received_at) - toUnixTimestamp64Micro(occurred_at) > {LATE_HOURS} * 3600000000),
            max(toUnixTimestamp64Micro(received_at))
        FROM {events}"""
    return _Totals(*warehouse.query(sql, scope.parameters)[0])


def _first_exposure(warehouse: Warehouse, scope: Scope, arms: list[str]) -> datetime | None:
    sql = f"SELECT count(), min(exposed_at) FROM {exposed_once(scope)}"
    ((units, at),) = warehouse.query(sql, {**scope.parameters, "arms": arms})
    return from_microseconds(at) if units else None


def _exposure(warehouse: Warehouse, scope: Scope, arms: list[str], starts: list[datetime], *, clean: bool = False) -> _Exposure:
    """Exposures before the first of `starts` belong to the first period. With `clean`, units with a flagged event are left out."""
    if not starts:
        # Nobody was exposed when the start was looked for; who was since, while a sink filled the table, is in the next report.
        return _Exposure({}, [], {}, 0)
    flagged = scope.events("event_id, unit", "flags != 0 AND unit != ''")
    where = f"WHERE unit NOT IN (SELECT unit FROM {flagged})" if clean else ""
    sql = f"""
        SELECT several, first_arm, greatest(1, arrayCount(s -> s <= exposed_at, {{starts:Array(Int64)}})) AS period,
            count(), sum(1 / nullIf(chance, 0)), count(nullIf(chance, 0))
        FROM {exposed(scope)} {where} GROUP BY several, first_arm, period"""
    parameters = {**scope.parameters, "starts": [microseconds(at) for at in starts]}
    by_period: list[dict[str, int]] = [{} for _ in starts]
    units: dict[str, int] = {}
    inverse: dict[str, tuple[float, int]] = {}
    multiple = 0
    for several, arm, period, count, inverse_sum, with_chance in warehouse.query(sql, parameters):
        if arm in arms:
            # The draw is checked where it was made: a ramp that later moves a unit says nothing against its first arm.
            by_period[period - 1][arm] = by_period[period - 1].get(arm, 0) + count
        if several:
            multiple += count
        elif arm in arms:
            units[arm] = units.get(arm, 0) + count
            total, known = inverse.get(arm, (0.0, 0))
            inverse[arm] = (total + (inverse_sum or 0.0), known + with_chance)
    means = {arm: total / known if known else None for arm, (total, known) in inverse.items()}
    return _Exposure(units, by_period, means, multiple)


def _generations_without_exposure(warehouse: Warehouse, scope: Scope) -> int:
    generations = scope.events("event_id, unit", f"kind = 'generation' AND {scope.counted}")
    exposures = scope.events("event_id, unit", f"kind = 'exposure' AND {scope.counted}")
    rows = warehouse.query(f"SELECT count() FROM {generations} WHERE unit NOT IN (SELECT unit FROM {exposures})", scope.parameters)
    return int(rows[0][0])


def _digests(warehouse: Warehouse, scope: Scope) -> dict[str, str]:
    """The variant that each arm served last."""
    columns = "event_id, arm, variant_digest, occurred_at"
    events = scope.events(columns, "kind IN ('exposure', 'generation', 'image') AND variant_digest != ''")
    rows: list[tuple[Any, ...]] = warehouse.query(
        f"SELECT arm, argMax(variant_digest, (occurred_at, event_id)) FROM {events} GROUP BY arm", scope.parameters
    )
    return {str(arm): str(digest) for arm, digest in rows}
