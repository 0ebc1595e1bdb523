"""Who is compared: the units of a table, the arm of each, and what is said of a unit by its first row."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.analyze.table import Codes, Floats, Labels


class Units(msgspec.Struct, frozen=True, kw_only=True):
    """Who got which arm. `arm` [units] points into `arms`. `of_row` [rows] is the unit of a row, -1 where the unit is left out;
    None where every row is a unit. `several_arms` units had rows in more than one arm, `several_rows` have more than one row."""

    arms: list[str]
    arm: Codes
    of_row: Codes | None
    several_arms: int = 0
    several_rows: int = 0

    @property
    def count(self) -> int:
        return len(self.arm)

    def row_units(self) -> Codes:
        """The unit of each row [rows], -1 where it is left out."""
        return np.arange(self.count, dtype=np.int64) if self.of_row is None else self.of_row

    def rows_each(self) -> Floats:
        """Rows per unit [units]."""
        if self.of_row is None:
            return np.ones(self.count)
        return np.bincount(self.of_row[self.of_row >= 0], minlength=self.count).astype(np.float64)

    def totals(self, values: Floats) -> Floats:
        """Sum per unit [units] of a value per row [rows]."""
        if self.of_row is None:
            return values
        kept = self.of_row >= 0
        return np.bincount(self.of_row[kept], weights=values[kept], minlength=self.count).astype(np.float64)

    def means(self, values: Floats) -> Floats:
        """Mean per unit [units], of the rows that are not NaN; NaN where there are none."""
        if self.of_row is None:
            return values
        kept = (self.of_row >= 0) & ~np.isnan(values)
        rows = np.bincount(self.of_row[kept], minlength=self.count)
        sums = np.bincount(self.of_row[kept], weights=values[kept], minlength=self.count)
        return np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)

    def first(self, labels: Labels) -> tuple[Codes, int]:
        """What the first row of each unit says [units], and how many units say something else later."""
        if self.of_row is None:
            return labels.codes, 0
        rows = np.flatnonzero(self.of_row >= 0)
        code = np.zeros(self.count, dtype=np.int64)
        code[self.of_row[rows[::-1]]] = labels.codes[rows[::-1]]
        changed: NDArray[np.bool_] = np.zeros(self.count, dtype=bool)
        changed[self.of_row[rows][labels.codes[rows] != code[self.of_row[rows]]]] = True
        return code, int(changed.sum())


def group(arm: Labels, unit: Labels | None) -> Units:
    """One unit per row, or per name in `unit`; units seen in several arms are left out and counted."""
    if unit is None:
        return Units(arms=arm.names, arm=arm.codes, of_row=None)
    size = len(unit.names)
    chosen = np.zeros(size, dtype=np.int64)
    chosen[unit.codes] = arm.codes
    kept = np.ones(size, dtype=bool)
    kept[unit.codes[chosen[unit.codes] != arm.codes]] = False
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    return Units(
        arms=arm.names,
        arm=chosen[kept],
        of_row=place[unit.codes],
        several_arms=int(size - kept.sum()),
        several_rows=int((np.bincount(unit.codes, minlength=size)[kept] > 1).sum()),
    )
