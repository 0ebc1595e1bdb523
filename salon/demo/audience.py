"""A simulated audience with hidden, stated tastes. Nothing in the product imports this; it knows only the HTTP API.

A person's liking of a picture is a linear taste in what the eye sees: how saturated and how warm the colours are, and
how much of the canvas is filled. People differ; they look at later positions less often; and some likes are accidents.
"""

import base64
import io
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

PROMPTS = ("a heart", "a circle", "a square", "a book", "a flower", "a fruit", "a vegetable", "a dessert")
EXAMINATION = (1.0, 0.85, 0.65, 0.5)
_CENTRE, _SPREAD = np.array([0.39, 0.23, 0.53]), np.array([0.23, 0.34, 0.155])


class Taste(msgspec.Struct, frozen=True):
    """The stated truth of the audience: mean weights for saturation, warmth, filled canvas; person-to-person sd; noise."""

    weights: tuple[float, float, float] = (3.5, 1.0, 0.1)
    person_sd: float = 0.3
    threshold: float = 3.2
    accident: float = 0.02

    def utility(self, rgb: NDArray[np.uint8]) -> float:
        """What an average person feels about one picture, uint8 [h, w, 3], in logits above the threshold."""
        return float(features(rgb) @ np.array(self.weights)) - self.threshold


def features(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Saturation, warmth (red minus blue) of what is drawn, and share of the canvas that is: float [3], standardised."""
    x = rgb.astype(np.float64) / 255
    ink = x.min(-1) < 0.94
    if ink.sum() < 40:
        return np.array([-2.0, -1.0, -3.0])
    drawn = x[ink]
    seen = np.array([(drawn.max(-1) - drawn.min(-1)).mean(), (drawn[:, 0] - drawn[:, 2]).mean(), ink.mean()])
    result: NDArray[np.float64] = (seen - _CENTRE) / _SPREAD
    return result


class Reaction(msgspec.Struct, frozen=True):
    """What a person did with one picture."""

    image_id: str
    seen: bool
    liked: bool


class Person:
    """One member of the audience: a name, a taste of their own, and a prompt that they want drawn."""

    def __init__(self, name: str, taste: Taste, seed: int) -> None:
        self.name = name
        self._rng = random.Random(f"{seed}:{name}")
        self._taste = taste
        self._weights = np.array([self._rng.gauss(w, taste.person_sd) for w in taste.weights])
        self.prompt = self._rng.choice(PROMPTS)
        self.seed = self._rng.randrange(2**31)

    def react(self, pictures: Sequence[tuple[str, int, NDArray[np.uint8]]]) -> list[Reaction]:
        """Look at (image_id, position, rgb) and say which pictures were seen and liked."""
        reactions = []
        for image_id, position, rgb in pictures:
            seen = self._rng.random() < EXAMINATION[min(position, len(EXAMINATION) - 1)]
            wants = 1 / (1 + np.exp(-(float(features(rgb) @ self._weights) - self._taste.threshold)))
            liked = seen and (self._rng.random() < wants or self._rng.random() < self._taste.accident)
            reactions.append(Reaction(image_id, seen, liked))
        return reactions


def decode_pictures(data: Sequence[dict[str, Any]]) -> list[tuple[str, int, NDArray[np.uint8]]]:
    """The `data` of an images answer as (image_id, position, uint8 [h, w, 3])."""
    return [
        (d["image_id"], d["position"], np.asarray(Image.open(io.BytesIO(base64.b64decode(d["b64_json"]))).convert("RGB"))) for d in data
    ]
