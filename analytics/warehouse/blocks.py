"""The blocks of a switchback: what was done in each, and what came of it."""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from analytics.designs import Switchback
from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, QuantileFacts, WeightPeriod
from analytics.facts_of_designs import BlockFacts, BlockTotals
from analytics.warehouse.block_sql import block_sql
from analytics.warehouse.block_totals import Asked, read_block_quantiles, read_totals
from analytics.warehouse.client import Warehouse
from analytics.warehouse.figures import Stretches
from analytics.warehouse.rows import from_microseconds, microseconds
from analytics.warehouse.source import Source
from analytics.warehouse.unit_events import exposed_units, exposure_span
from analytics.warehouse.unit_numbers import Streams
from analytics.warehouse.unit_rules import fixed_columns

LATENCY = Metric(kind="quantile", event="generation", quantile=0.95, direction="down")
FAILURES = Metric(kind="ratio", event="failure", denominator="generation", direction="down")
TIMED = "status != 'failed' AND isFinite(ms)"


class _Block(NamedTuple):
    number: int
    arms: list[str]
    chance: float | None
    inside: int
    ms: float


def with_blocks(
    facts: ExperimentFacts,
    warehouse: Warehouse,
    source: Source,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    stretches: Stretches,
) -> ExperimentFacts:
    """The facts with those of blocks, and without what people's arms would say: nearly everybody meets every arm, as is meant."""
    blocks, periods = read_blocks(warehouse, source, experiment, metrics, stretches, facts.data_as_of)
    return msgspec.structs.replace(
        facts,
        blocks=blocks,
        periods=periods,
        arms=_arms(warehouse, source, facts.arms),
        metrics=_metrics(blocks, warehouse, source, experiment, metrics) if blocks else {},
        latency=_latency(blocks, experiment) if blocks else {},
        multiple_exposure=0,
        excluded={},
        training_units={},
        **{name: {} for name in ("joint", "by_period", "by_stratum", "breakdowns", "pre_period", "caps")},
        cohorts=[],
        ages=[],
        sql={key: block_sql(source.experiment, metric) for key, metric in metrics.items()},
    )


def read_blocks(
    warehouse: Warehouse,
    source: Source,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    stretches: Stretches,
    until: datetime | None,
) -> tuple[BlockFacts | None, list[WeightPeriod]]:
    """And the blocks of one arm per stretch of weights, by the weights at their start, for the sample ratio; `until`: how far the
    data go. None without a generation that tells its block.

    A block counts for a metric when it is over, and the metric's `window_hours` too, or one block more, whichever is less. An event
    belongs to the block of its generation, if it came within `window_hours` of the block's end.
    """
    settings = experiment.switchback or Switchback()
    length = round(settings.block_minutes * 60_000_000)
    found, origin, unplaced = _read(warehouse, source, length)
    if not found or until is None:
        return None, []
    start = from_microseconds(origin)
    span = timedelta(microseconds=length)
    starts = [at for at, _ in stretches]
    weights = [held for _, held in stretches] or [dict(experiment.arms)]
    whole = [block for block in found if len(block.arms) == 1 and block.arms[0] in experiment.arms]
    places = {block.number: max(0, bisect_right(starts, start + block.number * span) - 1) for block in whole}
    counts = [dict.fromkeys(experiment.arms, 0) for _ in weights]
    for block in whole:
        counts[places[block.number]][block.arms[0]] += 1
    periods = [WeightPeriod(started_at=at, weights=held, units=n) for at, held, n in zip(starts or [start], weights, counts, strict=True)]
    used = [block for block in whole if block.inside]
    asked = Asked(origin, length, _kept_units(warehouse, source, experiment))
    totals = {}
    for name, metric in {**metrics, "failure_rate": FAILURES}.items():
        if metric.kind == "quantile":
            continue
        window = timedelta(hours=metric.window_hours or 0.0)
        over = [block.number for block in used if start + (block.number + 1) * span + min(window, span) <= until]
        rows = read_totals(warehouse, source, metric, asked)
        pairs = [rows.get(number, (0.0, 0.0)) for number in over]
        totals[name] = BlockTotals(numerators=[y for y, _ in pairs], denominators=[d for _, d in pairs])
    facts = BlockFacts(
        origin=start,
        block_minutes=settings.block_minutes,
        numbers=[block.number for block in used],
        arms=[block.arms[0] for block in used],
        propensities=[_chance(block, weights[places[block.number]]) for block in used],
        stretches=[places[block.number] for block in used],
        weights=weights,
        latency_ms=[block.ms if block.ms == block.ms else None for block in used],
        totals=totals,
        running=sum(start + (block.number + 1) * span > until for block in used),
        mixed=sum(len(block.arms) > 1 and block.inside > 0 for block in found),
        unplaced=unplaced,
    )
    return facts, periods


def _chance(block: _Block, weights: Mapping[str, float]) -> float:
    """As logged; where it was not, the weight that held."""
    chance = block.chance if block.chance is not None and 0 < block.chance <= 1 else weights[block.arms[0]]
    return chance if chance > 0 else 1.0


