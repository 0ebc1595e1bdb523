"""Parts of the units put together: against the 2x2 formula written out, the pooled sample, and experiments whose weights ramp."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_cases import joint
from report_cases import moments

from analytics.facts import Joint
from analytics.inference.contrast import welch_df
from analytics.inference.cuped import adjusted_contrast
from analytics.inference.poststratification import pooled
from analytics.report.contrasts import contrast_of
from analytics.report.question import Question


def strata(rng: np.random.Generator):
    """Three strata with means 1, 4, 9; control and treated of each."""
    return [(rng.normal(m, 1, n_a), rng.normal(m + 0.3, 1.5, n_b)) for m, n_a, n_b in ((1, 80, 60), (4, 50, 70), (9, 40, 45))]


def test_formula():
    parts = strata(np.random.default_rng(1))
    total = sum(len(a) + len(b) for a, b in parts)
    shares = [(len(a) + len(b)) / total for a, b in parts]
    rows = [np.array([a.mean(), b.mean() - a.mean()]) for a, b in parts]
    centre = sum(w * r for w, r in zip(shares, rows, strict=True))
    given_shares = np.zeros((2, 2))
    between = -np.outer(centre, centre)
    for w, r, (a, b) in zip(shares, rows, parts, strict=True):
        p, q = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        given_shares += w**2 * np.array([[p, -p], [-p, p + q]])
        between += w * np.outer(r, r)
    pairs = [(joint(a), joint(b)) for a, b in parts]
    for known, covariance in ((True, given_shares), (False, given_shares + between / total)):
        ours = adjusted_contrast(pairs, shares_given=known)
        assert ours is not None
        assert ours.contrast.difference == pytest.approx(centre[1], rel=1e-10)
        assert ours.contrast.se == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-9)
        gradient = np.array([-centre[1] / centre[0] ** 2, 1 / centre[0]])
        assert ours.contrast.relative_se == pytest.approx(math.sqrt(gradient @ covariance @ gradient), rel=1e-9)
        a, b = (np.concatenate([pair[k] for pair in parts]) for k in (0, 1))
        assert ours.contrast.df == pytest.approx(
            welch_df(a.var(ddof=1) / len(a), b.var(ddof=1) / len(b), (len(a) - 1, len(b) - 1)), rel=1e-9
        )


def test_stratifying_by_what_matters_narrows():
    parts = strata(np.random.default_rng(2))
    whole = adjusted_contrast([(joint(np.concatenate([a for a, _ in parts])), joint(np.concatenate([b for _, b in parts])))])
    cut = adjusted_contrast([(joint(a), joint(b)) for a, b in parts], shares_given=False)
    assert whole is not None and cut is not None and cut.contrast.se < 0.6 * whole.contrast.se


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(-1e6, 1e6))
def test_pooling_is_one_pass(seed, count, shift):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(shift + k, 1 + k, (3, int(rng.integers(1, 30)))) for k in range(count)]
    together = pooled([joint(*rows) for rows in parts])
    direct = joint(*np.concatenate(parts, axis=1))
    assert together.n == direct.n and together.means == pytest.approx(direct.means, rel=1e-12, abs=1e-9)
    assert np.asarray(together.products) == pytest.approx(np.asarray(direct.products), rel=1e-6, abs=1e-5)


def question(facts, kind="mean", **parts) -> Question:
    return Question(metric="y", role="primary", kind=kind, direction="up", facts=facts, **parts)


def ramp(rng: np.random.Generator, kind: str):
    """No effect, but the metric rises while the treated arm's weight does: 5%, then 20%, then 50%."""
    periods, all_a, all_b = [], [], []
    for level, n_a, n_b in ((0.2, 950, 50), (0.3, 800, 200), (0.5, 500, 500)):
        draw = (
            (lambda n, p=level: (rng.random(n) < p).astype(float)) if kind == "proportion" else (lambda n, p=level: rng.normal(p, 0.5, n))
        )
        a, b = draw(n_a), draw(n_b)
        periods.append({"base": joint(a), "vivid": joint(b)})
        all_a.append(a)
        all_b.append(b)
    facts = {"base": moments(np.concatenate(all_a)), "vivid": moments(np.concatenate(all_b))}
    return question(facts, kind, periods=periods), question(facts, kind)


