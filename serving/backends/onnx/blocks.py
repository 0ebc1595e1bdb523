"""Rows of one adapter side by side, so that a banked graph gathers its matrices once for all of them."""

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.surgery import ADAPTER

Order = NDArray[np.int64]


def side_by_side(entries: Sequence[int]) -> Order:
    """The order of rows that puts those of one entry beside each other; within an entry they stay as they were."""
    return np.argsort(np.asarray(entries, np.int64), kind="stable")


def in_blocks(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """`inputs` with the entry of every row replaced by that of every block of rows, of the largest length that fits."""
    rows = inputs[ADAPTER]
    edges = np.flatnonzero(np.diff(rows)) + 1
    return {**inputs, ADAPTER: rows[:: gcd(len(rows), *(int(edge) for edge in edges))]}
