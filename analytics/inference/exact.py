"""Two proportions where counts are small: exact tests, and the score intervals that agree with them.

Fisher: conditional on both margins. Barnard (1945), with the pooled z, and Boschloo (1970), with Fisher's one-sided p, are
unconditional: the largest probability, over the common proportion, of tables at least as extreme; two-sided Boschloo is
twice the smaller side (as scipy's).
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, xlog1py, xlogy

from analytics.inference.contrast import Interval, LogRatio
from analytics.inference.proportion import ProportionContrast
from analytics.inference.tails import normal_statistic

Floats = NDArray[np.float64]

SMALLEST_EXPECTED = 5.0
LARGEST_TABLE = 100_000
LARGEST_ARM = 5_000
# Tables this close to the observed one are as extreme: the difference is rounding.
SAME = 1 + 1e-9


class ExactTests(msgspec.Struct, frozen=True, kw_only=True):
    """Two-sided p-values; Barnard's and Boschloo's are None where there are more than `LARGEST_TABLE` possible tables, or
    more than `LARGEST_ARM` units in an arm."""

    fisher: float
    barnard: float | None
    boschloo: float | None

    @property
    def p_value(self) -> float:
        """The one to go by: Boschloo's, which is never less powerful than Fisher's one-sided test; else Fisher's."""
        return self.fisher if self.boschloo is None else self.boschloo


class ExactContrast(msgspec.Struct, frozen=True, kw_only=True):
    """Score statistics and intervals moved by what separates the exact p-value from that of the pooled z: so intervals exclude
    "no change" exactly when `p_value` is below their level."""

    score: ProportionContrast
    tests: ExactTests
    p_value: float

    @property
    def control(self) -> float:
        return self.score.control

    @property
    def difference(self) -> float:
        return self.score.difference

    @property
    def control_variance(self) -> float:
        return self.score.control_variance

    @property
    def units(self) -> int:
        return self.score.units

    @property
    def df(self) -> None:
        return None

    @property
    def lift_df(self) -> float | None:
        return self.score.lift_df

    @property
    def se(self) -> float:
        """Standard error of the difference, unpooled."""
        return self.score.se

    @property
    def relative_se(self) -> float | None:
        return self.score.relative_se

    @property
    def log_ratio(self) -> LogRatio | None:
        return self.score.log_ratio

    @property
    def cautious(self) -> "ExactContrast":
        """The same, never sharper than the pooled z: for asymptotics over many looks."""
        pooled = abs(self.score.statistic())
        return self if normal_statistic(self.p_value) <= pooled else msgspec.structs.replace(self, p_value=2 * _upper(pooled))

    def statistic(self, ratio: float = 1.0) -> float:
        """The normal statistic of the exact p-value at ratio 1; elsewhere the score statistic, moved alike."""
        score = self.score.statistic(ratio)
        exact, pooled = normal_statistic(self.p_value), abs(self.score.statistic())
        size = abs(score) - (pooled - exact) if exact <= pooled else abs(score) * exact / pooled if pooled else abs(score)
        return math.copysign(max(0.0, size), score)

    def difference_interval(self, critical: float) -> Interval:
        """Mee's."""
        return self.score.difference_interval(self._moved(critical))

    def ratio_interval(self, critical: float) -> Interval:
        """Koopman's."""
        return self.score.ratio_interval(self._moved(critical))

    def _moved(self, critical: float) -> float:
        """The critical value of the score statistic that |statistic| > `critical` comes to. Added where the exact test is the
        more cautious (a factor would grow without bound as its p nears 1), a factor where it is the sharper."""
        exact, pooled = normal_statistic(self.p_value), abs(self.score.statistic())
        return critical + (pooled - exact) if exact <= pooled else critical * pooled / exact


def exact_contrast(contrast: ProportionContrast) -> ExactContrast | None:
    """None where no expected cell of the 2x2 table is below 5: there the pooled z serves."""
    c = contrast
    hits = c.x_a + c.x_b
    if min(c.n_a, c.n_b) * min(hits, c.units - hits) / c.units >= SMALLEST_EXPECTED:
        return None
    tests = exact_tests(c.x_a, c.n_a, c.x_b, c.n_b)
    return ExactContrast(score=c, tests=tests, p_value=tests.p_value if c.statistic() else 1.0)


