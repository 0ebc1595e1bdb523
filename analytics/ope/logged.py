"""A log of draws: who was shown what with which chance, and what came of it; in chunks, so that a file is never held whole."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.analyze.table import Codes, Floats, Labels

WHOLE = re.compile(r"(-?\d+)\.0+")


class Chunk(NamedTuple):
    """Groups of rows alike [g]: a file's rows one by one, a warehouse's units by arm, propensity and context.

    `action` and `keys` [g, columns] point into the log's names. Of the reward: its mean and centred sum of squares over the
    `rows` of a group. `fold`: which rows are predicted by a model that has not seen them. `prediction`: of the target's
    reward, given with the log. Rows that were not `shown` what their action says have no reward, and weigh nothing.
    `unit`: whose row it is, where rows of one unit are not independent.
    """

    action: Codes
    keys: Codes
    propensity: Floats
    fold: Codes
    rows: Floats
    mean: Floats
    m2: Floats
    shown: NDArray[np.bool_]
    prediction: Floats | None
    unit: Codes | None = None


class Key(NamedTuple):
    """A column that a policy may depend on, and its values in the log."""

    name: str
    values: list[str]
    position: bool = False


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """`chunks` gives them anew at each call, in the same order; it raises ValueError for values that are none.

    `rows`: what a row is called. `action`: what the column of actions is called. `units`: whose rows they are; 0: not told.
    """

    action: str
    actions: list[str]
    keys: tuple[Key, ...]
    chunks: Callable[[], Iterator[Chunk]]
    rows: str = "rows"
    units: int = 0
    notes: tuple[str, ...] = ()

    @property
    def position(self) -> str | None:
        """The name of the column of positions."""
        return next((key.name for key in self.keys if key.position), None)


def whole_numbers(labels: Labels) -> Labels:
    """`7.0` is `7`: a table may have kept the numbers of things as floats, and another not."""
    plain = [match[1] if (match := WHOLE.fullmatch(name)) else name for name in labels.names]
    if plain == labels.names:
        return labels
    names = sorted(set(plain))
    place = np.array([names.index(name) for name in plain], dtype=np.int64)
    return Labels(names, place[labels.codes])


def combined(codes: Sequence[Codes], sizes: Sequence[int], rows: int) -> Codes:
    """One number [rows] per combination of codes; 0 where there are none. Raises ValueError where there are too many to number."""
    result = np.zeros(rows, dtype=np.int64)
    if np.prod([float(size) for size in sizes]) > 2.0**62:
        raise ValueError("the policy depends on more combinations of positions and contexts than can be numbered; leave a context out")
    for each, size in zip(codes, sizes, strict=True):
        result = result * size + each
    return result
