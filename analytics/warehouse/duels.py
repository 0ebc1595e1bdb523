"""Votes between two arms: how often each won, tied, stood on which side, and how raters hang together."""

from itertools import combinations

from analytics.experiment import Experiment
from analytics.facts_of_designs import DuelFacts, Meeting, SideVotes
from analytics.warehouse.client import Warehouse
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_events import exposure_span
from analytics.warehouse.votes import TIE, left_out


def read_duels(warehouse: Warehouse, source: Source, experiment: Experiment) -> DuelFacts | None:
    """None where nobody voted.

    A vote is a `preference` between pictures of two arms in one generation: pictures of two generations were not drawn together. Of a
    rater's votes on one generation the last counts. Without attribute `rater` the rater is the unit. Raters whom
    the experiment's rules leave out, or who trained an arm, have no votes. Left is position 0.
    """
    names = sorted(experiment.arms)
    parameters = source.parameters()
    cells = _cells(source, experiment, names, exposure_span(warehouse, source), parameters)
    # Counts per rater and cell, as arrays, and every cell of a rater beside every other: no rater leaves the warehouse.
    counted = f"SELECT rater, cell, count() AS n FROM {cells} GROUP BY rater, cell"
    per_rater = f"(SELECT rater, groupArray((cell, n)) AS held FROM ({counted}) GROUP BY rater)"
    products = warehouse.query(
        f"""SELECT x.1 AS a, y.1 AS b, sum(x.2 * y.2), sum(x.2)
        FROM (SELECT arrayJoin(held) AS x, held FROM {per_rater}) ARRAY JOIN held AS y WHERE a <= b GROUP BY a, b ORDER BY a, b""",
        parameters.values,
    )
    if not products:
        return None
    counts = {int(a): int(votes) for a, b, _, votes in products if a == b}
    raters = {
        (str(what), int(number)): int(count)
        for what, number, count in warehouse.query(
            f"""SELECT of.1 AS what, of.2 AS number, uniqExact(rater)
            FROM (SELECT rater, arrayJoin([('all', 0), ('arm', first), ('arm', second), ('pair', intDiv(cell, 3))]) AS of FROM {cells})
            GROUP BY what, number""",
            parameters.values,
        )
    }
    sides = warehouse.query(
        f"""SELECT count(), sum(decided), sum(won_left), sum(won_left * won_left), sum(won_left * decided), sum(decided * decided)
        FROM (SELECT rater, count() AS decided, countIf(left) AS won_left FROM {cells}
            WHERE cell % 3 != 2 AND left IS NOT NULL GROUP BY rater)""",
        parameters.values,
    )
    possible = [(i, j) for i, j in combinations(range(len(names)), 2)]
    met = [pair for pair in possible if ("pair", _pair(pair, names)) in raters]
    place = {_pair(pair, names): at for at, pair in enumerate(met)}
    meetings = []
    for i, j in met:
        won, lost, tied = (counts.get(3 * _pair((i, j), names) + outcome, 0) for outcome in range(3))
        found = raters["pair", _pair((i, j), names)]
        meetings.append(Meeting(first=names[i], second=names[j], won=won, lost=lost, tied=tied, raters=found))
    ((side_raters, decided, left, left_squares, left_decided, decided_squares),) = sides
    return DuelFacts(
        meetings=meetings,
        raters=raters["all", 0],
        raters_of={name: raters.get(("arm", at), 0) for at, name in enumerate(names)},
        products=[(3 * place[a // 3] + a % 3, 3 * place[b // 3] + b % 3, int(product)) for a, b, product, _ in products],
        sides=SideVotes(
            raters=int(side_raters),
            decided=int(decided),
            left=int(left),
            left_squares=int(left_squares),
            left_decided=int(left_decided),
            decided_squares=int(decided_squares),
        ),
    )


def _pair(pair: tuple[int, int], names: list[str]) -> int:
    """The number of a pair of arms, ascending as the pairs do."""
    return pair[0] * len(names) + pair[1]


def _cells(source: Source, experiment: Experiment, names: list[str], span: tuple[int, int], parameters: Parameters) -> str:
    """A subquery of votes: rater, first and second arm by their place in `names`, cell = 3 x the pair's number + outcome, and
    whether the left picture won."""
    arms = parameters.add("Array(String)", names)
    where = (
        "experiment = {experiment:String} AND kind = 'preference' AND attributes['loser_generation_id'] IN ('', toString(generation_id))"
    )
    columns = f"""event_id, experiment, generation_id, value, position, if(attributes['rater'] = '', unit, attributes['rater']) AS person,
        least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at)) AS at,
        indexOf({arms}, toString(arm)) AS winner, indexOf({arms}, attributes['loser_arm']) AS loser"""
    ruled = left_out(source, experiment, span, parameters)
    last = f"""(SELECT person AS rater, argMax((winner, loser, ifNull(value, 1) = {TIE}, position = 0), (at, event_id)) AS vote
        FROM {source.events(where, columns)} WHERE winner > 0 AND loser > 0 AND winner != loser AND NOT {ruled}
        GROUP BY person, generation_id)"""
    return f"""(SELECT rater, least(vote.1, vote.2) - 1 AS first, greatest(vote.1, vote.2) - 1 AS second, vote.4 AS left,
        3 * (first * {len(names)} + second) + multiIf(vote.3, 2, vote.1 < vote.2, 0, 1) AS cell FROM {last})"""
