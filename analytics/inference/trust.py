"""Trust: some cells get events that the picture did not earn. P(event | arm a, cell k) = alpha_k gamma_a + beta_k.

Position-based is beta = 0 (Agarwal et al. 2019, "Addressing Trust Bias for Unbiased Learning-to-Rank", §3). gamma is known up to
scale and shift, so cell 0 has alpha = 1, beta = 0. Two arms of different attraction identify the rest.
"""

from typing import NamedTuple

import numpy as np

from analytics.inference.position import Floats, PositionFit, Tally, wald

ROUNDS, TOLERANCE = 200, 1e-9
SMALLEST_CHANCE = 1e-9


class TrustFit(NamedTuple):
    """`attraction` [rows], `slope` (alpha) and `floor` (beta) [cells] with their standard errors, clustered by unit.

    `likelihood_ratio` against the position-based model, by the Poisson quasi-likelihood, with `df`.
    """

    attraction: Floats
    slope: Floats
    floor: Floats
    slope_se: Floats
    floor_se: Floats
    likelihood_ratio: float
    df: int


def alike(counts: Tally, fit: PositionFit) -> tuple[float, int] | None:
    """Chi-square and its df that all arms attract alike: then trust cannot be told from examination. None for one arm."""
    if len(fit.rows) < 2:
        return None
    logs, weights = np.log(fit.attraction[fit.rows]), fit.attraction_weights[fit.rows]
    return wald(logs[1:] - logs[0], counts.variance(weights[1:] - weights[0]))


def trust_test(counts: Tally, fit: PositionFit) -> tuple[float, int] | None:
    """Chi-square and its df of the position-based model against trust: the score in the direction of beta, its spread clustered by
    unit (generalised score test, Boos 1992). None for one arm."""
    rows, (size, cells) = fit.rows, counts.shown.shape
    if len(rows) < 2:
        return None
    mean, n = fit.mean[rows], size * cells
    own = (rows[:, None] * cells + np.arange(cells)).ravel()
    score = (counts.got[rows] / mean - counts.shown[rows]).sum(axis=0)[1:]
    direct = np.zeros((cells - 1, 2 * n))
    each = np.tile(np.eye(cells)[1:], (1, len(rows)))
    direct[:, own], direct[:, n + own] = -each, each / mean.ravel()
    moved = np.vstack([fit.attraction_weights[rows], fit.examination_weights[1:]])
    # d score / d log gamma_a, and d score / d log theta_k: what the fitted parameters take with them.
    shown = counts.shown[rows]
    taken = np.hstack([shown.T[1:], np.diag(shown.sum(axis=0)[1:])])
    return wald(score, counts.variance(direct - taken @ moved))


def trust_fit(counts: Tally, fit: PositionFit) -> TrustFit | None:
    """Maximum of the Poisson quasi-likelihood by Fisher scoring, from the position-based fit. None for one arm, and where no
    maximum is found."""
    rows, (size, cells) = fit.rows, counts.shown.shape
    if len(rows) < 2:
        return None
    shown, got = counts.shown[rows], counts.got[rows]
    parameters = np.concatenate([fit.attraction[rows], fit.examination[1:], np.zeros(cells - 1)])
    best = _quasi(shown, got, _chance(parameters, len(rows), cells))
    worst = best
    for _ in range(ROUNDS):
        chance, jacobian = _chance(parameters, len(rows), cells), _jacobian(parameters, len(rows), cells)
        information = jacobian.T @ (jacobian * (shown / chance).reshape(-1, 1))
        score = jacobian.T @ ((got - shown * chance) / chance).ravel()
        step = np.linalg.pinv(information, rcond=1e-12, hermitian=True) @ score
        if float(score @ step) < TOLERANCE:
            break
        share = 1.0
        while share > 1e-6:
            tried = parameters + share * step
            value = _quasi(shown, got, _chance(tried, len(rows), cells))
            if value >= best:
                break
            share /= 2
        else:
            return None
        parameters, best = tried, value
    else:
        return None
    n = size * cells
    own = (rows[:, None] * cells + np.arange(cells)).ravel()
    moved = np.zeros((len(parameters), 2 * n))
    inverse = np.linalg.pinv(information, rcond=1e-12, hermitian=True) @ jacobian.T
    moved[:, own], moved[:, n + own] = -inverse, inverse / chance.ravel()
    errors = np.sqrt(np.maximum(0.0, np.diagonal(counts.variance(moved))))
    a, b = len(rows), len(rows) + cells - 1
    attraction = np.zeros(size)
    attraction[rows] = parameters[:a]
    return TrustFit(
        attraction=attraction,
        slope=np.concatenate([[1.0], parameters[a:b]]),
        floor=np.concatenate([[0.0], parameters[b:]]),
        slope_se=np.concatenate([[0.0], errors[a:b]]),
        floor_se=np.concatenate([[0.0], errors[b:]]),
        likelihood_ratio=max(0.0, 2 * (best - worst)),
        df=cells - 1,
    )


def _chance(parameters: Floats, rows: int, cells: int) -> Floats:
    gamma, slope, floor = np.split(parameters, [rows, rows + cells - 1])
    chance: Floats = np.outer(gamma, np.concatenate([[1.0], slope])) + np.concatenate([[0.0], floor])
    return chance


def _jacobian(parameters: Floats, rows: int, cells: int) -> Floats:
    """d chance / d parameters [rows x cells, parameters]."""
    gamma, slope, _ = np.split(parameters, [rows, rows + cells - 1])
    inner = np.eye(cells)[:, 1:]
    by_gamma = np.kron(np.eye(rows), np.concatenate([[1.0], slope])[:, None])
    return np.hstack([by_gamma, np.kron(gamma[:, None], inner), np.kron(np.ones((rows, 1)), inner)])


def _quasi(shown: Floats, got: Floats, chance: Floats) -> float:
    """The Poisson log-likelihood up to a constant; minus infinity where a chance is not above 0."""
    if chance[shown > 0].min() <= SMALLEST_CHANCE:
        return -np.inf
    return float(np.sum(got * np.log(np.maximum(chance, SMALLEST_CHANCE)) - shown * chance))
