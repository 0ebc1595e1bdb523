"""The reward model: a small pessimistic ensemble that guesses from features how much a picture is liked.

Each member is a weighted ridge regression on all units but one fold (Coste et al. 2024: members must differ in data, not
only in seed). Features and likes are taken relative to their prompt, partially pooled: what matters is which picture of
a prompt people like, not which prompts are popular.
"""

import zlib
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_POOLING = 2.0


class RewardModel(msgspec.Struct, frozen=True, kw_only=True):
    """`members` [k, d] act on (features - centre) / scale; `held_out` is the weighted correlation with likes of unseen units."""

    members: Floats
    centre: Floats
    scale: Floats
    kappa: float
    penalty: float
    held_out: float

    def each(self, features: Floats) -> Floats:
        """Reward by every member: [..., d] to [k, ...]. Differences within a prompt mean something, absolute values do not."""
        return np.moveaxis((features - self.centre) / self.scale @ self.members.T, -1, 0)

    def pessimistic(self, gains: Floats) -> float:
        """Mean minus kappa standard deviations of one gain per member: [k] to a number."""
        return float(gains.mean() - self.kappa * gains.std(ddof=1))


def fold_of(unit: str, folds: int, seed: int) -> int:
    """A unit's fold: all its feedback trains the same members."""
    return zlib.crc32(f"{seed}:{unit}".encode()) % folds


def fit(
    features: Floats,
    prompt: NDArray[np.int64],
    liked: NDArray[np.bool_],
    weight: Floats,
    units: Sequence[str],
    *,
    folds: int = 5,
    kappa: float = 1.0,
    seed: int = 0,
) -> RewardModel:
    """Fit the ensemble: features [n, d], the other columns [n]. The penalty is chosen on held-out folds.

    Raises ValueError when a fold of units is empty or the likes are all alike.
    """
    fold = np.array([fold_of(unit, folds, seed) for unit in units])
    if len(np.unique(fold)) < folds:
        raise ValueError(f"feedback of {len(set(units))} units does not fill {folds} folds; collect more units before a round")
    if liked.all() or not liked.any():
        raise ValueError("all pictures got the same answer; a reward needs liked and other pictures")
    centre = np.average(features, 0, weight)
    scale = np.sqrt(np.average((features - centre) ** 2, 0, weight)) + 1e-6
    x = _relative((features - centre) / scale, prompt, weight)
    y = _relative(liked.astype(np.float64)[:, None], prompt, weight)[:, 0]
    best: tuple[float, float, Floats] | None = None
    for penalty in _PENALTIES:
        members = np.stack([_ridge(x[fold != k], y[fold != k], weight[fold != k], penalty) for k in range(folds)])
        guess = np.einsum("nd,nd->n", x, members[fold])
        score = _correlation(guess, y, weight)
        if best is None or score > best[0]:
            best = score, penalty, members
    assert best is not None
    return RewardModel(members=best[2], centre=centre, scale=scale, kappa=kappa, penalty=best[1], held_out=best[0])


def _relative(x: Floats, prompt: NDArray[np.int64], weight: Floats) -> Floats:
    """Minus the prompt's mean, shrunk towards the grand mean by _POOLING pictures."""
    groups = int(prompt.max()) + 1
    mass = np.bincount(prompt, weight, groups)
    total = np.zeros((groups, x.shape[1]))
    np.add.at(total, prompt, x * weight[:, None])
    grand: Floats = np.asarray(np.average(x, 0, weight), np.float64)
    result: Floats = x - ((total + _POOLING * grand) / (mass + _POOLING)[:, None])[prompt]
    return result


def _ridge(x: Floats, y: Floats, weight: Floats, penalty: float) -> Floats:
    heavy = x * weight[:, None]
    result: Floats = np.asarray(np.linalg.solve(x.T @ heavy + penalty * np.eye(x.shape[1]), heavy.T @ y), np.float64)
    return result


def _correlation(a: Floats, b: Floats, weight: Floats) -> float:
    mass = weight / weight.sum()
    a, b = a - mass @ a, b - mass @ b
    spread = float(np.sqrt((mass @ a**2) * (mass @ b**2)))
    return float(mass @ (a * b)) / spread if spread > 0 else 0.0
