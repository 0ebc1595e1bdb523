"""Bradley & Terry 1952: strengths s from who was preferred, P(i over j) = 1/(1 + exp(s_j - s_i)). A tie is half a win for both."""

import numpy as np
from scipy.special import expit

from analytics.inference.connected import groups
from analytics.inference.paired_votes import Fit, Floats, PairedVotes

STEPS = 100
TOLERANCE = 1e-11


def bradley_terry(votes: PairedVotes) -> Fit:
    """Maximum likelihood by Newton's method with halved steps; the strengths sum to 0. With ties it is a quasi-likelihood: right
    for the scores, and its covariance by raters is right too.

    Raises ValueError where votes do not connect all arms both ways (`connected.groups`): there is no maximum.
    """
    if len(apart := groups(votes.arms, *votes.won_and_tied())) > 1:
        raise ValueError(f"{votes.arms} arms fall into {len(apart)} groups, between which one won or lost all; take the arms of one")
    design = votes.design()
    strengths = np.zeros(votes.arms)
    level = _likelihood(votes, design, strengths)
    for _ in range(STEPS):
        expected = expit(design @ strengths)
        slope = design.T @ (votes.scores - votes.totals * expected)
        if np.abs(slope).max() <= TOLERANCE * max(1.0, votes.totals.sum()):
            return _fit(votes, strengths, expected)
        curve = design.T @ ((votes.totals * expected * (1 - expected))[:, None] * design)
        step = np.linalg.lstsq(curve, slope, rcond=1e-12)[0]
        scale = 1.0
        while (found := _likelihood(votes, design, strengths + scale * step)) < level - 1e-12 * abs(level) and scale > 1e-6:
            scale /= 2
        strengths, level = strengths + scale * step, found
        strengths -= strengths.mean()
    raise ValueError(f"strengths of {votes.arms} arms did not settle in {STEPS} steps")


def _likelihood(votes: PairedVotes, design: Floats, strengths: Floats) -> float:
    gap = design @ strengths
    return float(votes.scores @ gap - votes.totals @ np.logaddexp(0, gap))


def _fit(votes: PairedVotes, strengths: Floats, expected: Floats) -> Fit:
    weights = (expected * (1 - expected))[:, None, None]
    said = np.array([1.0, 0.0, 0.5])
    residuals = (said[None, :] - expected[:, None])[:, :, None]
    return Fit(votes, strengths - strengths.mean(), None, expected, weights, residuals)
