"""An arm's own regression on several covariates, with its HC2 covariance: a second pass over the rows (Lin 2013; HC2 after
MacKinnon & White 1985)."""

from collections.abc import Iterable, Sequence

import numpy as np

from analytics.analyze.gram import Cells, Partition, cut
from analytics.analyze.table import Floats
from analytics.facts import Regressed

# A unit with more leverage than this decides a coefficient alone: HC2 cannot tell its variance.
LEVERAGE = 1 - 1e-9


def regress(
    chunks: Iterable[tuple[int, Sequence[Floats]]], cells: Cells, partition: Partition, names: Sequence[str]
) -> dict[int, Regressed]:
    """One regression per cell of outcome [units] on the p numbers after it in each chunk; `cells` is their first pass.

    Left out: cells with fewer than p + 2 units, without anything left to explain, or where one unit has full leverage.
    """
    count = len(names)
    fits = {cell: _Fit(cells, cell) for cell in range(partition.cells) if cells.n[cell] >= count + 2}
    for start, columns in chunks:
        for cell, values in cut(start, columns, partition):
            if cell in fits:
                fits[cell].add(values)
    return {cell: result for cell, fit in fits.items() if (result := fit.result(names)) is not None}


class _Fit:
    """Coefficients from the moments; sums of squared residuals over 1 - leverage times outer products, chunk by chunk."""

    def __init__(self, cells: Cells, cell: int) -> None:
        self._n, self._mean, products = cells.n[cell], cells.mean[cell], cells.products[cell]
        self._m2 = float(products[0, 0])
        scale = np.sqrt(np.maximum(np.diag(products)[1:], 0.0))
        inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        around = np.outer(inverse, inverse)
        self._inverse = around * np.linalg.pinv(products[1:, 1:] * around, rcond=1e-10, hermitian=True)
        self._coefficients = self._inverse @ products[1:, 0]
        self._meat = np.zeros((len(scale) + 1, len(scale) + 1))
        self._singular = not self._m2 - float(products[1:, 0] @ self._coefficients) > 1e-12 * self._m2

    def add(self, values: Floats) -> None:
        apart = values - self._mean[:, None]
        x = apart[1:]
        residual = apart[0] - self._coefficients @ x
        leverage = 1 / self._n + np.einsum("iu,iu->u", x, self._inverse @ x)
        if (leverage > LEVERAGE).any():
            self._singular = True
            return
        weighted = residual * residual / (1 - leverage)
        self._meat[0, 0] += weighted.sum()
        self._meat[0, 1:] += x @ weighted
        self._meat[1:, 1:] += (x * weighted) @ x.T

    def result(self, names: Sequence[str]) -> Regressed | None:
        if self._singular:
            return None
        meat = self._meat.copy()
        meat[1:, 0] = meat[0, 1:]
        bread = np.zeros_like(meat)
        bread[0, 0], bread[1:, 1:] = 1 / self._n, self._inverse
        covariance = bread @ meat @ bread
        return Regressed(
            n=int(self._n),
            mean=float(self._mean[0]),
            m2=self._m2,
            covariate_means=tuple(map(float, self._mean[1:])),
            coefficients=tuple(map(float, self._coefficients)),
            covariance=tuple(tuple(map(float, row)) for row in covariance),
            covariates=tuple(names),
        )
