"""Pictures by the place in their grid: how many were shown there, and how many of them got something."""

from collections.abc import Mapping
from typing import Any

from analytics.experiment import Experiment, Metric
from analytics.facts_of_designs import Crossed, GridFacts, PlaceFacts, SeedOrder
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import from_microseconds
from analytics.warehouse.source import Source
from analytics.warehouse.unit_rules import fits

# Beyond so many pictures a hash of the units decides whose are read: a report must not wait for a precision that nobody needs.
MOST_PICTURES = 500_000
# The gateway makes at most 10 pictures a request; what claims a thousand cells is no grid.
MOST_GRIDS, MOST_CELLS = 8, 24
NOT_OF_PICTURES = ("exposure", "generation", "image", "failure", "preference")
# Keys beside entries: a pair with TOTAL is the entry's sum, TOTAL with itself the number of units.
TOTAL = 65_535
_LAID_OUT = f"grid BETWEEN 2 AND {MOST_CELLS}"
_Pairs = Mapping[tuple[int, int], int]


def read_places(warehouse: Warehouse, source: Source, experiment: Experiment, metrics: Mapping[str, Metric]) -> PlaceFacts | None:
    """None where no grid has more than one picture, or the primary metric is not about pictures.

    A picture got it when an event of the primary metric's kind, and of its `where`, names the picture, whenever that came.
    Failed pictures, flagged events and what a switchback washes out are left out; rules of exclusion are not applied.
    Raises LookupError (no tables), OSError.
    """
    metric = metrics.get(experiment.primary)
    if metric is None or metric.kind == "quantile" or metric.event in NOT_OF_PICTURES:
        return None
    cut = " AND toUnixTimestamp64Micro(received_at) <= {as_of:Int64}" if source.as_of is not None else ""
    known = f"FROM events WHERE experiment = {{experiment:String}} AND kind = 'image' AND {_LAID_OUT}{cut}"
    ((pictures,),) = warehouse.query(f"SELECT count() {known}", source.parameters().values)
    if not pictures:
        return None
    one_in = -(-int(pictures) // MOST_PICTURES)
    shown, values = _shown(source, experiment, metric, one_in)
    sizes = warehouse.query(
        f"""SELECT grouping(layout) AS whole, layout, size, count() AS n, quantileExactLow(0.5)(at) FROM {shown}
        GROUP BY GROUPING SETS ((), (layout, size)) ORDER BY whole DESC, n DESC, size, layout""",
        values,
    )
    (_, _, _, total, middle), *groups = sizes
    if not total:
        return None
    grids = [_grid(warehouse, shown, values, row, int(middle), len(experiment.arms)) for row in groups[:MOST_GRIDS]]
    return PlaceFacts(
        event=metric.event,
        one_in=one_in,
        split_at=from_microseconds(int(middle)),
        grids=grids,
        left_out=int(total) - sum(grid.pictures for grid in grids),
        orders=_orders(warehouse, source, one_in),
    )


def _sampled(one_in: int) -> str:
    return f" AND cityHash64(unit) % {one_in} = 0" if one_in > 1 else ""


def _shown(source: Source, experiment: Experiment, metric: Metric, one_in: int) -> tuple[str, dict[str, Any]]:
    """A subquery of pictures: layout, size, cell, arm (0-based), unit, at, and whether it got the event."""
    parameters = source.parameters()
    arms = parameters.add("Array(String)", list(experiment.arms))
    kind, where = parameters.add("String", metric.event), fits("attributes", metric.where, parameters)
    own = "experiment = {experiment:String} AND image_id IS NOT NULL" + _sampled(one_in)
    placed = f"{_LAID_OUT} AND position >= 0 AND position < grid AND status != 'failed' AND attributes['washout'] != 'true'"
    at = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at)) AS at"
    columns = "event_id, experiment, unit, arm, assumeNotNull(image_id) AS image, assumeNotNull(grid) AS size"
    columns += f", assumeNotNull(position) AS cell, attributes['layout'] AS layout, {at}"
    images = source.events(f"{own} AND kind = 'image' AND {placed} AND has({arms}, arm)", columns)
    got = source.events(f"{own} AND kind = {kind} AND {where}", "event_id, experiment, assumeNotNull(image_id) AS image")
    pictures = f"""(SELECT layout, size, cell, toUInt16(indexOf({arms}, arm) - 1) AS arm_number, unit, at,
        toUInt64(image IN (SELECT image FROM {got})) AS got FROM {images})"""
    return pictures, parameters.values


