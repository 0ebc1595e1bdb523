"""Audiences before grids, whose tastes and eyes are known, counted as the warehouse counts them."""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from analytics.facts_of_designs import Crossed, GridFacts, PlaceFacts
from analytics.inference.position import Tally, tally

THETA = np.array([1.0, 0.7, 0.5, 0.9])


class Grids(NamedTuple):
    """Pictures, one a row of each array."""

    unit: np.ndarray
    arm: np.ndarray
    cell: np.ndarray
    got: np.ndarray


def drawn(
    seed: int,
    units: int,
    chance: np.ndarray,
    *,
    grids: int = 3,
    spread: float = 0.6,
    placed: np.ndarray | None = None,
) -> Grids:
    """Units with a taste of their own see `grids` grids each; `chance` [arms, cells]; `placed` [arms, cells]: how arms are put."""
    generator = np.random.default_rng(seed)
    arms, cells = chance.shape
    n = units * grids * cells
    unit, cell = np.repeat(np.arange(units), grids * cells), np.tile(np.arange(cells), units * grids)
    share = np.full((arms, cells), 1 / arms) if placed is None else placed / placed.sum(axis=0)
    arm = (generator.random(n)[:, None] > share.cumsum(axis=0).T[cell]).sum(axis=1)
    taste = np.exp(generator.normal(0, spread, units) - spread**2 / 2)[unit] if spread else 1.0
    return Grids(unit, arm, cell, generator.random(n) < np.minimum(1.0, chance[arm, cell] * taste))


def crossed(grids: Grids, rows: np.ndarray, size: int, cells: int) -> Crossed:
    """As the warehouse sums it: `rows` says which of `size` rows of cells each picture is in."""
    n = size * cells
    per_unit = np.zeros((grids.unit.max() + 1, 2 * n))
    entry = 2 * (rows * cells + grids.cell)
    np.add.at(per_unit, (grids.unit, entry), 1)
    np.add.at(per_unit, (grids.unit, entry + 1), grids.got)
    products = per_unit.T @ per_unit
    pairs = [(i, j, int(products[i, j])) for i in range(2 * n) for j in range(i, 2 * n) if products[i, j]]
    return Crossed(totals=[int(v) for v in per_unit.sum(axis=0)], products=pairs)


def counted(grids: Grids, rows: np.ndarray, size: int, cells: int) -> Tally:
    return tally(crossed(grids, rows, size, cells), size, cells)


def by_arm(grids: Grids, arms: int, cells: int = 4) -> Tally:
    return counted(grids, grids.arm, arms, cells)


def place_facts(grids: Grids, arms: int, cells: int = 4, **changes: object) -> PlaceFacts:
    """Facts of one layout; the second half is the units' of higher number."""
    half = (grids.unit > np.median(grids.unit)).astype(int)
    found = GridFacts(
        layout="",
        grid=cells,
        pictures=len(grids.unit),
        units=len(set(grids.unit)),
        by_arm=crossed(grids, grids.arm, arms, cells),
        by_half=crossed(grids, half, 2, cells),
    )
    at = datetime(2026, 11, 21, tzinfo=UTC)
    return PlaceFacts(**({"event": "like", "one_in": 1, "split_at": at, "grids": [found]} | changes))  # type: ignore[arg-type]
