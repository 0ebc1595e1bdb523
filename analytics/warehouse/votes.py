"""What people did about pictures of two arms that they saw together, as votes between the arms."""

from collections.abc import Mapping, Sequence
from typing import Any

from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import MetricVotes, PairVotes
from analytics.moments import Moments
from analytics.warehouse.client import Warehouse
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_events import exposed_units
from analytics.warehouse.unit_numbers import Streams
from analytics.warehouse.unit_rules import fits, fixed_columns, unit_pattern

TIE = 0.5
AT = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"
IMAGES = "experiment = {experiment:String} AND kind = 'image' AND image_id IS NOT NULL AND generation_id IS NOT NULL AND grid > 1"


def read_votes(warehouse: Warehouse, source: Source, experiment: Experiment, metric: Metric, span: tuple[int, int]) -> MetricVotes:
    """One vote per person, generation and pair of arms in it.

    Of a metric on "preference": the person is attribute `rater`, else the unit; of votes on the same two pictures the last counts; the
    arm that won more of them wins the generation, as many is a tie. Of any other event the person is the unit: the arm wins
    whose pictures got more of it per picture shown (a proportion: pictures that got it at all; a mean: sums of `value`; per "event": the
    mean of `value`, where both have one), as much is a tie, and where nothing happened there is no vote. `window_hours` counts
    from the picture; people whom rules leave out, or who trained an arm, have no votes. Raises LookupError (no tables), OSError.
    """
    names = list(experiment.arms)
    parameters = source.parameters()
    compared = _preferences if metric.event == "preference" else _events
    people = f"""(SELECT person, i, j, avg(outcome) AS score, countIf(outcome = 1) AS won, countIf(outcome = 0) AS lost,
        countIf(outcome = {TIE}) AS tied
        FROM {compared(source, experiment, metric, left_out(source, experiment, span, parameters), parameters)} GROUP BY person, i, j)"""
    rows = warehouse.query(
        f"SELECT i, j, score, count(), sum(won), sum(lost), sum(tied) FROM {people} GROUP BY i, j, score ORDER BY i, j, score",
        parameters.values,
    )
    arms = warehouse.query(
        f"""SELECT grouping(arm) AS whole, arm, uniqExact(person), avg(score), varPopStable(score) FROM (
            SELECT person, side.1 AS arm, sum(side.2) / sum(side.3) AS score FROM (
                SELECT person, arrayJoin([(i, won + tied / 2, won + lost + tied), (j, lost + tied / 2, won + lost + tied)]) AS side
                FROM {people}) GROUP BY person, arm) GROUP BY GROUPING SETS ((), (arm)) ORDER BY whole, arm""",
        parameters.values,
    )
    control = names.index(experiment.control)
    by_pair: dict[tuple[int, int], list[Any]] = {}
    for i, j, *row in rows:
        by_pair.setdefault((int(i), int(j)), []).append(row)
    found = [_pair(names, control, i, j, own) for (i, j), own in by_pair.items()]
    return MetricVotes(
        pairs=sorted(found, key=lambda pair: (names.index(pair.vs), names.index(pair.arm))),
        arms={names[arm]: _moments(n, mean, variance) for whole, arm, n, mean, variance in arms if not whole},
        units=next((int(n) for whole, _, n, _, _ in arms if whole), 0),
    )


def _pair(names: Sequence[str], control: int, i: int, j: int, rows: Sequence[Any]) -> PairVotes:
    """Against the control, or else against the arm that is declared first."""
    scores = [(float(score), int(count)) for score, count, *_ in rows]
    won, lost, tied = (sum(int(row[place]) for row in rows) for place in (2, 3, 4))
    if j == control:
        return PairVotes(arm=names[i], vs=names[j], won=won, lost=lost, tied=tied, scores=scores)
    turned = [(1 - score, count) for score, count in reversed(scores)]
    return PairVotes(arm=names[j], vs=names[i], won=lost, lost=won, tied=tied, scores=turned)


def _moments(n: int, mean: float, variance: float) -> Moments:
    return Moments(n=int(n), mean=float(mean), m2=float(variance) * int(n))


def left_out(source: Source, experiment: Experiment, span: tuple[int, int], parameters: Parameters) -> str:
    """Whether a person is no unit that counts, as a condition on `person`."""
    columns = {column.name: column.sql for column in fixed_columns(source, experiment, parameters)}
    units = exposed_units(source, Streams(), 0.0, span, parameters)
    ruled = f"person IN (SELECT u.unit FROM {units} AS u WHERE {columns['rule']} > 0 OR {columns['trained']} = 1)"
    if not experiment.exclude.units:
        return ruled
    return f"({ruled} OR {unit_pattern('person', experiment.exclude.units, parameters)})"


def _window(metric: Metric) -> str:
    """How long after its picture an event counts, as a condition on `at` and `shown_at`."""
    return "1" if metric.window_hours is None else f"at <= shown_at + {round(metric.window_hours * 3_600_000_000)}"


