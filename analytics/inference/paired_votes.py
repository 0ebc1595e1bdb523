"""Votes between pairs, and what a fitted model of them says with raters as clusters: covariance, and whether one order fits."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import fdtrc

Floats = NDArray[np.float64]
# What became of a vote between a pair (first, second).
WON, LOST, TIED = 0, 1, 2
# Below this share of the largest eigenvalue a direction has no variance of its own.
NO_VARIANCE = 1e-9


class PairedVotes:
    """Votes between P pairs of K arms.

    `pairs` [P][2]: numbers of the arms, first < second. `counts` [P][3]: votes that the first won, lost, tied. `products`
    [3P][3P], sparse and symmetric: of the counts per rater in every two cells 3 pair + outcome, summed over raters.
    """

    def __init__(self, arms: int, pairs: NDArray[np.int64], counts: Floats, products: csr_array) -> None:
        self.arms, self.pairs, self.counts, self.products = arms, pairs, counts, products
        self.totals: Floats = counts.sum(axis=1)
        self.scores: Floats = counts[:, WON] + counts[:, TIED] / 2

    def won_and_tied(self) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
        """(i, j): i won a vote against j; and the pairs that tied one."""
        won = {(int(i), int(j)) for (i, j), count in zip(self.pairs, self.counts, strict=True) if count[WON]}
        won |= {(int(j), int(i)) for (i, j), count in zip(self.pairs, self.counts, strict=True) if count[LOST]}
        return won, {(int(i), int(j)) for (i, j), count in zip(self.pairs, self.counts, strict=True) if count[TIED]}

    def design(self) -> Floats:
        """[P][K]: 1 for the first arm, -1 for the second."""
        rows = np.arange(len(self.pairs))
        design = np.zeros((len(self.pairs), self.arms))
        design[rows, self.pairs[:, 0]], design[rows, self.pairs[:, 1]] = 1.0, -1.0
        return design


class Fit:
    """A model of paired votes at its maximum: strengths that sum to 0 on the logit scale, and `tie_log`, ln nu of Davidson's.

    `expected` [P]: the score (win 1, tie 1/2) that the model gives the first of each pair. `information` [q][q] and `influences`
    [3P][q]: the score of one vote in each cell, over the K strengths and, of Davidson's, ln nu. `weights` [P][d][d]: the
    information of one vote of each pair about its d natural parameters; `residuals` [P][3][d]: what one vote of each
    outcome said beyond the model; `columns` [P][d][q]: how they depend on the parameters.
    """

    def __init__(
        self, votes: PairedVotes, strengths: Floats, tie_log: float | None, expected: Floats, weights: Floats, residuals: Floats
    ) -> None:
        self.votes, self.strengths, self.tie_log, self.expected = votes, strengths, tie_log, expected
        self.weights, self.residuals = weights, residuals
        self.columns = columns_of(votes, weights.shape[1])
        self.information: Floats = np.einsum("pda,p,pde,peb->ab", self.columns, votes.totals, weights, self.columns)
        self.influences: Floats = np.einsum("pod,pdq->poq", residuals, self.columns).reshape(-1, self.columns.shape[2])

    def covariance(self) -> Floats:
        """[q][q], raters as clusters: pinv(H) (sum_u g_u g_u') pinv(H), exact whatever the strengths; no small-sample factor."""
        inverse = self._inverse()
        meat = self.influences.T @ (self.votes.products @ self.influences)
        return np.asarray(inverse @ meat @ inverse)

    def naive_covariance(self) -> Floats:
        """[q][q], as if every vote came from somebody else: pinv(H)."""
        return self._inverse()

    def one_order_p(self, raters: int) -> float | None:
        """Do pairs score as one order of strengths gives, but for chance? None where pairs leave nothing to test, or raters are
        too few.

        The pairs' scores against the model's, a score test of it against free pairs, with the covariance of raters as clusters
        (White 1982), by Hotelling's F on `raters`. With one vote per rater it is, in large samples, the likelihood-ratio test.
        """
        votes, width = self.votes, self.weights.shape[1]
        freedom = len(votes.pairs) - votes.arms + 1
        if freedom < 1 or raters < 2 * freedom + 10:
            return None
        count = len(votes.pairs)
        flat = self.columns.reshape(count * width, -1)
        weighted = np.einsum("p,pde,peq->pdq", votes.totals, self.weights, self.columns).reshape(count * width, -1)
        # What is left of each pair's score once the parameters have taken their part of it.
        left = (np.eye(count * width) - weighted @ self._inverse() @ flat.T)[::width].reshape(count, count, width)
        spread = np.einsum("pod,rpd->por", self.residuals, left).reshape(-1, count)
        total = votes.scores - votes.totals * self.expected
        variance = spread.T @ (votes.products @ spread)
        values, vectors = np.linalg.eigh((variance + variance.T) / 2)
        kept = values > NO_VARIANCE * values[-1]
        rank = int(kept.sum())
        if not 0 < rank < raters:
            return None
        statistic = float(np.sum((vectors[:, kept].T @ total) ** 2 / values[kept]))
        # Hotelling's T^2 from the covariance about the mean; products are about 0.
        centred = statistic / (1 - min(statistic / raters, 1 - 1e-12)) * (raters - 1) / raters
        return float(fdtrc(rank, raters - rank, centred * (raters - rank) / (rank * (raters - 1))))

    def _inverse(self) -> Floats:
        return np.asarray(np.linalg.pinv(self.information, rcond=1e-12, hermitian=True))


def columns_of(votes: PairedVotes, width: int) -> Floats:
    """[P][d][q]: natural parameters of each pair (the difference of strengths; for d = 2, ln nu too) by parameters of the model."""
    design = votes.design()
    if width == 1:
        return design[:, None, :]
    columns = np.zeros((len(design), 2, votes.arms + 1))
    columns[:, 0, :-1], columns[:, 1, -1] = design, 1.0
    return columns
