"""Exposed units with the arrays of their events: first exposures, the work done for them, and the streams that numbers are made of."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from analytics.events import new_id
from analytics.warehouse.client import INSERT_SETTINGS, QUERY_SETTINGS, Warehouse
from analytics.warehouse.connections import NotAllowed
from analytics.warehouse.rows import from_microseconds
from analytics.warehouse.source import Parameters, Source
from analytics.warehouse.unit_numbers import Stream, Streams
from analytics.warehouse.unit_rules import fits

# Ids are minted when events occur, within days: how far the day in an id may lie from its event's time.
DAYS_OF_SLACK = 7


def exposed_units(source: Source, streams: Streams, days: float, span: tuple[int, int], parameters: Parameters) -> str:
    """A subquery of exposed units with their first exposure, their work, and the arrays of `streams`: t, v, a, i and a number."""
    exposure = "own AND slot = 0 AND kind = 'exposure' AND notEmpty(times)"
    generation = "own AND slot = 0 AND kind = 'generation'"
    first = "if(empty(times), 0, arrayMin(times))"
    found = [
        "unit",
        f"minIf({first}, {exposure}) AS exposed_at",
        f"argMinIf(arm, ({first}, arm), {exposure}) AS first_arm",
        f"argMinIf(extras[indexOf(times, {first})], ({first}, arm), {exposure}) AS chance",
        f"argMinIf(context, ({first}, arm), {exposure}) AS context",
        f"toUInt8(uniqExactIf(arm, {exposure}) > 1) AS several",
        f"groupArrayArrayIf(extras, {generation}) AS latencies",
        f"sumIf(length(times), {generation}) AS generations",
        f"sumIf(failed, {generation}) AS failures",
        "sumIf(length(times), own AND slot = 0 AND kind = 'image') AS images",
    ]
    slots: dict[Stream, int] = {}
    for number, stream in enumerate(streams.found):
        slots[stream] = slot = len(slots) + 1 if stream.raw else 0
        own = "own" if stream.part == "own" else "NOT own"
        this = f"{own} AND slot = {slot}" + ("" if slot else f" AND kind = {parameters.add('String', stream.kind)}")
        arrays = {"t": "times", "v": "values", "a": "arrayWithConstant(length(times), arm)", "i": "ids"}
        found += [
            f"groupArrayArrayIf({array}, {this}) AS {letter}{number}"
            for letter, array in arrays.items()
            if (letter, number) in streams.letters
        ]
    own_kinds = parameters.add(
        "Array(String)", sorted({"exposure", "generation", "image", *(s.kind for s in streams.found if s.part == "own" and not s.raw)})
    )
    columns = (
        "toString(r.kind) AS kind, toString(r.arm) AS arm, r.unit AS unit, r.times_ AS times, r.values_ AS values, r.extras_ AS extras"
    )
    rest = "r.failed_ AS failed, r.flagged AS flagged, r.context AS context, CAST([], 'Array(UUID)') AS ids"
    mine = "experiment = {experiment:String} AND unit != ''"
    rows = [source.rows(f"{mine} AND kind IN {own_kinds}", f"true AS own, 0 AS slot, {columns}, {rest}")]
    elsewhere = elsewhere_condition(source, days, span, parameters)
    before = sorted({s.kind for s in streams.found if s.part == "before" and not s.raw})
    if before:
        kinds = parameters.add("Array(String)", before)
        rows.append(source.rows(f"{elsewhere} AND kind IN {kinds}", f"false AS own, 0 AS slot, {columns}, {rest}"))
    for stream, slot in slots.items():
        if slot:
            rows.append(_raw_rows(source, stream, slot, mine if stream.part == "own" else elsewhere, parameters))
    union = " UNION ALL ".join(f"SELECT * FROM {each}" for each in rows)
    return f"(SELECT {', '.join(found)} FROM ({union}) GROUP BY unit HAVING countIf({exposure}) > 0)"


def elsewhere_condition(source: Source, days: float, span: tuple[int, int], parameters: Parameters) -> str:
    """Which rows are what exposed units did outside the experiment, from `days` before the first exposure."""
    first_day, last_day = (from_microseconds(at).date() for at in span)
    since = parameters.add("Date", first_day - timedelta(days=math.ceil(days) + DAYS_OF_SLACK))
    until = parameters.add("Date", last_day + timedelta(days=DAYS_OF_SLACK))
    shown = source.rows("experiment = {experiment:String} AND unit != '' AND kind = 'exposure'", "r.unit")
    return f"experiment != {{experiment:String}} AND unit IN {shown} AND day BETWEEN {since} AND {until}"


def exposure_span(warehouse: Warehouse, source: Source) -> tuple[int, int]:
    """The first and last exposure that counts, in microseconds; 0 where there is none."""
    rows = source.rows("experiment = {experiment:String} AND kind = 'exposure' AND unit != ''", "r.times_ AS times")
    sql = f"SELECT minArray(times), maxArray(times) FROM (SELECT times FROM {rows} WHERE notEmpty(times))"
    ((first, last),) = warehouse.query(sql, source.parameters().values)
    return int(first), int(last)


@contextmanager
def loaded(warehouse: Warehouse, source: Source, kinds: Sequence[str], days: float) -> Iterator[Source]:
    """The source with the rows of dirty days in a table, gone afterwards, so that the events are read once: those of the
    experiment, and those of `kinds` that its units have elsewhere, from `days` before the first exposure.

    On a cluster, and for a user who may create no table, every question reads the events.
    """
    name = f"unit_daily_{new_id().hex}"  # as a rollup's own: an erasure finds it, and what a killed process leaves is dropped
    if source.dirty == [] or warehouse.layout.cluster or not _create(warehouse, name):
        yield source
        return
    full = Source(source.experiment, source.as_of, source.flagged, source.dirty, name)
    try:
        _fill(warehouse, name, source.unrolled("experiment = {experiment:String}"), source.parameters())
        span, parameters = exposure_span(warehouse, full), source.parameters()
        if span[0] and kinds:
            elsewhere = f"{elsewhere_condition(full, days, span, parameters)} AND kind IN {parameters.add('Array(String)', list(kinds))}"
            _fill(warehouse, name, source.unrolled(elsewhere), parameters)
        yield full
    finally:
        with warehouse.connections.client() as client:
            client.command(f"DROP TABLE IF EXISTS {name} SYNC")


def _create(warehouse: Warehouse, name: str) -> bool:
    try:
        with warehouse.connections.client() as client:
            client.command(f"CREATE TABLE {name} AS unit_daily ENGINE = MergeTree ORDER BY (experiment, kind, unit)")
    except NotAllowed:
        return False
    return True


def _fill(warehouse: Warehouse, name: str, select: str, parameters: Parameters) -> None:
    with warehouse.connections.client() as client:
        client.command(f"INSERT INTO {name} {select}", parameters=parameters.values, settings={**INSERT_SETTINGS, **QUERY_SETTINGS})


def _raw_rows(source: Source, stream: Stream, slot: int, condition: str, parameters: Parameters) -> str:
    """Single events in the form of rows, for what rollups do not know: attributes, generations and pictures."""
    where = f"{condition} AND kind = {parameters.add('String', stream.kind)} AND {fits('attributes', dict(stream.where), parameters)}"
    at = "least(toUnixTimestamp64Micro(occurred_at), toUnixTimestamp64Micro(received_at))"
    ids = "CAST([], 'Array(UUID)')"
    if stream.field:
        where, ids = f"{where} AND {stream.field} IS NOT NULL", f"[assumeNotNull({stream.field})]"
    own = "true" if stream.part == "own" else "false"
    columns = f"event_id, experiment, kind, arm, unit, {at} AS at, value, {stream.field or 'NULL'} AS field"
    chosen = source.events(where, columns)
    named = ids.replace(stream.field, "field") if stream.field else ids
    return f"""(SELECT {own} AS own, {slot} AS slot, toString(kind) AS kind, toString(arm) AS arm, unit, [at] AS times,
        [ifNull(value, nan)] AS values, CAST([], 'Array(Float64)') AS extras, toUInt64(0) AS failed, toUInt64(0) AS flagged,
        CAST(map(), 'Map(String, String)') AS context, {named} AS ids FROM {chosen})"""
