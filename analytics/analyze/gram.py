"""Means and centred products of several numbers per unit, in one pass over chunks, apart for every cell."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from analytics.analyze.table import Codes, Floats


class Partition:
    """Units → cells: `codes` [units] from 0 to `cells` - 1, or -1 for a unit in none."""

    def __init__(self, codes: Codes, cells: int) -> None:
        # Sorting small integers is a radix sort, several times faster than of wide ones.
        self._codes = codes.astype(np.int16) if cells < 2**15 else codes
        self.cells = cells
        self._parts: dict[tuple[int, int], list[tuple[int, NDArray[np.intp]]]] = {}

    def parts(self, start: int, stop: int) -> list[tuple[int, NDArray[np.intp]]]:
        """(cell, its places within units start..stop), of cells that have any; kept, since every metric asks for the same."""
        found = self._parts.get((start, stop))
        if found is None:
            codes = self._codes[start:stop]
            order = np.argsort(codes, kind="stable")
            ends = np.searchsorted(codes[order], np.arange(-1, self.cells), side="right")
            found = [(cell, order[ends[cell] : ends[cell + 1]]) for cell in range(self.cells) if ends[cell] < ends[cell + 1]]
            self._parts[start, stop] = found
        return found


class Cells:
    """Per cell: `n` [cells], `mean` [cells][k], `products` [cells][k][k], centred. Chunks are merged exactly (Chan, Golub &
    LeVeque 1983), so that a mean of 1e9 with a deviation of 1 keeps its digits."""

    def __init__(self, cells: int, k: int) -> None:
        self.n = np.zeros(cells)
        self.mean = np.zeros((cells, k))
        self.products = np.zeros((cells, k, k))

    def add(self, cell: int, values: Floats) -> None:
        """`values` [k][units], which is overwritten."""
        units = values.shape[1]
        mean = values.mean(axis=1)
        values -= mean[:, None]
        old, total = self.n[cell], self.n[cell] + units
        apart = mean - self.mean[cell]
        self.products[cell] += values @ values.T + np.outer(apart, apart) * (old * units / total)
        self.mean[cell] += apart * (units / total)
        self.n[cell] = total


def accumulate(chunks: Iterable[tuple[int, Sequence[Floats]]], partitions: Sequence[Partition]) -> list[Cells]:
    """One pass over (first unit, k numbers per unit) → the cells of each partition."""
    results: list[Cells] = []
    for start, columns in chunks:
        if not results:
            results = [Cells(partition.cells, len(columns)) for partition in partitions]
        for result, partition in zip(results, partitions, strict=True):
            for cell, values in cut(start, columns, partition):
                result.add(cell, values)
    return results


def cut(start: int, columns: Sequence[Floats], partition: Partition) -> Iterator[tuple[int, Floats]]:
    """(cell, [k][units of the cell]) of one chunk."""
    for cell, places in partition.parts(start, start + len(columns[0])):
        values = np.empty((len(columns), len(places)))
        for row, column in zip(values, columns, strict=True):
            np.take(column, places, out=row, mode="clip")
        yield cell, values
