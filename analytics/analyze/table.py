"""A table in a file: columns as arrays, with errors that name the column, the row and the fix."""

from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from analytics.settings import nearest

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class TableError(ValueError):
    """The file, a column or a value cannot be used. The text says which and what to do."""


class Labels(msgspec.Struct, frozen=True):
    """A column of names: `codes` [rows] point into `names`."""

    names: list[str]
    codes: Codes


class Table:
    """A CSV or Parquet file. Rows are numbered as in the file: a CSV's first row of data is on line 2."""

    def __init__(self, path: Path) -> None:
        self.path = path
        parquet = path.suffix.lower() in {".parquet", ".pq"}
        self._first_row = 1 if parquet else 2
        try:
            self._table = pyarrow.parquet.read_table(path) if parquet else pyarrow.csv.read_csv(path)
        except pa.ArrowException as error:
            kind = "Parquet" if parquet else "CSV"
            raise TableError(f"{path}: is no readable {kind} file ({str(error).splitlines()[0]}); Parquet files end in .parquet") from None
        if self._table.num_rows == 0:
            raise TableError(f"{path}: has no rows")

    @property
    def rows(self) -> int:
        return int(self._table.num_rows)

    def numbers(self, name: str, *, empty: bool = False) -> Floats:
        """A column as floats [rows]; `empty` allows missing values, as NaN. Raises TableError."""
        column = self._column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            self._not_a_number(name, column)
        try:
            values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
        except (pa.ArrowException, ValueError):
            raise TableError(f"{self.path}: column {name!r} holds {column.type}, not numbers") from None
        bad = np.isinf(values) if empty else ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            shown = "empty" if np.isnan(values[row]) else str(values[row])
            raise TableError(f"{self.path}: row {row + self._first_row} of column {name!r} is {shown}; give a number or leave the row out")
        return values

    def labels(self, name: str) -> Labels:
        """A column as names, in sorted order. Raises TableError on empty ones."""
        column = self._column(name).cast(pa.string())
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy()))
            raise TableError(f"{self.path}: row {row + self._first_row} of column {name!r} is empty; name it or leave the row out")
        encoded = pc.dictionary_encode(column.combine_chunks())
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        names = [str(value) for value in encoded.dictionary.to_pylist()]
        order = sorted(range(len(names)), key=names.__getitem__)
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        return Labels([names[i] for i in order], place[np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)])

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self._table.column_names:
            raise TableError(f"{self.path}: has no column {name!r}; {nearest(name, self._table.column_names)}")
        return self._table.column(name)

    def _not_a_number(self, name: str, column: pa.ChunkedArray) -> None:
        for row, value in enumerate(column.to_pylist()):
            try:
                float(value or "nan")
            except ValueError:
                raise TableError(f"{self.path}: row {row + self._first_row} of column {name!r} is {value!r}, which is no number") from None
