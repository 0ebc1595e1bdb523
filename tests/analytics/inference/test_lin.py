"""Lin's interacted regression from moments and from an arm's own regression: against statsmodels' one regression of all rows."""

import numpy as np
import pytest
import statsmodels.api as sm
from joint_cases import joint

from analytics.facts import Regressed
from analytics.inference.lin import lin_contrast, regressed
from analytics.report.contrasts import contrast_of
from analytics.report.question import Question


def draw(seed: int, n_a: int = 400, n_b: int = 300):
    rng = np.random.default_rng(seed)
    x_a, x_b = rng.normal(0, 1, (2, n_a)), rng.normal(0.1, 1.2, (2, n_b))
    y_a = 3 + x_a[0] - 2 * x_a[1] + rng.normal(0, 1, n_a)
    y_b = 3.4 + 1.5 * x_b[0] - 2 * x_b[1] + rng.normal(0, 2, n_b)
    return (y_a, *x_a), (y_b, *x_b)


def interacted(a, b):
    """statsmodels: y ~ 1 + Z + X + Z X, X centred at the mean over both arms."""
    y = np.concatenate([a[0], b[0]])
    z = np.repeat([0.0, 1.0], [len(a[0]), len(b[0])])
    x = np.column_stack([np.concatenate([p, q]) for p, q in zip(a[1:], b[1:], strict=True)])
    x = x - x.mean(axis=0)
    return sm.OLS(y, np.column_stack([np.ones_like(z), z, x, x * z[:, None]]))


def rows_regressed(y, *x) -> Regressed:
    """An arm's own regression with HC2, by statsmodels."""
    columns = np.column_stack(x)
    fit = sm.OLS(y, sm.add_constant(columns - columns.mean(axis=0))).fit(cov_type="HC2")
    return Regressed(
        n=len(y),
        mean=float(y.mean()),
        m2=float(((y - y.mean()) ** 2).sum()),
        covariate_means=tuple(columns.mean(axis=0)),
        coefficients=tuple(fit.params[1:]),
        covariance=tuple(map(tuple, fit.cov_params())),
    )


def test_from_rows_is_hc2_of_the_whole_regression():
    a, b = draw(1)
    theirs = interacted(a, b).fit(cov_type="HC2")
    ours = lin_contrast(rows_regressed(*a), rows_regressed(*b))
    assert ours is not None and ours.contrast.df is None
    assert ours.contrast.difference == pytest.approx(theirs.params[1], rel=1e-10)
    assert ours.contrast.se == pytest.approx(theirs.bse[1], rel=1e-10)
    assert ours.contrast.control == pytest.approx(a[0].mean(), rel=1e-12)


def test_from_moments_same_effect_and_each_arms_own_variance():
    a, b = draw(2)
    theirs = interacted(a, b).fit()
    left, right = regressed(joint(*a)), regressed(joint(*b))
    assert left is not None and right is not None
    ours = lin_contrast(left, right)
    assert ours is not None
    assert ours.contrast.difference == pytest.approx(theirs.params[1], rel=1e-10)
    total = np.concatenate([np.column_stack(a[1:]), np.column_stack(b[1:])]).mean(axis=0)
    variance = 0.0
    for arm in (a, b):
        columns = np.column_stack(arm[1:])
        fit = sm.OLS(arm[0], sm.add_constant(columns - total)).fit()
        variance += fit.bse[0] ** 2
    assert ours.contrast.se == pytest.approx(np.sqrt(variance), rel=1e-10)
    raw = a[0].var(ddof=1) / len(a[0]) + b[0].var(ddof=1) / len(b[0])
    assert ours.variance_reduction == pytest.approx(1 - variance / raw, rel=1e-9)
    assert ours.variance_reduction > 0.5


def test_lift_spread_is_that_of_repeated_experiments():
    lifts, errors = [], []
    for seed in range(300):
        left, right = (regressed(joint(*arm)) for arm in draw(seed + 10, 150, 150))
        assert left is not None and right is not None
        ours = lin_contrast(left, right)
        assert ours is not None and ours.contrast.relative_se is not None
        lifts.append(ours.contrast.difference / ours.contrast.control)
        errors.append(ours.contrast.relative_se)
    assert np.mean(errors) == pytest.approx(np.std(lifts), rel=0.15)


def test_repeated_and_constant_covariates_change_nothing():
    a, b = draw(3)
    plain = lin_contrast(regressed(joint(*a)), regressed(joint(*b)))
    twice = lin_contrast(*(regressed(joint(*arm, arm[1], np.full(len(arm[0]), 7.0))) for arm in (a, b)))
    assert plain is not None and twice is not None
    assert twice.contrast.difference == pytest.approx(plain.contrast.difference, rel=1e-8)
    assert twice.contrast.se == pytest.approx(plain.contrast.se, rel=1e-2)


def test_too_few_units_or_nothing_left_over():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 3))
    assert regressed(joint(rng.normal(size=3), *x)) is None
    many = rng.normal(size=(2, 50))
    assert regressed(joint(many[0] + 2 * many[1], *many)) is None
    nobody = joint(*rng.normal(size=(3, 1)))
    assert regressed(nobody) is None


def test_a_question_takes_the_regression_and_falls_back():
    a, b = draw(5)
    arms = {"base": joint(*a), "vivid": joint(*b)}
    from report_cases import moments

    def ask(joints):
        return Question(
            metric="y", role="primary", kind="mean", direction="up", facts={"base": moments(a[0]), "vivid": moments(b[0])}, joint=joints
        )

    found = contrast_of(ask(arms), "vivid", "base")
    assert "Lin 2013" in found.method and "x0, x1" in found.method
    assert found.variance_reduction is not None and found.variance_reduction > 0.5
    rows = {"base": rows_regressed(*a), "vivid": rows_regressed(*b)}
    question = Question(metric="y", role="primary", kind="mean", direction="up", facts=ask(arms).facts, joint=arms, regressed=rows)
    assert "HC2" in contrast_of(question, "vivid", "base").method
    none = contrast_of(ask(None), "vivid", "base")
    assert none.method == "Welch's t test" and none.variance_reduction is None
