"""Do the arms have the units that their weights promise? An e-process that gates at any look, and a chi-square beside it."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.special import gammaln

from analytics.facts import WeightPeriod
from analytics.inference.tails import chi_square_log10_p, chi_square_p

# Lindon & Malek's prior: how many units' worth of belief in the stated weights. 1000 sees a 49/51 split in about 40,000 units.
SRM_CONCENTRATION = 1000.0
# The e-process reaches 1000 in at most 1 of 1000 healthy experiments, whenever one looks.
SRM_GATE = 1000.0
# Units in an arm whose weight is 0 for a time: a few are requests in flight, or clocks, when it changed; more is a broken split.
STRAY_SHARE, STRAY_UNITS = 0.01, 10
# What stands for a p-value that no double can hold; `log10_p_value` says it exactly.
SMALLEST, LARGEST = 5e-324, 1e300
_Row = tuple[Sequence[float], Sequence[int]]


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Do arms have the units that their weights promise? `e_value` gates (valid at any look); `p_value` is for one look, and
    `log10_p_value` its logarithm, exact however far out.

    `expected` are units per arm; `stray_units` got an arm whose weight was 0 and are in neither figure. In an arm that never
    has a weight, one of them is a mismatch; in one that has it at another time, more than a few are.
    """

    p_value: float | None
    e_value: float
    ok: bool
    units: dict[str, int]
    expected: dict[str, float]
    stray_units: int
    log10_p_value: float | None = None


def sample_ratio(periods: Sequence[WeightPeriod], arms: Sequence[str]) -> SampleRatio:
    """Chi-square and e-process over periods of constant weights: a ramp is no mismatch."""
    rows = [([period.weights.get(arm, 0.0) for arm in arms], [period.units.get(arm, 0) for arm in arms]) for period in periods]
    stray, impossible = _stray(rows)
    clean = [(weights, [n if w > 0 else 0 for w, n in zip(weights, counts, strict=True)]) for weights, counts in rows]
    log_e = running_log_e(clean)[-1] if clean else 0.0
    total = sum(sum(counts) for _, counts in clean)
    statistic, df = _chi_square(clean)
    return SampleRatio(
        p_value=max(SMALLEST, chi_square_p(statistic, df)) if df else None,
        e_value=math.exp(min(log_e, 690.0)),
        ok=log_e < math.log(SRM_GATE) and not impossible and stray <= max(STRAY_UNITS, STRAY_SHARE * total),
        units={arm: sum(counts[i] for _, counts in clean) for i, arm in enumerate(arms)},
        expected={arm: math.fsum(shares(weights)[i] * sum(counts) for weights, counts in clean) for i, arm in enumerate(arms)},
        stray_units=stray,
        log10_p_value=chi_square_log10_p(statistic, df) if df else None,
    )


def shares(weights: Sequence[float]) -> list[float]:
    """Weights above 0 made to sum to 1; all 0 where none is."""
    total = math.fsum(w for w in weights if w > 0)
    return [max(0.0, w) / total if total > 0 else 0.0 for w in weights]


def log_e_value(weights: Sequence[float], counts: Sequence[int], concentration: float = SRM_CONCENTRATION) -> float:
    """ln of the Dirichlet-multinomial Bayes factor against the stated weights (Lindon & Malek 2022, arXiv 2011.03567, eq. 5).

    Of one period, from its own weights; the product over periods is again an e-process. Arms of weight 0 are left out.
    """
    pairs = [(share, n) for share, n in zip(shares(weights), counts, strict=True) if share > 0]
    if len(pairs) < 2:
        return 0.0
    # ln Gamma of a subnormal number is infinite; a share that small is none that any draw could show.
    theta, observed = np.maximum([s for s, _ in pairs], 1e-300), np.array([n for _, n in pairs], dtype=float)
    return marginal(theta, observed, concentration) - float(np.sum(observed * np.log(theta)))


