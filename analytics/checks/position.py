"""Pictures in their grids: is each cell looked at as before, and does chance alone put pictures into cells?"""

from collections.abc import Sequence

import msgspec
import numpy as np

from analytics.facts_of_designs import GridFacts, PlaceFacts
from analytics.inference.position import balance, drift, p_of, shuffled, tally

POSITION_ALPHA = 0.001


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """P-values for one look, each the least of all layouts and sizes times their number; None where it cannot be told.

    `drift`: cells are looked at alike in both halves of the pictures; `balance`: each arm stands in each cell equally often (where
    grids mix arms); `order`: so does each picture of a request, by its number. `ok` is False where one is under 0.001.
    """

    drift: float | None
    balance: float | None
    order: float | None
    ok: bool
    problems: tuple[str, ...] = ()


def position(places: PlaceFacts | None, arms: Sequence[str]) -> Position | None:
    """None without grids of several pictures."""
    if places is None:
        return None
    moved = [(grid, p_of(drift(tally(grid.by_half, 2, grid.grid)))) for grid in places.grids]
    uneven = [(grid, p_of(balance(tally(grid.by_arm, len(arms), grid.grid)))) for grid in places.grids]
    orders = [(one.grid, p_of(shuffled(np.array(one.counts)))) for one in places.orders]
    problems = [
        f"the cells of {_named(grid)} are not looked at as before ({_told(p)}): {_compared(grid)}"
        for grid, p in moved
        if p is not None and p * len(moved) < POSITION_ALPHA
    ]
    problems += [
        f"chance alone does not put arms into the cells of {_named(grid)} ({_told(p)}): {_first(grid, arms)}; compare corrected rates"
        for grid, p in uneven
        if p is not None and p * len(uneven) < POSITION_ALPHA
    ]
    problems += [
        f"chance alone does not order the pictures of grids of {size} ({_told(p)}): the gateway's shuffle is broken, or events are lost"
        for size, p in orders
        if p is not None and p * len(orders) < POSITION_ALPHA
    ]
    return Position(
        drift=_least([p for _, p in moved]),
        balance=_least([p for _, p in uneven]),
        order=_least([p for _, p in orders]),
        ok=not problems,
        problems=tuple(problems),
    )


def _least(found: Sequence[float | None]) -> float | None:
    known = [p for p in found if p is not None]
    return min(1.0, min(known) * len(found)) if known else None


def _told(p: float) -> str:
    return f"p = {p:.1e}" if p > 0 else "p < 1e-300"


def _named(grid: GridFacts) -> str:
    return f"grids of {grid.grid}{f' in layout {grid.layout!r}' if grid.layout else ''}"


def _compared(grid: GridFacts) -> str:
    """The cell that moved most, relative to cell 0."""
    rate = tally(grid.by_half, 2, grid.grid).rate
    relative = rate / rate[:, :1]
    cell = int(np.argmax(np.abs(np.log(relative[1] / relative[0]))))
    return f"cell {cell} {relative[0, cell]:.0%} of cell 0 in the first half, {relative[1, cell]:.0%} in the second"


def _first(grid: GridFacts, arms: Sequence[str]) -> str:
    """Where the arm stands that is furthest from even."""
    shown = tally(grid.by_arm, len(arms), grid.grid).shown
    share = shown / np.maximum(1.0, shown.sum(axis=1, keepdims=True))
    apart = np.where(shown.sum(axis=1, keepdims=True) > 0, np.abs(share - 1 / grid.grid), 0.0)
    row, cell = np.unravel_index(int(np.argmax(apart)), apart.shape)
    return f"{share[row, cell]:.1%} of {arms[int(row)]!r} stand in cell {cell}, not {1 / grid.grid:.1%}"
