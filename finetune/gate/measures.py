"""The numbers behind the checks: pure functions on features. Arrays are [prompts, seeds, ...] unless said otherwise."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_SAME_MEANING = 0.95


def retrieval_hits(pictures: Floats, captions: Floats, own: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Is the picture's own caption the nearest of all? [p, s, d], [k, d], own caption int64 [p] to bool [p, s].

    A caption that says nearly the same (cosine above 0.95) counts as the own one.
    """
    nearest = (pictures @ captions.T).argmax(-1)
    same: NDArray[np.bool_] = (captions @ captions.T) > _SAME_MEANING
    hits: NDArray[np.bool_] = same[own[:, None], nearest]
    return hits


def alignment(pictures: Floats, captions: Floats, own: NDArray[np.int64]) -> Floats:
    """Cosine of every picture and its own caption: [p, s]."""
    result: Floats = np.einsum("psd,pd->ps", pictures, captions[own])
    return result


def kernel_distance(a: Floats, b: Floats, *, paired: bool = False) -> tuple[float, float]:
    """Unbiased MMD^2 with KID's cubic kernel (Binkowski et al. 2018, eq. 4), and its share of b's own spread. Unit features [n, d], [m, d].

    The kernel is (x.y + 1)^3: KID's (x.y / d + 1)^3 for features of norm sqrt(d). The share divides by k(x, x) - mean k(x, x')
    in b: 0 is the same distribution, 1 as far apart as b's pictures are from each other. `paired`: a[i] and b[i] share prompt
    and seed, so their own products are left out (Gretton et al. 2012, eq. 4); they would pull the distance below 0.
    """
    n, m = len(a), len(b)
    if n < 2 or m < 2:
        raise ValueError(f"a distance needs 2 pictures on each side; there are {n} and {m}")
    within_a, within_b = _off_diagonal_mean((a @ a.T + 1) ** 3), _off_diagonal_mean((b @ b.T + 1) ** 3)
    across = (a @ b.T + 1) ** 3
    squared = within_a + within_b - 2 * (_off_diagonal_mean(across) if paired else float(across.mean()))
    spread = 8.0 - within_b
    return squared, squared / spread if spread > 1e-9 else math.inf


def pairwise_distance(pictures: Floats) -> Floats:
    """Mean 1 - cosine between the pictures of each prompt: [p, s, d] to [p]. Zero everywhere is a collapsed model."""
    seeds = pictures.shape[1]
    if seeds < 2:
        raise ValueError("diversity needs at least 2 seeds per prompt")
    cosines = np.einsum("psd,ptd->pst", pictures, pictures)
    result: Floats = 1 - (cosines.sum((1, 2)) - np.einsum("pss->p", cosines)) / (seeds * (seeds - 1))
    return result


def bootstrap_interval(per_prompt: Floats, *, resamples: int, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over prompts, [p], resampled by prompt (Efron 1979)."""
    rng = np.random.default_rng(seed)
    means = per_prompt[rng.integers(len(per_prompt), size=(resamples, len(per_prompt)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def total_variation(a: NDArray[np.int64], b: NDArray[np.int64], classes: int) -> float:
    """Half the sum of absolute differences of class shares: 0 the same mix, 1 nothing in common. int64 [n], [m]."""
    return 0.5 * float(np.abs(shares(a, classes) - shares(b, classes)).sum())


def shares(drawn: NDArray[np.int64], classes: int) -> Floats:
    """Share of every class: int64 [n] to float64 [classes]."""
    return np.bincount(drawn, minlength=classes) / max(1, len(drawn))


def chance_variation(a: NDArray[np.int64], b: NDArray[np.int64], classes: int, *, resamples: int, seed: int, level: float = 0.95) -> float:
    """The total variation that chance alone reaches: its quantile when the two of each pair (one prompt and seed) swap at random."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        swap = rng.random(len(a)) < 0.5
        found.append(total_variation(np.where(swap, b, a), np.where(swap, a, b), classes))
    return float(np.quantile(found, level))


def wilson(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    if trials == 0:
        return 0.0, 1.0
    share, square = successes / trials, z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def _off_diagonal_mean(kernel: Floats) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
