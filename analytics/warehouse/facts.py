"""Sufficient statistics of an experiment, computed inside the warehouse: no row of a unit comes to Python."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import msgspec

from analytics.designs import MIXED
from analytics.events import flag_names
from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, QuantileFacts, WithFlagged
from analytics.warehouse.allocation import read_allocation
from analytics.warehouse.client import Warehouse
from analytics.warehouse.controls import experiment_names, first_start, read_controls, read_definition, weight_periods
from analytics.warehouse.decisions import read_decisions
from analytics.warehouse.designs import with_design
from analytics.warehouse.figures import Figures, Stretches
from analytics.warehouse.metric_sql import metric_sql
from analytics.warehouse.rollups import LATE_HOURS
from analytics.warehouse.rows import from_microseconds
from analytics.warehouse.scope import Scope
from analytics.warehouse.source import Source, current_source
from analytics.warehouse.stored_facts import StoredFacts
from analytics.warehouse.unit_events import exposure_span, loaded
from analytics.warehouse.unit_rules import RULES
from analytics.warehouse.unit_states import lay_out, looks_back
from analytics.warehouse.unit_table import units_of

__all__ = ["LATE_HOURS", "experiment_names", "read_definition", "read_facts"]

BOT_FLAG = 1


class _Totals(NamedTuple):
    """Of all events of the experiment."""

    events: int
    flagged: int
    bot_units: int
    late: int
    last_received: int
    flags: dict[str, int]
    generations: int
    digests: dict[str, str]


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
    occurred. A quantile without any event in an arm has no entry for that arm. What a unit did before its exposure is what it
    did anywhere, in any experiment and in none; no cap bounds it.

    Without `as_of`, facts computed before are given again while nothing has changed since; else daily rollups are read, and the
    events themselves only of days that are not rolled up. With `as_of`, the events are read. Raises LookupError (no
    tables), OSError.
    """
    if as_of is not None:
        return _compute(warehouse, Source(name, as_of, flagged, None), experiment, metrics)
    stored = StoredFacts(warehouse, name, experiment, metrics, flagged)
    if (known := stored.read()) is not None:
        return known
    stored.begin()
    facts = _compute(warehouse, current_source(warehouse, name, flagged=flagged), experiment, metrics)
    stored.write(facts)
    return facts


def facts_from_events(
    warehouse: Warehouse, name: str, experiment: Experiment, metrics: Mapping[str, Metric], *, flagged: bool = False
) -> ExperimentFacts:
    """`read_facts` of now from the events alone: the slow way, to check the other by."""
    return _compute(warehouse, Source(name, None, flagged, None), experiment, metrics)


def _compute(warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric]) -> ExperimentFacts:
    controls = read_controls(warehouse, Scope(source.experiment, source.as_of))
    with loaded(warehouse, source, *looks_back(experiment, metrics)) as source:
        totals, span = _totals(warehouse, source), exposure_span(warehouse, source)
        layout = lay_out(source, experiment, metrics, span, totals.last_received)
        with units_of(warehouse, layout) as units:
            figures = Figures(units, layout, experiment, metrics)
            started_at = first_start(controls) or figures.first_exposure()
            stretches = weight_periods(controls, experiment, started_at) if started_at else []
            facts = _gather(figures, source, experiment, metrics, totals, stretches, started_at)
            facts = with_design(facts, warehouse, source, figures, experiment, metrics, stretches)
        facts = msgspec.structs.replace(facts, decisions=read_decisions(warehouse, source.experiment, source.as_of))
        if totals.flagged and not source.flagged and experiment.design not in ("switchback", *MIXED):
            facts = msgspec.structs.replace(facts, with_flagged=_with_flagged(warehouse, source, experiment, metrics, stretches))
    return facts


