"""Davidson 1970 (JASA 65:317, equations 2.1 and 2.2): Bradley-Terry with ties,
P(i over j) : P(j over i) : P(tie) = exp(s_i) : exp(s_j) : nu exp((s_i + s_j)/2)."""

import numpy as np

from analytics.inference.connected import groups, ties_told
from analytics.inference.paired_votes import TIED, Fit, Floats, PairedVotes, columns_of

STEPS = 200
TOLERANCE = 1e-11
# Of each outcome: what it says of the difference of strengths, and of ln nu.
SAID = np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])


def davidson(votes: PairedVotes) -> Fit:
    """Maximum likelihood by Newton's method with halved steps; strengths sum to 0.

    Raises ValueError where votes do not connect all arms both ways, or do not tell ties from strengths (`connected.ties_told`).
    """
    won, tied = votes.won_and_tied()
    if len(groups(votes.arms, won, tied)) > 1 or not ties_told(range(votes.arms), won, tied):
        raise ValueError(f"votes between {votes.arms} arms do not tell ties from strengths; take Bradley-Terry, or the arms of one group")
    columns = columns_of(votes, 2)
    told = votes.counts @ SAID
    found = np.zeros(votes.arms + 1)
    level = _likelihood(votes, columns, told, found)
    for _ in range(STEPS):
        chances = _chances(columns @ found)
        mean = chances @ SAID
        slope = np.einsum("pdq,pd->q", columns, told - votes.totals[:, None] * mean)
        if np.abs(slope).max() <= TOLERANCE * max(1.0, votes.totals.sum()):
            return _fit(votes, found, chances)
        curve = np.einsum("pda,p,pde,peb->ab", columns, votes.totals, _information(chances), columns)
        step = np.linalg.lstsq(curve, slope, rcond=1e-12)[0]
        scale = 1.0
        while (better := _likelihood(votes, columns, told, found + scale * step)) < level - 1e-12 * abs(level) and scale > 1e-6:
            scale /= 2
        found, level = found + scale * step, better
        found[:-1] -= found[:-1].mean()
    raise ValueError(f"strengths of {votes.arms} arms and their ties did not settle in {STEPS} steps")


def _chances(natural: Floats) -> Floats:
    """[P][3]: of the outcomes, from the difference of strengths and ln nu."""
    logits = natural @ SAID.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _likelihood(votes: PairedVotes, columns: Floats, told: Floats, found: Floats) -> float:
    natural = columns @ found
    return float(np.sum(told * natural) - votes.totals @ np.logaddexp.reduce(natural @ SAID.T, axis=1))


def _information(chances: Floats) -> Floats:
    mean = chances @ SAID
    return np.asarray(np.einsum("po,od,oe->pde", chances, SAID, SAID) - mean[:, :, None] * mean[:, None, :])


def _fit(votes: PairedVotes, found: Floats, chances: Floats) -> Fit:
    residuals = SAID[None] - (chances @ SAID)[:, None, :]
    expected = chances[:, 0] + chances[:, TIED] / 2
    strengths = found[:-1] - found[:-1].mean()
    return Fit(votes, strengths, float(found[-1]), expected, _information(chances), residuals)
