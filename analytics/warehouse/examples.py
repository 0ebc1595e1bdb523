"""Shown pictures with what people did about them: the raw material of a fine-tune."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from analytics.events import FEEDBACK_KINDS
from analytics.warehouse.client import Warehouse
from analytics.warehouse.rows import from_microseconds, microseconds


class ImageExample(msgspec.Struct, frozen=True, kw_only=True):
    """One shown picture. `liked`: somebody sent the signal for it. `value[kind]`: the sum over feedback of that kind of
    `value`, or 1 where none was sent. `position` is 0-based in a grid of `grid`; `propensity` that of the arm."""

    image_id: UUID
    generation_id: UUID
    unit: str
    experiment: str
    arm: str
    variant_digest: str
    prompt: str
    seed: int | None
    position: int
    grid: int
    propensity: float | None
    liked: bool
    shown_at: datetime
    value: dict[str, float]


COLUMNS = ImageExample.__struct_fields__


class PositionRate(msgspec.Struct, frozen=True, kw_only=True):
    """How many pictures were shown at a position, and how many of them got the signal."""

    position: int
    shown: int
    liked: int


def read_image_examples(
    warehouse: Warehouse,
    route: str,
    signal: str = "like",
    *,
    variant_digest: str | None = None,
    excluded_units: Collection[str] = (),
    as_of: datetime | None = None,
) -> list[ImageExample]:
    """Every picture shown on `route`, oldest first, each once, with its feedback received by `as_of` (None: all).

    Flagged events and failed pictures are left out. A prompt or seed that the picture's own event lacks is its generation's.
    Raises LookupError (no tables), OSError.
    """
    joined, parameters = _shown(route, signal, variant_digest, excluded_units, as_of)
    sql = f"SELECT {', '.join(COLUMNS)} FROM {joined} ORDER BY shown_at, toString(image_id)"
    return [_example(row) for row in warehouse.query(sql, parameters)]


def read_position_rates(
    warehouse: Warehouse,
    route: str,
    signal: str = "like",
    *,
    grid: int | None = None,
    excluded_units: Collection[str] = (),
    as_of: datetime | None = None,
) -> list[PositionRate]:
    """Pictures shown and liked per position, in order; of grids of size `grid` alone when given.

    The gateway draws positions at random, so that rate_k / rate_0 estimates how much less position k is examined
    (position-based model; Joachims, Swaminathan & Schnabel 2017, §5.3). Compare positions within one grid size.
    """
    joined, parameters = _shown(route, signal, None, excluded_units, as_of)
    which = "WHERE grid = {grid:Int32}" if grid is not None else ""
    sql = f"SELECT position, count(), countIf(liked) FROM {joined} {which} GROUP BY position ORDER BY position"
    rows = warehouse.query(sql, {**parameters, **({} if grid is None else {"grid": grid})})
    return [PositionRate(position=position, shown=int(shown), liked=int(liked)) for position, shown, liked in rows]


def _example(row: tuple[Any, ...]) -> ImageExample:
    fields = dict(zip(COLUMNS, row, strict=True))
    fields |= {"liked": bool(fields["liked"]), "shown_at": from_microseconds(fields["shown_at"])}
    return ImageExample(**fields)


def _shown(
    route: str, signal: str, variant_digest: str | None, excluded_units: Collection[str], as_of: datetime | None
) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {"route": route, "signal": signal, "kinds": sorted(FEEDBACK_KINDS | {signal})}
    cut = extra = ""
    if as_of is not None:
        cut = " AND toUnixTimestamp64Micro(received_at) <= {as_of:Int64}"
        parameters["as_of"] = microseconds(as_of)
    if variant_digest is not None:
        extra += " AND variant_digest = {digest:String}"
        parameters["digest"] = variant_digest
    if excluded_units:
        extra += " AND unit NOT IN {excluded:Array(String)}"
        parameters["excluded"] = sorted(excluded_units)
    good = f"flags = 0 AND route = {{route:String}}{cut}"
    images = f"""(SELECT event_id, assumeNotNull(image_id) AS image, assumeNotNull(generation_id) AS generation, unit, experiment, arm,
        variant_digest, prompt, seed, ifNull(position, 0) AS place, ifNull(grid, 1) AS size, propensity,
        toUnixTimestamp64Micro(occurred_at) AS at FROM events FINAL WHERE kind = 'image' AND status != 'failed'
            AND image_id IS NOT NULL AND generation_id IS NOT NULL AND {good}{extra} LIMIT 1 BY image_id)"""
    feedback = f"""(SELECT image, countIf(kind = {{signal:String}}) > 0 AS got_signal, sumMap(map(kind, amount)) AS amounts
        FROM (SELECT event_id, assumeNotNull(image_id) AS image, toString(kind) AS kind, ifNull(value, 1) AS amount FROM events FINAL
            WHERE kind IN {{kinds:Array(String)}} AND image_id IS NOT NULL AND {good} LIMIT 1 BY event_id)
        GROUP BY image)"""
    generations = f"""(SELECT assumeNotNull(generation_id) AS generation, prompt, seed FROM events FINAL
        WHERE kind = 'generation' AND generation_id IS NOT NULL AND {good} LIMIT 1 BY generation_id)"""
    joined = f"""(SELECT i.image AS image_id, i.generation AS generation_id, i.unit AS unit, i.experiment AS experiment, i.arm AS arm,
            i.variant_digest AS variant_digest, if(i.prompt != '', i.prompt, g.prompt) AS prompt, ifNull(i.seed, g.seed) AS seed,
            i.place AS position, i.size AS grid, i.propensity AS propensity, f.got_signal AS liked, i.at AS shown_at, f.amounts AS value
        FROM {images} AS i LEFT JOIN {feedback} AS f ON f.image = i.image LEFT JOIN {generations} AS g ON g.generation = i.generation)"""
    return joined, parameters
