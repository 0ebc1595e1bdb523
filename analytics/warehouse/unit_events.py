"""Exposed units with the arrays of their events: first exposures, the work done for them, and the streams that numbers are made of."""

import math
from datetime import timedelta

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
        found += [
            f"groupArrayArrayIf(times, {this}) AS t{number}",
            f"groupArrayArrayIf(values, {this}) AS v{number}",
            f"groupArrayArrayIf(arrayWithConstant(length(times), arm), {this}) AS a{number}",
            f"groupArrayArrayIf(ids, {this}) AS i{number}",
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
    # What people did before, in this experiment or outside it.
    first_day, last_day = (from_microseconds(at).date() for at in span)
    since = parameters.add("Date", first_day - timedelta(days=math.ceil(days) + DAYS_OF_SLACK))
    until = parameters.add("Date", last_day + timedelta(days=DAYS_OF_SLACK))
    shown = source.rows(f"{mine} AND kind = 'exposure'", "r.unit")
    elsewhere = f"experiment != {{experiment:String}} AND unit IN {shown} AND day BETWEEN {since} AND {until}"
    before = sorted({s.kind for s in streams.found if s.part == "before" and not s.raw})
    if before:
        kinds = parameters.add("Array(String)", before)
        rows.append(source.rows(f"{elsewhere} AND kind IN {kinds}", f"false AS own, 0 AS slot, {columns}, {rest}"))
    for stream, slot in slots.items():
        if slot:
            rows.append(_raw_rows(source, stream, slot, mine if stream.part == "own" else elsewhere, parameters))
    union = " UNION ALL ".join(f"SELECT * FROM {each}" for each in rows)
    return f"(SELECT {', '.join(found)} FROM ({union}) GROUP BY unit HAVING countIf({exposure}) > 0)"


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
