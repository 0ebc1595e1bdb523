"""Fisher's randomisation test of a switchback: how often would arms drawn again have shown a difference this large?"""

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from analytics.inference.switchback import Blocks

# Up to so many blocks every assignment is looked at.
ENUMERATED_BLOCKS = 16
DRAWS, SMALLEST_DRAWS = 10_000, 1_000
# Blocks x draws: beyond it fewer draws, which with so many blocks lose little.
MOST_WORK = 20_000_000
CHUNK = 1_000_000
# Two assignments that mean the same may differ in the last digits.
ROUNDING = 1e-9


class Randomisation(msgspec.Struct, frozen=True, kw_only=True):
    """`p_value` of "no block would have been different under the other arm", two-sided, for one look; `assignments` looked at:
    all there are (`exact`), or so many drawn by chance, the true one among them."""

    p_value: float
    assignments: int
    exact: bool


def randomisation_test(blocks: Blocks, shares: NDArray[np.float64]) -> Randomisation | None:
    """|difference| of the arms' weighted ratios over assignments with both arms, each as probable as the design makes it.

    `shares` [n]: the probability that a block of either of the two arms is treated. Up to 16 blocks all 2^n; beyond, 10,000 draws
    from a generator that the data seed, so that the same data give the same p (fewer above 2,000 blocks). None without two blocks of
    each arm.
    """
    n = len(blocks.numbers)
    if min(int(blocks.treated.sum()), int((~blocks.treated).sum())) < 2:
        return None
    # A block's weight is that of the arm which it would have had.
    own = np.where(blocks.treated, shares, 1 - shares)
    scale = own / blocks.propensities
    weights = (scale / shares, scale / (1 - shares))
    y, d = blocks.adjusted, blocks.denominators
    columns = np.stack([weights[0] * y, weights[0] * d, weights[1] * y, weights[1] * d], axis=1)
    seen = _difference(columns, blocks.treated[None, :])[0]
    if not np.isfinite(seen):
        return None
    bound = abs(seen) * (1 - ROUNDING)
    if n <= ENUMERATED_BLOCKS:
        drawn = (np.arange(2**n)[:, None] >> np.arange(n)[None, :]) & 1 == 1
        found = np.abs(_difference(columns, drawn))
        chance = np.where(drawn, shares, 1 - shares).prod(axis=1) * np.isfinite(found)
        extreme = np.nan_to_num(found, nan=-1.0) >= bound
        return Randomisation(p_value=min(1.0, float(chance[extreme].sum() / chance.sum())), assignments=int((chance > 0).sum()), exact=True)
    rng = np.random.default_rng(_seed(blocks))
    draws = max(SMALLEST_DRAWS, min(DRAWS, MOST_WORK // n))
    step, beyond, looked = max(1, CHUNK // n), 1, 1
    for first in range(0, draws, step):
        found = np.abs(_difference(columns, rng.random((min(step, draws - first), n)) < shares))
        beyond += int((found >= bound).sum())
        looked += int(np.isfinite(found).sum())
    return Randomisation(p_value=beyond / looked, assignments=looked, exact=False)


def _difference(columns: NDArray[np.float64], treated: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Per assignment [draws, n]; NaN where an arm has nothing."""
    hot = treated.astype(float)
    y_b, d_b = hot @ columns[:, 0], hot @ columns[:, 1]
    cold = 1 - hot
    y_a, d_a = cold @ columns[:, 2], cold @ columns[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        result: NDArray[np.float64] = np.where((d_a > 0) & (d_b > 0), y_b / d_b - y_a / d_a, np.nan)
    return result


def _seed(blocks: Blocks) -> int:
    data = b"".join(np.ascontiguousarray(part).tobytes() for part in (blocks.treated, blocks.numerators, blocks.denominators))
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
