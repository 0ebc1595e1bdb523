"""Reads logged pictures back from the images store, by image id."""

import io
from collections.abc import Iterator, Sequence
from uuid import UUID

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from analytics.events import time_of

_AT_ONCE = 256


def stored_path(root: str, image_id: UUID) -> str:
    """Where the gateway puts a picture: `pictures/DAY/IMAGE.png`, the day of its UUIDv7."""
    at = time_of(image_id)
    return f"{root}/pictures/{at.strftime('%Y-%m-%d') if at else 'undated'}/{image_id}.png"


def read_pictures(url: str, image_ids: Sequence[UUID]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(index into `image_ids`, uint8 [h, w, 3]) of each picture that is there; erased and unreadable ones are left out. Raises OSError."""
    files, root = fsspec.core.url_to_fs(url)
    for start in range(0, len(image_ids), _AT_ONCE):
        paths = {stored_path(root, image_id): i for i, image_id in enumerate(image_ids[start : start + _AT_ONCE], start)}
        found = files.cat(list(paths), on_error="omit")
        for path, index in paths.items():
            data = found.get(path)
            if data is None:
                continue
            try:
                with Image.open(io.BytesIO(data)) as picture:
                    yield index, np.asarray(picture.convert("RGB"))
            except UnidentifiedImageError:
                continue