def exact_tests(x_a: int, n_a: int, x_b: int, n_b: int) -> ExactTests:
    """`x` of `n` units in both arms, n >= 1."""
    fisher = fisher_p(x_a, n_a, x_b, n_b)
    if (n_a + 1) * (n_b + 1) > LARGEST_TABLE or max(n_a, n_b) > LARGEST_ARM:
        return ExactTests(fisher=fisher, barnard=None, boschloo=None)
    if n_a > n_b:
        x_a, n_a, x_b, n_b = x_b, n_b, x_a, n_a
    sides = [_one_sided_fisher(n_a, n_b), _one_sided_fisher(n_b, n_a).T]
    masks = [side <= side[x_a, x_b] * SAME for side in sides]
    z = _pooled_z(n_a, n_b)
    masks.append(z * SAME >= z[x_a, x_b])
    above, below, barnard = _largest(np.stack(masks), n_a, n_b)
    return ExactTests(fisher=fisher, barnard=barnard, boschloo=min(1.0, 2 * above, 2 * below))


def fisher_p(x_a: int, n_a: int, x_b: int, n_b: int) -> float:
    """Two-sided: the probability, given the margins, of all tables no more likely than the observed."""
    total = x_a + x_b
    low, high = max(0, total - n_b), min(n_a, total)
    x = np.arange(low, high, dtype=np.float64)
    # By the ratio of neighbours, which keeps its digits where factorials of millions do not.
    steps = np.log((n_a - x) * (total - x)) - np.log((x + 1) * (n_b - total + x + 1))
    logs = np.concatenate(([0.0], np.cumsum(steps)))
    weights = np.exp(logs - logs.max())
    chosen = weights[logs <= logs[x_a - low] + 1e-7]
    return min(1.0, float(chosen.sum() / weights.sum()))


def _one_sided_fisher(n_a: int, n_b: int) -> Floats:
    """P(X_a >= x_a | x_a + x_b) of every table [n_a + 1, n_b + 1]."""
    a, b = np.arange(n_a + 1), np.arange(n_b + 1)
    logs = _log_choose(n_a, a)[:, None] + _log_choose(n_b, b)[None, :] - _log_choose(n_a + n_b, a[:, None] + b[None, :])
    tail = np.exp(logs)
    for row in range(n_a - 1, -1, -1):
        tail[row, 1:] += tail[row + 1, :-1]
    return tail


def _pooled_z(n_a: int, n_b: int) -> Floats:
    """|z| of every table [n_a + 1, n_b + 1]; 0 where all units agree."""
    a, b = np.arange(n_a + 1)[:, None], np.arange(n_b + 1)[None, :]
    share = (a + b) / (n_a + n_b)
    variance = share * (1 - share) * (1 / n_a + 1 / n_b)
    return np.abs(a / n_a - b / n_b) / np.sqrt(np.where(variance > 0, variance, 1.0))


def _largest(masks: NDArray[np.bool_], n_a: int, n_b: int) -> list[float]:
    """Per mask [masks, n_a + 1, n_b + 1]: the largest probability of its tables over the common proportion, searched on ever
    finer grids (in the angle, in which binomials are alike everywhere)."""
    regions = masks.astype(np.float64)
    angles = np.linspace(0, math.pi / 2, 202)[1:-1]
    found = _probabilities(regions, n_a, n_b, angles)
    step = angles[1] - angles[0]
    best = []
    for region, coarse in zip(regions, found, strict=True):
        tops = [i for i in np.argsort(coarse)[::-1][:6] if coarse[i] >= max(coarse[max(0, i - 1)], coarse[min(len(coarse) - 1, i + 1)])]
        centres, width, value = angles[tops], step, 0.0
        for _ in range(3):
            fine = np.clip(np.concatenate([centre + width * np.linspace(-1, 1, 21) for centre in centres]), 0, math.pi / 2)
            values = _probabilities(region[None], n_a, n_b, fine)[0]
            centres, width, value = fine[[int(np.argmax(values))]], width / 10, max(value, float(values.max()))
        best.append(value)
    return [min(1.0, value) for value in best]


def _probabilities(regions: Floats, n_a: int, n_b: int, angles: Floats) -> Floats:
    """[regions, angles]: of the tables in a region, both arms at the proportion sin(angle)^2."""
    shares = np.sin(angles) ** 2
    a, b = _binomial(n_a, shares), _binomial(n_b, shares)
    return np.stack([((a @ region) * b).sum(axis=1) for region in regions])


def _binomial(n: int, shares: Floats) -> Floats:
    x = np.arange(n + 1, dtype=np.float64)[None, :]
    probability = shares[:, None]
    return np.asarray(np.exp(_log_choose(n, x) + xlogy(x, probability) + xlog1py(n - x, -probability)), dtype=np.float64)


def _log_choose(n: int, k: NDArray[np.int64] | Floats) -> Floats:
    return np.asarray(-betaln(n - k + 1, k + 1) - math.log(n + 1), dtype=np.float64)


def _upper(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2
