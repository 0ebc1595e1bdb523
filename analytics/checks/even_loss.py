"""Units that go missing, or are left out, should go from every arm alike: an e-value that holds at any look, ramps or none."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from analytics.checks.sample_ratio import SRM_GATE, marginal, shares
from analytics.facts import WeightPeriod

# Two beliefs, averaged: one for a gross leak of few units, one for a slight one of many.
CONCENTRATIONS = (10.0, 1000.0)
STEPS = 200


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Units per arm that something took away, and how many each arm would have lost had it struck alike. `ok`: the e-value
    against that is below 1000, at any look."""

    units: dict[str, int]
    expected: dict[str, float]
    e_value: float
    ok: bool

    @property
    def total(self) -> int:
        return sum(self.units.values())


def even_loss(lost: Mapping[str, int], periods: Sequence[WeightPeriod], arms: Sequence[str]) -> Loss:
    """Did each arm lose its share?

    Where weights changed nobody knows when the units were lost, so that any mixture of the periods' weights is a fair share:
    the Dirichlet-multinomial of Lindon & Malek (2022, arXiv 2011.03567) over the likelihood of the mixture that fits best
    (universal inference; Wasserman, Ramdas & Balakrishnan 2020, arXiv 1912.11436, §8). Arms of weight 0 throughout are left out.
    """
    # Periods without units too: whoever came in them may be just who was lost.
    given = [shares([period.weights.get(arm, 0.0) for arm in arms]) for period in periods]
    rows = np.array([row for row in given if sum(row) > 0], dtype=float).reshape(-1, len(arms))
    open_ = rows.sum(0) > 0 if len(rows) else np.zeros(len(arms), dtype=bool)
    counts = np.array([lost.get(arm, 0) if open_[i] else 0 for i, arm in enumerate(arms)], dtype=float)
    log_e, fair = 0.0, np.zeros(len(arms))
    if open_.sum() >= 2 and counts.sum() > 0:
        best, slack = _closest(rows[:, open_], counts[open_])
        fair[open_] = best
        prior = rows[0, open_]
        if not prior.all():
            prior = 0.9 * prior + 0.1 / len(prior)
        gained = np.logaddexp.reduce([marginal(prior, counts[open_], k) for k in CONCENTRATIONS]) - math.log(len(CONCENTRATIONS))
        log_e = float(gained - _log_likelihood(best, counts[open_]) - slack)
    return Loss(
        units={arm: int(lost.get(arm, 0)) for arm in arms},
        expected={arm: float(share * counts.sum()) for arm, share in zip(arms, fair, strict=True)},
        e_value=math.exp(min(log_e, 690.0)),
        ok=log_e < math.log(SRM_GATE),
    )


def _closest(rows: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, float]:
    """The mixture of `rows` [periods, arms] under which `counts` are likeliest, and how far its ln likelihood may be from the
    greatest. By expectation-maximisation; the likelihood is concave in the mixture."""
    mixture = np.full(len(rows), 1 / len(rows))
    total = counts.sum()
    for _ in range(STEPS if len(rows) > 1 else 1):
        share = np.maximum(mixture @ rows, 1e-300)
        gain = rows @ np.divide(counts, share, out=np.zeros_like(counts), where=counts > 0) / total
        if gain.max() - 1 < 1e-9:
            break
        mixture = mixture * gain
        mixture /= mixture.sum()
    share = np.maximum(mixture @ rows, 1e-300)
    gain = rows @ np.divide(counts, share, out=np.zeros_like(counts), where=counts > 0) / total
    return share, max(0.0, float(total * (gain.max() - 1)))


def _log_likelihood(theta: np.ndarray, counts: np.ndarray) -> float:
    seen = counts > 0
    return float(np.sum(counts[seen] * np.log(np.maximum(theta[seen], 1e-300))))
