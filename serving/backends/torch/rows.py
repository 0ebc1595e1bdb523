"""Which rows a network call has: numbers that tell the device where each row's and each image's state lies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def bucket(rows: int) -> int:
    """The smallest size of call that holds `rows`."""
    return next((size for size in BUCKETS if size >= rows), rows)


def arrange(images: Sequence[int], guided: Sequence[bool], scratch: int, rows: int) -> NDArray[np.int64]:
    """int64 [5, rows] for a call on `images` (places), padded with the place `scratch`.

    Lines: 0 the place of each image; 1 and 2 the rows of its conditioned and its unconditioned output, the same row
    without guidance; 3 the place of each row; 4 the text of each row: the place's own, or the place's + scratch + 1 for
    the negative one. Rows of `images` come first, then the second rows of guided ones.
    """
    second = [place for place, two in zip(images, guided, strict=True) if two]
    index = np.full((5, rows), scratch, np.int64)
    index[1:3] = 0
    n, used = len(images), len(images) + len(second)
    index[0, :n] = images
    index[1, :n] = index[2, :n] = np.arange(n)
    index[2, :n][np.array(guided, bool)] = np.arange(n, used)
    index[3, :used] = [*images, *second]
    index[4, :used] = [*images, *(place + scratch + 1 for place in second)]
    return index
