"""Interleaved grids and duels: votes between arms, where arms stood, and what was served of each; nobody belongs to one arm."""

from collections.abc import Mapping

import msgspec

from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, WeightPeriod
from analytics.facts_of_designs import PreferenceFacts
from analytics.warehouse.client import Warehouse
from analytics.warehouse.duels import read_duels
from analytics.warehouse.figures import Stretches
from analytics.warehouse.rows import from_microseconds, microseconds
from analytics.warehouse.source import Source
from analytics.warehouse.unit_events import exposure_span
from analytics.warehouse.votes import AT, IMAGES, votes_of


def with_preferences(
    facts: ExperimentFacts,
    warehouse: Warehouse,
    source: Source,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    stretches: Stretches,
) -> ExperimentFacts:
    """The facts with votes, and without what belongs to people split between arms. Raises LookupError (no tables), OSError."""
    duel = experiment.design == "duel"
    span = exposure_span(warehouse, source)
    if not stretches and span[0]:
        stretches = [(from_microseconds(span[0]), dict(experiment.arms))]
    preference = PreferenceFacts(
        votes=votes_of(warehouse, source, experiment, metrics, span) if span[0] else {},
        duels=read_duels(warehouse, source, experiment) if duel else None,
    )
    return msgspec.structs.replace(
        facts,
        started_at=facts.started_at or (from_microseconds(span[0]) if span[0] else None),
        preference=preference,
        periods=_sides(warehouse, source, experiment, stretches) if duel else _firsts(warehouse, source, experiment, stretches),
        arms=_arms(warehouse, source, facts.arms),
        metrics={},
        latency={},
        multiple_exposure=0,
        excluded={},
        training_units={},
        **{name: {} for name in ("joint", "by_period", "by_stratum", "breakdowns", "pre_period", "caps", "sql")},
        cohorts=[],
        ages=[],
    )


def _firsts(warehouse: Warehouse, source: Source, experiment: Experiment, stretches: Stretches) -> list[WeightPeriod]:
    """Which arm stood in position 0 of an interleaved grid: each of those with a weight alike (it is position shuffled, whatever the
    number of pictures). Per stretch of weights."""
    starts = ", ".join(f"toInt64({microseconds(at)})" for at, _ in stretches)
    place = f"greatest(1, arrayCount(s -> s <= began, [{starts}]))" if stretches else "1"
    sql = f"SELECT {place} AS stretch, first, count() FROM {_grids(source)} GROUP BY stretch, first"
    counts: dict[int, dict[str, int]] = {}
    for stretch, first, n in warehouse.query(sql, source.parameters().values):
        if first in experiment.arms:
            counts.setdefault(int(stretch) - 1, {})[str(first)] = int(n)
    return [
        WeightPeriod(started_at=at, weights=alike(weights), units={arm: counts.get(place, {}).get(arm, 0) for arm in experiment.arms})
        for place, (at, weights) in enumerate(stretches)
    ]


def _sides(warehouse: Warehouse, source: Source, experiment: Experiment, stretches: Stretches) -> list[WeightPeriod]:
    """Which arm of a duel stood on the left, in position 0, given the pair: a fair coin, however often a pair was drawn. One period
    per pair of arms; the last, of nobody, has the weights of now."""
    sql = f"SELECT arms, first, count(), min(began) FROM {_grids(source)} WHERE length(arms) = 2 GROUP BY arms, first ORDER BY arms, first"
    rows = [row for row in warehouse.query(sql, source.parameters().values) if all(arm in experiment.arms for arm in row[0])]
    periods = []
    for pair in dict.fromkeys(tuple(row[0]) for row in rows):
        own = [row for row in rows if tuple(row[0]) == pair]
        counts = {str(first): int(n) for _, first, n, _ in own}
        periods.append(
            WeightPeriod(
                started_at=from_microseconds(min(int(row[3]) for row in own)),
                weights={arm: 0.5 if arm in pair else 0.0 for arm in experiment.arms},
                units={arm: counts.get(arm, 0) for arm in experiment.arms},
            )
        )
    if stretches:
        at, weights = stretches[-1]
        periods.append(WeightPeriod(started_at=at, weights=alike(weights), units=dict.fromkeys(experiment.arms, 0)))
    return periods


def alike(weights: Mapping[str, float]) -> dict[str, float]:
    """The same for every arm that has a weight."""
    active = sum(weight > 0 for weight in weights.values())
    return {arm: 1 / active if weight > 0 else 0.0 for arm, weight in weights.items()}


def _grids(source: Source) -> str:
    """A subquery of grids: the arms in it, the one in position 0, and when it was shown first."""
    columns = f"event_id, experiment, assumeNotNull(generation_id) AS generation, toString(arm) AS arm, position, {AT} AS at"
    return f"""(SELECT arraySort(groupUniqArray(arm)) AS arms, anyIf(arm, position = 0) AS first, min(at) AS began
        FROM {source.events(f"{IMAGES} AND arm != ''", columns)} GROUP BY generation HAVING countIf(position = 0) > 0)"""


def _arms(warehouse: Warehouse, source: Source, known: list[ArmFacts]) -> list[ArmFacts]:
    """Requests and people that an arm had a place for, and its pictures. A request that failed counts for all its arms, and its
    latency is no arm's."""
    requests = source.events(
        "experiment = {experiment:String} AND kind = 'generation' AND attributes['arms'] != ''",
        "event_id, experiment, unit, toString(status) AS status, splitByChar(',', attributes['arms']) AS arms",
    )
    made = warehouse.query(
        f"""SELECT arrayJoin(arrayDistinct(arms)) AS arm, uniqExact(unit), count(), countIf(status = 'failed') FROM {requests}
        GROUP BY arm""",
        source.parameters().values,
    )
    pictures = source.events(f"{IMAGES} AND arm != ''", "event_id, experiment, toString(arm) AS arm")
    shown = dict(warehouse.query(f"SELECT arm, count() FROM {pictures} GROUP BY arm", source.parameters().values))
    found = {arm: (int(units), int(generations), int(failures)) for arm, units, generations, failures in made}
    nobody = (0, 0, 0)
    return [
        ArmFacts(
            arm=arm.arm,
            units=found.get(arm.arm, nobody)[0],
            generations=found.get(arm.arm, nobody)[1],
            images=int(shown.get(arm.arm, 0)),
            failures=found.get(arm.arm, nobody)[2],
            latency_p50_ms=None,
            latency_p95_ms=None,
            variant_digest=arm.variant_digest,
            mean_inverse_propensity=None,
        )
        for arm in known
    ]
