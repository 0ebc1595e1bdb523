"""Bradley-Terry and Davidson against statsmodels, scipy and arithmetic."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from paired_cases import Row, drawn, facts, names
from scipy.optimize import minimize
from scipy.stats import chi2

from analytics.inference.bradley_terry import bradley_terry
from analytics.inference.davidson import davidson
from analytics.inference.paired_votes import Fit
from analytics.report.standings import votes_of


def fitted(rows: list[Row], arms: int, model=bradley_terry) -> Fit:  # type: ignore[no-untyped-def]
    return model(votes_of(facts(rows, arms), names(arms)))


def test_two_arms_are_a_log_odds() -> None:
    rows = [(rater, 0, 1, 0 if rater < 30 else 1) for rater in range(40)]
    fit = fitted(rows, 2)
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(math.log(3), abs=1e-10)
    # One vote per rater: the binomial's 1/(n p (1 - p)), in both ways.
    for covariance in (fit.covariance(), fit.naive_covariance()):
        assert covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1] == pytest.approx(1 / (40 * 0.75 * 0.25))


def test_bradley_terry_is_a_logit_with_clusters() -> None:
    """statsmodels 0.15: Logit on differences of dummies, the last arm 0; cov_type cluster without correction."""
    rows, arms = drawn([0.8, 0.1, -0.3, -0.6], raters=60, each=7, habit=0.8), 4
    design = np.zeros((len(rows), arms))
    for number, (_, i, j, _) in enumerate(rows):
        design[number, i], design[number, j] = 1, -1
    won = np.array([outcome == 0 for *_, outcome in rows], float)
    groups = np.array([row[0] for row in rows])
    wanted = sm.Logit(won, design[:, :-1]).fit(disp=0, tol=1e-12, cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    fit = fitted(rows, arms)
    assert fit.strengths.sum() == pytest.approx(0, abs=1e-12)
    assert fit.strengths[:-1] - fit.strengths[-1] == pytest.approx(wanted.params, abs=1e-8)
    to_last = np.hstack([np.eye(arms - 1), -np.ones((arms - 1, 1))])
    assert to_last @ fit.covariance() @ to_last.T == pytest.approx(wanted.cov_params(), rel=1e-6)
    naive = sm.Logit(won, design[:, :-1]).fit(disp=0, tol=1e-12)
    assert to_last @ fit.naive_covariance() @ to_last.T == pytest.approx(naive.cov_params(), rel=1e-6)


def log_likelihood(found: np.ndarray, row: Row) -> float:
    """Of one vote, as Davidson writes it: pi_i = exp(s_i), ties nu sqrt(pi_i pi_j)."""
    strengths, nu = np.append(found[:-1], -found[:-1].sum()), math.exp(found[-1])
    _, i, j, outcome = row
    first, second = math.exp(strengths[i]), math.exp(strengths[j])
    tie = nu * math.sqrt(first * second)
    return math.log((first, second, tie)[outcome] / (first + second + tie))


def test_davidson_is_the_maximum_of_its_likelihood() -> None:
    """scipy on the probabilities as the paper writes them; the sandwich from scores by differences, summed per rater."""
    rows, arms = drawn([0.7, 0.0, -0.7], raters=25, each=6, nu=0.8, habit=0.7, seed=4), 3
    best = minimize(lambda x: -sum(log_likelihood(x, row) for row in rows), np.zeros(arms), method="BFGS", options={"gtol": 1e-6})
    fit = fitted(rows, arms, davidson)
    assert fit.strengths[:-1] == pytest.approx(best.x[:-1], abs=1e-5) and fit.tie_log == pytest.approx(best.x[-1], abs=1e-5)

    step, x = 1e-4, np.append(fit.strengths[:-1], fit.tie_log)
    ways = np.eye(arms) * step
    scores = np.zeros((25, arms))
    for row in rows:
        scores[row[0]] += [(log_likelihood(x + way, row) - log_likelihood(x - way, row)) / (2 * step) for way in ways]
    information = np.zeros((arms, arms))
    for a, one in enumerate(ways):
        for b, other in enumerate(ways):
            four = [(1, x + one + other), (-1, x + one - other), (-1, x - one + other), (1, x - one - other)]
            information[a, b] = -sum(sign * log_likelihood(at, row) for sign, at in four for row in rows) / (4 * step**2)
    wanted = np.linalg.inv(information) @ scores.T @ scores @ np.linalg.inv(information)
    kept = [0, 1, 3]
    assert fit.covariance()[np.ix_(kept, kept)] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert fit.naive_covariance()[np.ix_(kept, kept)] == pytest.approx(np.linalg.inv(information), rel=1e-4, abs=1e-6)


def test_ties_are_half_a_win_to_bradley_terry() -> None:
    with_ties = [(rater, 0, 1, 2 if rater < 20 else 0 if rater < 35 else 1) for rater in range(40)]
    fit = fitted(with_ties, 2)
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(math.log(25 / 15), abs=1e-10)
    assert fit.expected.tolist() == pytest.approx([25 / 40])


def test_votes_that_settle_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="2 groups, between which one won or lost all"):
        fitted([(rater, 0, 1, 0) for rater in range(40)], 2)
    with pytest.raises(ValueError, match="do not tell ties from strengths"):
        fitted([(rater, 0, 1, 2 if rater < 3 else 0) for rater in range(9)], 2, davidson)


def test_a_circle_is_not_one_order() -> None:
    circle = [(rater, *((0, 1, 0), (1, 2, 0), (0, 2, 1))[rater % 3]) for rater in range(300)]
    noise = [(300 + rater, *((0, 1, 1), (1, 2, 1), (0, 2, 0))[rater % 3]) for rater in range(90)]
    fit = fitted(circle + noise, 3)
    assert fit.strengths == pytest.approx([0, 0, 0], abs=1e-9)
    p = fit.one_order_p(390)
    assert p is not None and p < 1e-10
    assert fitted(circle[:12] + noise[:3], 3).one_order_p(11) is None


def test_one_order_with_a_vote_per_rater_is_the_likelihood_ratio() -> None:
    rows = drawn([0.5, 0.2, -0.2, -0.5], raters=6000, each=1, seed=8)
    fit = fitted(rows, 4)
    votes = fit.votes
    free = votes.scores / votes.totals
    ratio = 2 * float(
        np.sum(votes.scores * np.log(free / fit.expected) + (votes.totals - votes.scores) * np.log((1 - free) / (1 - fit.expected)))
    )
    assert fit.one_order_p(6000) == pytest.approx(chi2.sf(ratio, 3), abs=0.01)


@pytest.mark.parametrize("model", [bradley_terry, davidson])
def test_one_order_keeps_its_level(model) -> None:  # type: ignore[no-untyped-def]
    """200 draws with raters of strong habits: p-values near uniform, so that few fall below 0.1."""
    nu = 0.0 if model is bradley_terry else 0.7
    found = []
    for seed in range(200):
        rows = drawn([0.5, 0, 0, -0.5], raters=50, each=6, nu=nu, habit=0.6, seed=seed)
        found.append(fitted(rows, 4, model).one_order_p(50))
    share = np.mean([p is not None and p < 0.1 for p in found])
    # Habits bend pairs a little away from one order on average, which 50 raters do not show.
    assert 0.04 <= share <= 0.18