def _grid(warehouse: Warehouse, shown: str, values: Mapping[str, Any], row: tuple[Any, ...], middle: int, arms: int) -> GridFacts:
    _, layout, size, pictures, _ = row
    grid = int(size)
    first = 2 * arms * grid
    arm_entry, half_entry = f"2 * (arm_number * {grid} + cell)", f"{first} + 2 * (toUInt16(at > {middle}) * {grid} + cell)"
    keys = f"[toUInt16({arm_entry}), toUInt16({arm_entry} + 1), toUInt16({half_entry}), toUInt16({half_entry} + 1), toUInt16({TOTAL})]"
    one = "toUInt64(1)"
    # An entry of arms has no use for one of halves: TOTAL goes with both, and with itself.
    together = f"k = {TOTAL} OR (k < {first}) = (i < {first})"
    sql = f"""SELECT pair.1 AS i, pair.2 AS j, sum(pair.3) FROM (
            SELECT arrayJoin(arrayFlatten(arrayMap((i, x) -> arrayMap((k, y) -> (i, k, x * y),
                arrayFilter(k -> k >= i AND ({together}), found.1), arrayFilter((y, k) -> k >= i AND ({together}), found.2, found.1)
            ), found.1, found.2))) AS pair
            FROM (SELECT sumMap({keys}, [{one}, got, {one}, got, {one}]) AS summed,
                    (summed.1, arrayMap((k, v) -> if(k = {TOTAL}, {one}, v), summed.1, summed.2)) AS found
                FROM {shown} WHERE layout = {{layout:String}} AND size = {{size:Int32}} GROUP BY unit))
        GROUP BY i, j HAVING sum(pair.3) > 0 ORDER BY i, j"""
    pairs = {(int(i), int(j)): int(n) for i, j, n in warehouse.query(sql, {**values, "layout": layout, "size": grid})}
    return GridFacts(
        layout=str(layout),
        grid=grid,
        pictures=int(pictures),
        units=pairs.get((TOTAL, TOTAL), 0),
        by_arm=_crossed(pairs, 0, first),
        by_half=_crossed(pairs, first, 4 * grid),
    )


def _crossed(pairs: _Pairs, first: int, entries: int) -> Crossed:
    here = [(i - first, j - first, n) for (i, j), n in sorted(pairs.items()) if first <= i <= j < first + entries]
    return Crossed(totals=[pairs.get((first + i, TOTAL), 0) for i in range(entries)], products=here)


def _orders(warehouse: Warehouse, source: Source, one_in: int) -> list[SeedOrder]:
    """Of requests whose generation says in which order its pictures were put into cells."""
    own = f"experiment = {{experiment:String}} AND kind = 'generation' AND {_LAID_OUT} AND attributes['order'] != ''{_sampled(one_in)}"
    drawn = "arrayMap(toInt32OrZero, splitByChar(',', attributes['order'])) AS drawn"
    requests = source.events(own, f"event_id, experiment, assumeNotNull(grid) AS size, {drawn}")
    sql = f"""SELECT size, cell - 1, number, count() FROM {requests} ARRAY JOIN drawn AS number, arrayEnumerate(drawn) AS cell
        WHERE arraySort(drawn) = range(toInt32(size)) GROUP BY size, cell, number ORDER BY size, cell, number"""
    found: dict[int, list[list[int]]] = {}
    for size, cell, number, count in warehouse.query(sql, source.parameters().values):
        found.setdefault(int(size), [[0] * int(size) for _ in range(int(size))])[int(number)][int(cell)] = int(count)
    return [SeedOrder(grid=size, counts=counts) for size, counts in found.items()]