@pytest.mark.parametrize("kind", ["mean", "proportion"])
def test_a_ramp_under_a_trend_is_no_effect(kind):
    """300 A/A experiments: within periods 5% of them are significant; taken together, nearly all are."""
    rng = np.random.default_rng(7)
    critical, within, together = 1.96, 0, 0
    for _ in range(300):
        apart, mixed = ramp(rng, kind)
        found = contrast_of(apart, "vivid", "base")
        assert found.contrast is not None and "within 3 periods" in found.method
        within += abs(found.contrast.statistic()) > critical
        plain = contrast_of(mixed, "vivid", "base").contrast
        assert plain is not None
        together += abs(plain.statistic()) > critical
    assert within / 300 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert together / 300 > 0.9


def test_a_ratio_over_periods_is_that_of_the_totals():
    rng = np.random.default_rng(8)
    periods = []
    for _ in range(2):
        views = 1 + rng.poisson(3, (2, 500))
        likes = rng.binomial(views, 0.3)
        periods.append({"base": joint(likes[0], views[0], ratio=True), "vivid": joint(likes[1], views[1], ratio=True)})
    facts = {arm: moments([0.0, 1.0], [1.0, 1.0]) for arm in ("base", "vivid")}
    found = contrast_of(question(facts, "ratio", periods=periods), "vivid", "base")
    assert found.contrast is not None
    ratio = {arm: sum(p[arm].means[0] for p in periods) / sum(p[arm].means[1] for p in periods) for arm in facts}
    assert found.contrast.control == pytest.approx(ratio["base"], rel=1e-12)
    assert found.contrast.difference == pytest.approx(ratio["vivid"] - ratio["base"], rel=1e-9)


def test_periods_that_say_nothing_are_left_out_and_counted():
    rng = np.random.default_rng(9)
    good = {"base": joint(rng.normal(size=30)), "vivid": joint(rng.normal(size=30))}
    lonely = {"base": joint(rng.normal(size=40)), "vivid": joint(rng.normal(size=1))}
    without = {"base": joint(rng.normal(size=5))}
    facts = {arm: moments(rng.normal(size=50)) for arm in good}
    found = contrast_of(question(facts, periods=[lonely, good, without]), "vivid", "base")
    assert found.contrast is not None and found.contrast.units == 60
    assert "46 units of periods in which an arm has fewer than 2" in found.method
    nothing = contrast_of(question(facts, periods=[lonely, without]), "vivid", "base")
    assert nothing.contrast is None and "no period" in nothing.method
    counted = question(
        facts, "proportion", periods=[{"base": joint(np.repeat([0.0, 1], 30)), "vivid": joint(np.repeat([0.0, 1], 20))}, without]
    )
    assert contrast_of(counted, "vivid", "base").method.startswith("pooled z test")


def test_small_strata_stand_together():
    rng = np.random.default_rng(10)
    parts = [{"base": joint(a), "vivid": joint(b)} for a, b in strata(rng)]
    parts += [{"base": joint(rng.normal(size=1))}, {"vivid": joint(rng.normal(size=1)), "base": joint(rng.normal(size=1))}]
    facts = {arm: moments(rng.normal(size=50)) for arm in ("base", "vivid")}
    found = contrast_of(question(facts, strata=parts), "vivid", "base")
    assert found.contrast is not None and found.contrast.units == sum(j.n for part in parts for j in part.values())
    assert "post-stratified over 3 strata" in found.method
    one = contrast_of(question(facts, strata=parts[3:]), "vivid", "base")
    assert one.method == "Welch's t test"


def test_a_small_cell_of_a_ramp_borrows_its_spread():
    """Three units that happen to agree do not make a period certain."""
    rng = np.random.default_rng(11)
    start = {"base": joint(rng.normal(size=300)), "vivid": joint(np.ones(3))}
    later = {"base": joint(rng.normal(size=300)), "vivid": joint(rng.normal(size=300))}
    facts = {arm: moments(rng.normal(size=50)) for arm in start}
    found = contrast_of(question(facts, periods=[start, later]), "vivid", "base")
    assert found.contrast is not None
    own = (303 / 903) ** 2 * 0.8 / 3
    assert found.contrast.se**2 > own
    assert isinstance(start["vivid"], Joint)