def running_log_e(rows: Sequence[tuple[Sequence[float], Sequence[int]]]) -> list[float]:
    """ln e after each period (weights, units per arm): the mean of two e-processes, which is one again.

    One starts each period afresh: it sees a split that breaks late. The other takes what arms got beyond their weights so far for
    what they will get, counted as so many units (the paper's form where weights are constant): it sees a lasting slip of a bandit,
    whose periods are too short to tell anything by themselves. In one period they are the same.
    """
    fresh = carried = 0.0
    found: list[float] = []
    arms = len(rows[0][0]) if rows else 0
    first, expected, observed = np.zeros(arms), np.zeros(arms), np.zeros(arms)
    for weights, counts in rows:
        fresh += log_e_value(weights, counts)
        share, units = np.array(shares(weights)), np.array(counts, dtype=float)
        first = np.where(first > 0, first, share)
        open_ = share > 0
        if open_.sum() > 1 and units.any():
            theta, n = np.maximum(share[open_], 1e-300), units[open_]
            prior = np.maximum(SRM_CONCENTRATION * first[open_], 1e-300)
            leaning = theta * (prior + observed[open_]) / (prior + expected[open_])
            known = SRM_CONCENTRATION + observed.sum()
            carried += marginal(np.maximum(leaning / leaning.sum(), 1e-300), n, known) - float(n @ np.log(theta))
            expected, observed = expected + share * units.sum(), observed + units
        found.append(float(np.logaddexp(fresh, carried)) - math.log(2))
    return found


def marginal(theta: np.ndarray, observed: np.ndarray, concentration: float) -> float:
    """ln probability of a sequence with `observed` counts under the Dirichlet prior `concentration` x `theta`, one number per arm."""
    prior = concentration * theta
    gained = float(np.sum(gammaln(prior + observed) - gammaln(prior)))
    return gained - float(gammaln(prior.sum() + observed.sum()) - gammaln(prior.sum()))


def _stray(rows: Sequence[_Row]) -> tuple[int, bool]:
    """Units in arms of weight 0, and whether some are in an arm that never has one: no clock and no request in flight puts them there."""
    opened = {i for weights, _ in rows for i, weight in enumerate(weights) if weight > 0}
    stray, impossible = 0, False
    for weights, counts in rows:
        for i, (weight, n) in enumerate(zip(weights, counts, strict=True)):
            if weight <= 0 and n:
                stray += n
                impossible |= i not in opened
    return stray, impossible


def _chi_square(rows: Sequence[_Row]) -> tuple[float, int]:
    """(O - E)' V^+ (O - E), V = sum over periods of n (diag(w) - w w'), and its df: Pearson's where there is one period."""
    with np.errstate(over="ignore"):
        return _quadratic(rows)


def _quadratic(rows: Sequence[_Row]) -> tuple[float, int]:
    filled = [(np.array(shares(weights)), np.array(counts, dtype=float)) for weights, counts in rows if sum(counts)]
    if len(filled) == 1:
        theta, observed = filled[0]
        # Below the smallest normal number n / expected overflows; no draw can show a share like that.
        kept = theta > 1e-300
        expected = theta[kept] * observed.sum()
        return _finite(np.sum((observed[kept] - expected) ** 2 / expected)), max(0, int(kept.sum()) - 1)
    if not filled:
        return 0.0, 0
    size = len(filled[0][0])
    apart, variance = np.zeros(size), np.zeros((size, size))
    for theta, observed in filled:
        n = observed.sum()
        apart += observed - n * theta
        variance += n * (np.diag(theta) - np.outer(theta, theta))
    values, vectors = np.linalg.eigh(variance)
    kept = values > 1e-9 * max(float(values[-1]), 1e-300)
    along = vectors[:, kept].T @ apart
    return _finite(np.sum(along**2 / values[kept])), int(kept.sum())


def _finite(statistic: float) -> float:
    """Shares below 1e-300 overflow it; their p-value is as good as any that small."""
    return min(float(statistic), LARGEST)