def _read(warehouse: Warehouse, source: Source, length: int) -> tuple[list[_Block], int, int]:
    """All blocks, oldest first; the latest time at which the first can have begun, in microseconds; generations without a block."""
    columns = """event_id, experiment, toString(arm) AS arm, propensity, toString(status) AS status,
        ifNull(queue_ms + service_ms, nan) AS ms, toInt64OrNull(attributes['block']) AS block, attributes['washout'] != 'true' AS inside,
        least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at)) AS at"""
    events = source.events("experiment = {experiment:String} AND kind = 'generation'", columns)
    sql = f"""SELECT block, arraySort(if(countIf(inside) > 0, groupUniqArrayIf(arm, inside), groupUniqArray(arm))),
        if(countIf(inside) > 0, anyIf(propensity, inside), any(propensity)), countIf(inside), avgIf(ms, inside AND {TIMED}),
        min(at - ifNull(block, 0) * {length}), count() FROM {events} GROUP BY block ORDER BY block"""
    found, origins, unplaced = [], [], 0
    for number, arms, chance, inside, ms, begun, n in warehouse.query(sql, source.parameters().values):
        if number is None:
            unplaced = int(n)
            continue
        found.append(_Block(int(number), list(arms), chance, int(inside), float(ms)))
        origins.append(int(begun))
    return found, min(origins, default=0), unplaced


def _asked(blocks: BlockFacts, warehouse: Warehouse, source: Source, experiment: Experiment) -> Asked:
    length = round(blocks.block_minutes * 60_000_000)
    return Asked(microseconds(blocks.origin), length, _kept_units(warehouse, source, experiment))


def _kept_units(warehouse: Warehouse, source: Source, experiment: Experiment) -> tuple[str, dict[str, Any]]:
    """A subquery of the units that no rule leaves out and that trained no arm, with the values of its placeholders."""
    parameters = source.parameters()
    columns = {column.name: column.sql for column in fixed_columns(source, experiment, parameters)}
    units = exposed_units(source, Streams(), 0.0, exposure_span(warehouse, source), parameters)
    return f"(SELECT u.unit FROM {units} AS u WHERE {columns['rule']} = 0 AND {columns['trained']} = 0)", parameters.values


def _arms(warehouse: Warehouse, source: Source, known: list[ArmFacts]) -> list[ArmFacts]:
    """What was asked for and served in each arm, wash-outs too; nothing of what units drew, for they drew nothing."""
    columns = """event_id, experiment, toString(kind) AS kind, toString(arm) AS arm, unit, toString(status) AS status,
        ifNull(queue_ms + service_ms, nan) AS ms"""
    events = source.events("experiment = {experiment:String} AND kind IN ('generation', 'image')", columns)
    made = "kind = 'generation'"
    sql = f"""SELECT arm, uniqExactIf(unit, {made}), countIf({made}), countIf(kind = 'image'), countIf({made} AND status = 'failed'),
        quantileExactIf(0.5)(ms, {made} AND {TIMED}), quantileExactIf(0.95)(ms, {made} AND {TIMED}) FROM {events} GROUP BY arm"""
    found = {row[0]: row[1:] for row in warehouse.query(sql, source.parameters().values)}
    arms = []
    for arm in known:
        units, generations, images, failures, median, high = found.get(arm.arm, (0, 0, 0, 0, float("nan"), float("nan")))
        arms.append(
            ArmFacts(
                arm=arm.arm,
                units=int(units),
                generations=int(generations),
                images=int(images),
                failures=int(failures),
                latency_p50_ms=float(median) if median == median else None,
                latency_p95_ms=float(high) if high == high else None,
                variant_digest=arm.variant_digest,
                mean_inverse_propensity=None,
            )
        )
    return arms


def _metrics(
    blocks: BlockFacts, warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric]
) -> dict[str, dict[str, Moments | QuantileFacts]]:
    """Failures per block, for the check of failures, and quantiles clustered by block."""
    totals, asked = blocks.totals["failure_rate"], _asked(blocks, warehouse, source, experiment)
    rows = list(zip(blocks.arms, totals.numerators, totals.denominators, strict=False))
    found: dict[str, dict[str, Moments | QuantileFacts]] = {
        "failure_rate": {arm: _moments([(y, d) for one, y, d in rows if one == arm]) for arm in experiment.arms}
    }
    over = blocks.numbers[: len(totals.numerators)]
    for name, metric in {"latency_p95_ms": LATENCY, **metrics}.items():
        if metric.kind == "quantile":
            found[name] = dict(read_block_quantiles(warehouse, source, metric, asked, list(experiment.arms), over))
    return found


def _latency(blocks: BlockFacts, experiment: Experiment) -> dict[str, Moments]:
    """Of blocks' mean latency, so that hours of much traffic do not stand for many independent ones."""
    rows = list(zip(blocks.arms, blocks.latency_ms, strict=True))
    found = {arm: [(ms, 1.0) for one, ms in rows if one == arm and ms is not None] for arm in experiment.arms}
    return {arm: _moments(values) for arm, values in found.items() if values}


def _moments(rows: list[tuple[float, float]]) -> Moments:
    n = len(rows)
    if not n:
        return Moments(n=0, mean=0.0, m2=0.0, denominator_mean=0.0)
    y, d = sum(row[0] for row in rows) / n, sum(row[1] for row in rows) / n
    return Moments(
        n=n,
        mean=y,
        m2=sum((row[0] - y) ** 2 for row in rows),
        denominator_mean=d,
        denominator_m2=sum((row[1] - d) ** 2 for row in rows),
        comoment=sum((row[0] - y) * (row[1] - d) for row in rows),
    )