def _gather(
    figures: Figures,
    source: Source,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    totals: _Totals,
    stretches: Stretches,
    started_at: datetime | None,
) -> ExperimentFacts:
    arms, counts, work = list(experiment.arms), figures.counts(), figures.work()
    latency, quantiles = figures.latency(), figures.quantiles()
    # A bandit's arms hold units of different times: nothing that compares their means is asked for (`allocation` takes its place).
    alike = experiment.design != "bandit"
    changed = alike and len(stretches) > 1
    return ExperimentFacts(
        experiment=source.experiment,
        started_at=started_at,
        data_as_of=from_microseconds(totals.last_received) if totals.events else None,
        events_read=totals.events,
        flagged_events=totals.flagged,
        bot_units=totals.bot_units,
        late_events=totals.late,
        multiple_exposure=counts.several,
        generations_without_exposure=totals.generations - counts.generations,
        arms=[
            ArmFacts(
                arm=arm,
                units=work[arm].units,
                generations=work[arm].generations,
                images=work[arm].images,
                failures=work[arm].failures,
                latency_p50_ms=latency.medians.get(arm),
                latency_p95_ms=quantiles["latency_p95_ms"][arm].value if arm in quantiles["latency_p95_ms"] else None,
                variant_digest=totals.digests.get(arm, ""),
                mean_inverse_propensity=work[arm].inverse_mean,
                inverse_propensity_m2=work[arm].inverse_m2,
                exposed_without_generation=work[arm].without_generation,
            )
            for arm in arms
        ],
        periods=figures.periods(stretches),
        metrics=_together(figures.moments(), quantiles),
        latency=latency.moments if alike else figures.drawn_latency(stretches),
        flags=totals.flags,
        flagged_counted=source.flagged,
        joint=figures.joint() if alike else {},
        by_period=figures.by_period(stretches) if changed else {},
        by_stratum=figures.by_stratum() if alike else {},
        breakdowns={dimension: figures.breakdown(dimension, stretches) for dimension in experiment.breakdowns} if alike else {},
        cohorts=figures.cohorts(stretches) if alike else [],
        ages=figures.ages() if alike else [],
        pre_period=figures.pre_period() if alike else {},
        excluded={rule: counts.excluded[rule] for rule in RULES if _declared(experiment, rule)},
        training_units=counts.trained,
        caps=figures.caps,
        sql={key: metric_sql(source.experiment, experiment, metric, figures.caps.get(key)) for key, metric in metrics.items()},
    )


def _together(
    moments: Mapping[str, Mapping[str, Moments]], quantiles: Mapping[str, Mapping[str, QuantileFacts]]
) -> dict[str, dict[str, Moments | QuantileFacts]]:
    return {name: dict(by_arm) for table in (moments, quantiles) for name, by_arm in table.items()}


def _declared(experiment: Experiment, rule: str) -> bool:
    exclude = experiment.exclude
    return bool({"units": exclude.units, "context": exclude.context, "events_per_hour": exclude.events_per_hour_above}[rule])


def _with_flagged(
    warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric], stretches: Stretches
) -> WithFlagged:
    """What the sample ratio and the primary metric are made of, flagged events counted."""
    counted = Source(source.experiment, source.as_of, True, source.dirty, source.loaded)
    key = experiment.primary
    only = {key: metrics[key]} if key in metrics else {}
    layout = lay_out(counted, experiment, only, exposure_span(warehouse, counted), 0, brief=True)
    with units_of(warehouse, layout) as units:
        figures = Figures(units, layout, experiment, only)
        return WithFlagged(
            periods=figures.periods(stretches),
            clean_periods=figures.periods(stretches, "suspicious = 0"),
            primary=_together(figures.moments(), figures.quantiles()).get(key, {}),
            allocation=read_allocation(figures, stretches) if experiment.design == "bandit" else [],
        )


def _totals(warehouse: Warehouse, source: Source) -> _Totals:
    columns = "r.kind AS kind, r.arm AS arm, r.unit AS unit, r.n AS n, r.flagged AS flagged, r.flag_sets AS flag_sets, r.late AS late"
    columns += ", r.last_received AS last_received, r.digest AS digest, r.digest_at AS digest_at, length(r.times_) AS counted"
    shown = "digest != '' AND kind IN ('exposure', 'generation', 'image')"
    sql = f"""
        SELECT grouping(arm) AS whole, arm, sum(n + flagged), sum(flagged),
            uniqExactIf(unit, unit != '' AND arrayExists(f -> bitAnd(f, {BOT_FLAG}) != 0, flag_sets)), sum(late), max(last_received),
            sumMap(flag_sets, arrayMap(f -> toUInt64(1), flag_sets)), sumIf(counted, kind = 'generation'),
            argMaxIf(digest, (digest_at, digest), {shown})
        FROM {source.rows("experiment = {experiment:String} AND kind != 'decision'", columns)} GROUP BY GROUPING SETS ((), (arm))"""
    digests: dict[str, str] = {}
    total = _Totals(0, 0, 0, 0, 0, {}, 0, digests)
    for whole, arm, events, flagged, bots, late, last, flags, generations, digest in warehouse.query(sql, source.parameters().values):
        if not whole:
            digests[str(arm)] = str(digest)
            continue
        named: dict[str, int] = {}
        for bits, count in zip(*flags, strict=True):
            for flag in flag_names(int(bits)):
                named[flag] = named.get(flag, 0) + int(count)
        total = _Totals(int(events), int(flagged), int(bots), int(late), int(last), dict(sorted(named.items())), int(generations), digests)
    return total
