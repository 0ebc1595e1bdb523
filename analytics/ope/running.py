"""A mean and its error of numbers that come in chunks of groups: no digits are lost to squares of large means."""

import math

import numpy as np

from analytics.analyze.table import Codes, Floats


class Running:
    """Chan, Golub & LeVeque 1979. `n` rows so far, their `mean`, and `m2`, the sum of squares about it.

    With so many `units` (0: rows are independent) rows of one unit are one draw of the error; `near`: roughly the mean.
    """

    def __init__(self, units: int = 0, near: float = 0.0) -> None:
        self.n, self.mean, self.m2 = 0.0, 0.0, 0.0
        self._near, self._sums, self._counts = near, np.zeros(units), np.zeros(units)

    def add(self, means: Floats, within: Floats, counts: Floats, unit: Codes | None = None) -> None:
        """Groups [g] of `counts` rows, with their means and centred sums of squares, and whose they are."""
        n = float(counts.sum())
        if not n:
            return
        mean = float(means @ counts) / n
        m2 = float(within.sum()) + float(counts @ (means - mean) ** 2)
        total, apart = self.n + n, mean - self.mean
        self.m2 += m2 + apart * apart * self.n * n / total
        self.mean += apart * n / total
        self.n = total
        if unit is not None:
            self._sums += np.bincount(unit, weights=(means - self._near) * counts, minlength=len(self._sums))
            self._counts += np.bincount(unit, weights=counts, minlength=len(self._counts))

    @property
    def se(self) -> float:
        """Of the mean; 0 for a single row, or unit. Clustered by units (Liang & Zeger 1986, times U/(U - 1)) where there are any."""
        if len(self._counts):
            units = int((self._counts > 0).sum())
            off = self._sums - (self.mean - self._near) * self._counts
            return math.sqrt(units / (units - 1) * float(off @ off)) / self.n if units > 1 else 0.0
        return math.sqrt(self.m2 / (self.n - 1) / self.n) if self.n > 1 else 0.0
