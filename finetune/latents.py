"""Training latents of logged pictures: the autoencoder's mean of what was shown, so that nothing big is kept at serving time."""

from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.model import DiffusionModel
from finetune.pictures_store import read_pictures


def read_rgb(url: str, image_ids: Sequence[UUID]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """(indices [m] that could be read, uint8 [m, h, w, 3]): pictures of the commonest size. Raises LookupError when there are none."""
    found = dict(read_pictures(url, image_ids))
    if not found:
        raise LookupError(f"none of {len(image_ids)} logged pictures is in the images store {url}; is [images] url the gateway's?")
    size = Counter(rgb.shape for rgb in found.values()).most_common(1)[0][0]
    kept = [i for i, rgb in sorted(found.items()) if rgb.shape == size]
    return np.array(kept, np.int64), np.stack([found[i] for i in kept])


def encode(model: DiffusionModel, rgb: NDArray[np.uint8], say: Callable[[int, int], None] = lambda _done, _all: None) -> torch.Tensor:
    """uint8 [n, h, w, 3] to latents float32 [n, c, h, w]."""
    rows = []
    for start in range(0, len(rgb), 128):
        rows.append(model.encode(rgb[start : start + 128]))
        say(min(start + 128, len(rgb)), len(rgb))
    return torch.cat(rows)
