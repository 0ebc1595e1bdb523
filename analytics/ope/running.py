"""Mean and centred sum of squares of numbers that come in chunks of groups: no digits are lost to squares of large means."""

import math

from analytics.analyze.table import Floats


class Running:
    """Chan, Golub & LeVeque 1979. `n` rows so far, their `mean`, and `m2`, the sum of squares about it."""

    def __init__(self) -> None:
        self.n, self.mean, self.m2 = 0.0, 0.0, 0.0

    def add(self, means: Floats, within: Floats, counts: Floats) -> None:
        """Groups [g] of `counts` rows, with their means and centred sums of squares."""
        n = float(counts.sum())
        if not n:
            return
        mean = float(means @ counts) / n
        m2 = float(within.sum()) + float(counts @ (means - mean) ** 2)
        total, apart = self.n + n, mean - self.mean
        self.m2 += m2 + apart * apart * self.n * n / total
        self.mean += apart * n / total
        self.n = total

    @property
    def se(self) -> float:
        """Of the mean; 0 for a single row."""
        return math.sqrt(self.m2 / (self.n - 1) / self.n) if self.n > 1 else 0.0