def _preferences(source: Source, experiment: Experiment, metric: Metric, left_out: str, parameters: Parameters) -> str:
    """A subquery of votes: person, i < j (arms as declared, from 0), outcome (1: i won)."""
    arms = parameters.add("Array(String)", list(experiment.arms))
    own = "experiment = {experiment:String} AND kind = 'preference' AND generation_id IS NOT NULL"
    own += f" AND attributes['loser_generation_id'] IN ('', toString(generation_id)) AND {fits('attributes', metric.where, parameters)}"
    columns = f"""event_id, experiment, assumeNotNull(generation_id) AS generation, ifNull(toString(image_id), '') AS image, value,
        attributes['loser'] AS other, if(attributes['rater'] = '', unit, attributes['rater']) AS person, {AT} AS at,
        indexOf({arms}, toString(arm)) AS winner, indexOf({arms}, attributes['loser_arm']) AS loser"""
    votes = source.events(own, columns)
    if metric.window_hours is not None:
        shown = source.events(IMAGES, f"event_id, experiment, assumeNotNull(generation_id) AS generation, {AT} AS seen_at")
        times = f"(SELECT generation, min(seen_at) AS shown_at FROM {shown} GROUP BY generation)"
        votes = f"(SELECT * FROM {votes} AS v INNER JOIN {times} AS t USING generation WHERE {_window(metric)})"
    last = f"""(SELECT person, generation, argMax((winner, loser, ifNull(value, 1) = {TIE}), (at, event_id)) AS vote
        FROM {votes} WHERE winner > 0 AND loser > 0 AND winner != loser AND NOT {left_out}
        GROUP BY person, generation, least(image, other), greatest(image, other))"""
    return f"""(SELECT person, least(vote.1, vote.2) - 1 AS i, greatest(vote.1, vote.2) - 1 AS j,
        (1 + sign(sum(multiIf(vote.3, 0, vote.1 < vote.2, 1, -1)))) / 2 AS outcome FROM {last} GROUP BY person, generation, i, j)"""


def _events(source: Source, experiment: Experiment, metric: Metric, left_out: str, parameters: Parameters) -> str:
    """A subquery of votes, as `_preferences` gives them."""
    count = len(experiment.arms)
    arms = parameters.add("Array(String)", list(experiment.arms))
    own = "experiment = {experiment:String} AND image_id IS NOT NULL"
    did = f"{own} AND kind = {parameters.add('String', metric.event)} AND {fits('attributes', metric.where, parameters)}"
    columns = f"""event_id, experiment, unit AS person, indexOf({arms}, toString(arm)) AS number, assumeNotNull(image_id) AS image,
        assumeNotNull(generation_id) AS generation, {AT} AS shown_at"""
    shown = source.events(f"{IMAGES} AND has({arms}, toString(arm))", columns)
    valued = " AND value IS NOT NULL" if metric.per == "event" else ""
    happened = source.events(
        did + valued, f"event_id, experiment, assumeNotNull(image_id) AS of_image, ifNull(value, 1) AS amount, {AT} AS at"
    )
    # A picture nobody did anything about has a row too: `at` is 0 in it.
    counted = f"at > 0 AND {_window(metric)}"
    much = {"proportion": f"toFloat64(countIf({counted}) > 0)", "ratio": f"toFloat64(countIf({counted}))"}
    got = much.get(metric.kind, f"sumIf(amount, {counted})")
    pictures = f"""(SELECT any(person) AS person, any(generation) AS generation, any(number) AS number, {got} AS got,
        countIf({counted}) AS times
        FROM {shown} AS s LEFT JOIN {happened} AS e ON e.of_image = s.image GROUP BY s.image)"""
    per, places = ("times" if metric.per == "event" else "1"), f"range(1, {count + 1})"
    each = f"sumForEach(arrayMap(k -> if(k = number, toFloat64({{}}), 0.), {places}))"
    generations = f"""(SELECT any(person) AS person, {each.format("got")} AS sums, {each.format(per)} AS sizes,
        {each.format("times")} AS counts FROM {pictures} GROUP BY generation HAVING sum(times) > 0)"""
    numbers = [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs = f"[{', '.join(f'(toUInt8({i}), toUInt8({j}))' for i, j in numbers)}]"
    left, right = "sums[pair.1 + 1] * sizes[pair.2 + 1]", "sums[pair.2 + 1] * sizes[pair.1 + 1]"
    return f"""(SELECT person, pair.1 AS i, pair.2 AS j, (1 + sign({left} - {right})) / 2 AS outcome
        FROM (SELECT *, arrayJoin({pairs}) AS pair FROM {generations})
        WHERE sizes[i + 1] > 0 AND sizes[j + 1] > 0 AND counts[i + 1] + counts[j + 1] > 0 AND NOT {left_out})"""


def compares(metric: Metric | None) -> bool:
    """Whether pictures seen together can be compared by the metric: by what people did to one of them, other than to be shown it."""
    return metric is not None and metric.kind != "quantile" and metric.event not in ("exposure", "generation", "image", "failure")


def votes_of(
    warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric], span: tuple[int, int]
) -> dict[str, MetricVotes]:
    """Of the primary and the secondary metrics that compare pictures."""
    asked = (experiment.primary, *experiment.secondary)
    return {
        name: read_votes(warehouse, source, experiment, metrics[name], span)
        for name in asked if name in metrics and compares(metrics[name])
    }  # fmt: skip
