"""Features of pictures: what a judge sees, and plain statistics of colour."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


class FeatureExtractor(Protocol):
    """Pictures and captions in one space. Numbers of two extractors are never compared: reports name `name` and `digest`."""

    name: str
    digest: str

    def image_features(self, rgb: Pixels) -> NDArray[np.float32]:
        """uint8 [n, 64, 64, 3] to unit vectors [n, d]."""
        ...

    def text_features(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """Captions to unit vectors [n, d]."""
        ...


def seen_by(extractor: FeatureExtractor, rgb: Pixels) -> Floats:
    """Judge features of pictures of any size: uint8 [..., h, w, 3] to float64 [..., d]."""
    flat = rgb.reshape(-1, *rgb.shape[-3:])
    if flat.shape[1:3] != (SIDE, SIDE):
        flat = np.stack([np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX)) for p in flat])
    return extractor.image_features(flat).astype(np.float64).reshape(*rgb.shape[:-3], -1)


def saturation(rgb: Pixels) -> Floats:
    """Mean HSV saturation of each picture, in [0, 1]: uint8 [..., h, w, 3] to [...]."""
    top, bottom = rgb.max(-1).astype(np.float64), rgb.min(-1).astype(np.float64)
    result: Floats = np.divide(top - bottom, top, out=np.zeros_like(top), where=top > 0).mean((-1, -2))
    return result


def colour(rgb: Pixels) -> Floats:
    """Mean and standard deviation of R, G, B, mean saturation and mean value, all in [0, 1]: [..., h, w, 3] to [..., 8]."""
    x = rgb.astype(np.float64) / 255.0
    value = x.max(-1).mean((-1, -2))
    return np.concatenate([x.mean((-2, -3)), x.std((-2, -3)), saturation(rgb)[..., None], value[..., None]], -1)


def reward_features(extractor: FeatureExtractor, rgb: Pixels) -> Floats:
    """What the reward model reads: judge features beside colour, because a retrieval judge hardly looks at colour. [..., d + 8]."""
    return np.concatenate([seen_by(extractor, rgb), colour(rgb)], -1)
