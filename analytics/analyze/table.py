"""A table in a file, read a few columns at a time, with errors that name the column, the row and the fix."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

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
# Rows at a time: a chunk of a column and what is made of it stay in the processor's cache.
CHUNK = 65_536
# Each column is decoded from a stream of its own: read together, Arrow would hold whole row groups of all of them.
BUFFER = 1 << 20
# Squares of larger numbers overflow.
LARGEST = 1e150


class TableError(ValueError):
    """The file, a column or a value cannot be used. The text says which and what to do."""


class Labels(msgspec.Struct, frozen=True):
    """A column of names: `codes` [rows] point into `names`."""

    names: list[str]
    codes: Codes


class Table:
    """A CSV or Parquet file. Rows are numbered as in the file: a CSV's first row of data is on line 2.

    Raises TableError, OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet = path.suffix.lower() in {".parquet", ".pq"}
        self._first_row = 1 if self._parquet else 2
        self._convert: pyarrow.csv.ConvertOptions | None = None
        self._csv: pa.Table | None = None
        try:
            if self._parquet:
                file = pyarrow.parquet.ParquetFile(path)
                self.columns = list(file.schema_arrow.names)
                self._types: dict[str, pa.DataType] = {field.name: field.type for field in file.schema_arrow}
                self.rows = int(file.metadata.num_rows)
            else:
                with pyarrow.csv.open_csv(path) as reader:
                    self.columns = list(reader.schema.names)
                self.rows = -1
        except pa.ArrowException as error:
            raise self._unreadable(error) from None
        if self.rows == 0:
            raise TableError(f"{path}: has no rows")

    def keep(self, numbers: Collection[str], names: Collection[str]) -> None:
        """Before anything is read: the columns that will be. Of a CSV only these are converted, and `names` as they are written,
        so that unit 007 is not unit 7."""
        wanted = [name for name in self.columns if name in names or name in numbers]
        self._convert = pyarrow.csv.ConvertOptions(
            include_columns=list(dict.fromkeys(wanted)), column_types={name: pa.string() for name in wanted if name in names}
        )
        for name in (*names, *numbers):
            self._known(name)
        self._loaded()

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[int, list[pa.Array]]]:
        """(first row, the columns' values from there), in the order of the file. Raises TableError."""
        for name in names:
            self._known(name)
        start = 0
        if not self._parquet:
            for batch in self._loaded().select(list(names)).to_batches(CHUNK):
                yield start, list(batch.columns)
                start += batch.num_rows
            return
        try:
            streams = [
                pyarrow.parquet.ParquetFile(self.path, buffer_size=BUFFER).iter_batches(CHUNK, columns=[name], use_threads=False)
                for name in names
            ]
            for batches in zip(*streams, strict=True):
                yield start, [batch.column(0) for batch in batches]
                start += batches[0].num_rows
        except pa.ArrowException as error:
            raise self._unreadable(error) from None

    def row_number(self, index: int) -> int:
        """Where a person finds the row: a CSV's first row of data is on line 2."""
        return index + self._first_row

    def numbers(self, name: str, *, empty: float | None = None) -> Floats:
        """A whole column as floats [rows]; see `floats`. Raises TableError."""
        self._loaded()
        result = np.empty(self.rows)
        for start, (values,) in self.chunks([name]):
            result[start : start + len(values)] = self.floats(name, values, start, empty=empty)
        return result

    def floats(self, name: str, values: pa.Array, start: int, *, empty: float | None = None) -> Floats:
        """Values of column `name` from row `start` on; `empty` stands for missing ones. Raises TableError, without it also where
        one is missing."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            self._not_a_number(name, values, start)
        try:
            cast = values if pa.types.is_float64(values.type) else values.cast(pa.float64(), safe=False)
        except pa.ArrowException:
            raise TableError(f"{self.path}: column {name!r} holds {values.type}, not numbers") from None
        result: Floats = _array(cast, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            square = float(result @ result)
        if square < LARGEST:
            return result
        bad = ~(np.abs(result) < LARGEST) & ~(np.isnan(result) if empty is not None else False)
        if bad.any():
            row = int(np.argmax(bad))
            shown = "empty" if np.isnan(result[row]) else f"{result[row]:g}"
            fix = "give a number in a smaller unit" if np.isfinite(result[row]) else "give a number or leave the row out"
            hint = ", or count it as 0 with --empty zero" if np.isnan(result[row]) else ""
            raise TableError(f"{self.path}: row {start + row + self._first_row} of column {name!r} is {shown}; {fix}{hint}")
        return result if empty is None else np.where(np.isnan(result), empty, result)

    def labels(self, name: str) -> Labels:
        """A column as names, in sorted order. Raises TableError on empty ones."""
        column = self._whole(name)
        try:
            if not pa.types.is_dictionary(column.type):
                column = pc.dictionary_encode(column)
            encoded = column.unify_dictionaries().combine_chunks()
            if isinstance(encoded, pa.ChunkedArray):
                encoded = encoded.chunk(0)
            names = [value or "" for value in encoded.dictionary.cast(pa.string()).to_pylist()]
        except (pa.ArrowException, UnicodeDecodeError):
            raise TableError(f"{self.path}: column {name!r} holds {column.type}, which names nothing; give a column of texts") from None
        indices = _array(encoded.indices, -1)
        floating = pa.types.is_floating(encoded.dictionary.type)
        nameless = [i for i, value in enumerate(names) if not value.strip() or (floating and value == "nan")]
        empty = np.isin(indices, [-1, *nameless]) if encoded.null_count or nameless else np.zeros(0, dtype=bool)
        if empty.any():
            row = int(np.argmax(empty))
            raise TableError(f"{self.path}: row {row + self._first_row} of column {name!r} is empty; name it or leave the row out")
        used = np.flatnonzero(np.bincount(indices, minlength=len(names)))
        order = sorted(used.tolist(), key=lambda i: names[i])
        place = np.zeros(len(names), dtype=np.int64)
        place[order] = np.arange(len(order))
        return Labels([names[i] for i in order], place[indices])

    def _whole(self, name: str) -> pa.ChunkedArray:
        self._known(name)
        if not self._parquet:
            return self._loaded().column(name)
        kind = self._types[name]
        as_dictionary = [name] if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
        file = pyarrow.parquet.ParquetFile(self.path, buffer_size=BUFFER, read_dictionary=as_dictionary)
        try:
            return file.read(columns=[name], use_threads=False).column(0)
        except pa.ArrowException as error:
            raise self._unreadable(error) from None

    def _loaded(self) -> pa.Table:
        """A CSV's columns: its text has to be parsed as a whole, so they are kept."""
        if self._csv is None and not self._parquet:
            try:
                self._csv = pyarrow.csv.read_csv(self.path, convert_options=self._convert)
            except pa.ArrowException as error:
                raise self._unreadable(error) from None
            self.rows = int(self._csv.num_rows)
            if self.rows == 0:
                raise TableError(f"{self.path}: has no rows")
        return self._csv

    def _unreadable(self, error: pa.ArrowException) -> TableError:
        kind = "Parquet" if self._parquet else "CSV"
        return TableError(f"{self.path}: is no readable {kind} file ({str(error).splitlines()[0]}); Parquet files end in .parquet")

    def _known(self, name: str) -> None:
        if name not in self.columns:
            alone = "; are its columns separated by commas?" if len(self.columns) == 1 and not self._parquet else ""
            raise TableError(f"{self.path}: has no column {name!r}; {nearest(name, self.columns)}{alone}")
        if self.columns.count(name) > 1:
            raise TableError(f"{self.path}: has {self.columns.count(name)} columns named {name!r}; rename all but one")

    def _not_a_number(self, name: str, values: pa.Array, start: int) -> None:
        for row, value in enumerate(values.to_pylist()):
            try:
                float(value or "nan")
            except ValueError:
                place = start + row + self._first_row
                raise TableError(f"{self.path}: row {place} of column {name!r} is {value!r}, which is no number") from None


def _array(values: pa.Array, missing: float) -> NDArray[Any]:
    """The numbers of an Arrow array, without a copy where none is missing. (`Array.to_numpy` would load pandas, for a second.)"""
    if not values.null_count:
        return np.from_dlpack(values)
    bare = pa.Array.from_buffers(values.type, len(values), [None, values.buffers()[1]], offset=values.offset)
    holes = np.from_dlpack(values.is_null().cast(pa.uint8()))
    return np.where(holes > 0, missing, np.from_dlpack(bare)).astype(np.from_dlpack(bare).dtype)
