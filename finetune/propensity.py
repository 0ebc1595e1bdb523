"""All propensity maths of a round: who saw what with which chance, and what a like or its absence is worth then.

Position-based model: P(like | picture, position) = examination[position] * appeal(picture) (Craswell et al. 2008). The
gateway puts the pictures of a generation in random order, so the like rates of the positions identify the examination.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

EXAMINATION_FLOOR = 0.05
ARM_WEIGHT_LIMIT = 10.0
PRIOR_IMAGES = 20.0


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """How much each place is looked at, relative to the best one of its grid.

    `by_place["GRID:POSITION"]` is in [0.05, 1]; `appeal` is the mean chance of a like where a picture is looked at.
    """

    by_place: dict[str, float]
    shown: dict[str, int]
    liked: dict[str, int]
    appeal: float

    def of(self, grid: Ints, position: Ints) -> Floats:
        """float [n]; a place never seen counts as fully examined."""
        return np.array([self.by_place.get(place(g, p), 1.0) for g, p in zip(grid, position, strict=True)], dtype=np.float64)


def place(grid: Any, position: Any) -> str:
    """The cell of a grid: never a rank, because attention on a grid does not follow rows."""
    return f"{int(grid)}:{int(position)}"


def examination(grid: Ints, position: Ints, liked: Bools) -> Examination:
    """Fit from counts: like rate of each place over the best of its grid size (Joachims et al. 2017, §4.3), shrunk and clipped.

    Each rate is shrunk towards its grid's mean by PRIOR_IMAGES pictures, so that a place shown twice proves nothing. Grids of
    different size are fitted apart: a random order says nothing of one against the other.
    """
    if np.any(position < 0) or np.any(position >= grid):
        raise ValueError("positions must lie in 0 … grid - 1; the log has one outside its grid")
    by_place: dict[str, float] = {}
    shown: dict[str, int] = {}
    likes: dict[str, int] = {}
    for size in np.unique(grid):
        inside = grid == size
        rate = float(liked[inside].mean())
        rates: dict[str, float] = {}
        for spot in range(int(size)):
            here = inside & (position == spot)
            key = place(size, spot)
            shown[key], likes[key] = int(here.sum()), int(liked[here].sum())
            rates[key] = (likes[key] + PRIOR_IMAGES * rate) / (shown[key] + PRIOR_IMAGES)
        best = max(rates.values())
        by_place.update({key: max(EXAMINATION_FLOOR, value / best) if best > 0 else 1.0 for key, value in rates.items()})
    looked = sum(by_place[key] * count for key, count in shown.items())
    return Examination(by_place=by_place, shown=shown, liked=likes, appeal=min(1.0, float(liked.sum()) / looked) if looked else 0.0)


def examined_without_like(theta: Floats, appeal: float) -> Floats:
    """P(examined | no like) = theta (1 - appeal) / (1 - theta appeal): what a missing like is worth as a negative."""
    left = 1.0 - theta * appeal
    return np.divide(theta * (1.0 - appeal), left, out=np.zeros_like(theta), where=left > 0)


def arm_weights(propensity: Floats) -> Floats:
    """clip(1 / p, 1, 10): an arm shown rarely counts more, to a bound. Raises ValueError for a propensity outside (0, 1]."""
    if np.any(~np.isfinite(propensity)) or np.any(propensity <= 0) or np.any(propensity > 1):
        bad = propensity[~((propensity > 0) & (propensity <= 1))][0]
        raise ValueError(f"the logged propensity {bad} is not in (0, 1]; the log of assignments is damaged, or a client wrote it")
    return np.clip(1.0 / propensity, 1.0, ARM_WEIGHT_LIMIT)


def example_weights(liked: Bools, theta: Floats, propensity: Floats, appeal: float) -> Floats:
    """omega [n] with mean 1: arm weight times (liked ? min(1 / theta, 20) : P(examined | no like))."""
    place_weight = np.where(liked, np.minimum(1.0 / theta, 1.0 / EXAMINATION_FLOOR), examined_without_like(theta, appeal))
    raw = arm_weights(propensity) * place_weight
    return raw / raw.mean() if raw.size and raw.mean() > 0 else np.ones_like(raw)


def class_weights(mass_liked: float, mass_unliked: float, ratio: float = 7.0 / 6.0) -> tuple[float, float]:
    """(lambda_D, lambda_U) with lambda_D n_D / (lambda_U n_U) = ratio, the smaller one 1 (KTO, Ethayarajh et al. 2024, eq. 8)."""
    if mass_liked <= 0 or mass_unliked <= 0:
        raise ValueError(f"a batch needs both kinds: mass of liked {mass_liked:g}, of not liked {mass_unliked:g}")
    if not 1.0 <= ratio <= 4.0 / 3.0:
        raise ValueError(f"ratio is {ratio:g}; KTO's rule keeps it from 1 to 4/3")
    liked = ratio * mass_unliked / mass_liked
    return (liked, 1.0) if liked >= 1.0 else (1.0, 1.0 / liked)


def effective_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted examples these are worth (Kish)."""
    return float(weights.sum() ** 2 / np.square(weights).sum()) if weights.size else 0.0


def summary(found: Examination) -> Mapping[str, float]:
    """Examination per place, for a manifest."""
    return dict(sorted(found.by_place.items()))
