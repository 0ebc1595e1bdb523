"""Comparisons as the report makes them: every option, nothing that contradicts, broken input, and the defects of others."""

import math

import msgspec
import numpy as np
import pytest
from comparison_cases import ask, compare, joint
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import moments, proportion, quantile
from scipy import stats

from analytics.experiment import Guardrail
from analytics.facts import Joint, Moments
from analytics.inference.tails import two_sided_critical
from analytics.report.comparisons import compare_family
from analytics.report.e_values import with_e_bh
from analytics.report.question import Question, Rules
from analytics.report.schema import Comparison, MetricReport


def side(interval) -> str | None:
    return None if interval[0] is None else "up" if interval[0] > 0 else "down" if interval[1] < 0 else "open"


def check_one_story(c: Comparison, alpha: float) -> None:
    """Intervals, p-values, sequence, posterior and guarantees agree."""
    text = msgspec.json.encode(c).decode()
    assert "NaN" not in text and "Infinity" not in text
    if c.p_value is None:
        assert c.always_valid is None and c.bayes is None and c.method.startswith("no inference")
        return
    assert c.method and c.lift_method
    fixed = side(c.difference.ci)
    assert c.difference.ci[0] <= c.difference.value + 1e-9 * abs(c.difference.value) or fixed == "open"
    if abs(c.adjusted_p_value / alpha - 1) > 1e-6:
        assert (fixed != "open") == (c.adjusted_p_value <= alpha)
    assert side(c.relative.ci) in (None, fixed)
    anytime = side(c.always_valid.difference_ci)
    assert anytime in ("open", fixed) and side(c.always_valid.relative_ci) in (None, anytime)
    if abs(c.always_valid.p_value / alpha - 1) > 1e-6:
        assert (anytime != "open") == (c.always_valid.p_value <= alpha)
    if c.bayes is not None:
        assert side(c.bayes.relative_ci) in ("open", fixed)
    if c.guaranteed is not None:
        assert side(c.guaranteed.difference_ci) in (None, "open", anytime)
    if c.group_sequential is not None and c.group_sequential.critical is not None:
        assert c.group_sequential.crossed == (side(c.group_sequential.difference_ci) != "open")


@st.composite
def questions(draw) -> Question:
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["proportion", "mean", "quantile"]))
    sizes = [draw(st.integers(1, 40)) for _ in range(3)]
    level, shift = draw(st.floats(0, 1)), draw(st.floats(-3, 3))
    rows = {}
    for k, (arm, n) in enumerate(zip(("base", "warm", "vivid"), sizes, strict=True)):
        x = rng.normal(size=(2, n))
        y = (rng.random(n) < level).astype(float) if kind == "proportion" else shift + k + x[0] + rng.normal(size=n)
        rows[arm] = (y, *x)
    if kind == "quantile":
        facts = {arm: quantile(y, np.arange(len(y)), 0.5) for arm, (y, *_) in rows.items()}
        return Question(metric="y", role="primary", kind=kind, direction="up", facts=facts)
    extra: dict[str, object] = {}
    way = draw(st.sampled_from(["plain", "one", "two", "periods", "strata", "bounds"]))
    parts = [{arm: joint(y[k::2]) for arm, (y, *_) in rows.items() if len(y[k::2])} for k in (0, 1)]
    if way == "one":
        extra["joint"] = {arm: joint(y, x) for arm, (y, x, _) in rows.items()}
    elif way == "two":
        extra["joint"] = {arm: joint(*columns) for arm, columns in rows.items()}
    elif way in ("periods", "strata"):
        extra[way] = parts
    elif way == "bounds" and kind == "mean":
        extra["bounds"] = (-8.0, 12.0)
    facts = {arm: moments(y) for arm, (y, *_) in rows.items()}
    return Question(metric="y", role="primary", kind=kind, direction=draw(st.sampled_from(["up", "down"])), facts=facts, **extra)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(questions(), min_size=1, max_size=2),
    st.sampled_from([0.01, 0.05, 0.2]),
    st.sampled_from(["delta", "fieller", "log_delta"]),
    st.sampled_from(["holm", "benjamini_hochberg", "none"]),
    st.sampled_from([None, 4]),
)
def test_one_story_under_every_option(asked, alpha, lift, correction, looks):
    rules = Rules(alpha=alpha, planned_units=60, lift=lift, correction=correction, looks=looks)
    metrics = with_e_bh(compare_family(asked, ["base", "warm", "vivid"], "base", rules), alpha)
    for metric in metrics:
        for comparison in metric.comparisons:
            check_one_story(comparison, alpha)
            assert comparison.e_bh is not None and (comparison.group_sequential is None) == (looks is None or comparison.p_value is None)


BROKEN = {
    "no data at all": ask(),
    "one arm missing": ask(base=moments([1.0, 2.0, 4.0])),
    "empty arm": ask(base=moments([1.0, 2.0]), vivid=moments([])),
    "one unit each": ask(base=moments([1.0]), vivid=moments([2.0])),
    "constant": ask(base=moments([3.0] * 9), vivid=moments([3.0] * 9)),
    "constant and different": ask(base=moments([3.0] * 9), vivid=moments([4.0] * 9)),
    "all zeros": ask("proportion", base=proportion(0, 900), vivid=proportion(0, 900)),
    "zero baseline": ask("proportion", base=proportion(0, 900), vivid=proportion(40, 900)),
    "everybody": ask("proportion", base=proportion(90, 90), vivid=proportion(90, 90)),
    "none against everybody": ask("proportion", base=proportion(0, 500), vivid=proportion(500, 500)),
    "one of one": ask("proportion", base=proportion(1, 1), vivid=proportion(0, 1)),
    "no share": ask("proportion", base=Moments(n=10, mean=1.4, m2=1.0), vivid=proportion(3, 10)),
    "no denominator": ask("ratio", base=moments([0.0, 0.0], [0.0, 0.0]), vivid=moments([1.0, 2.0], [2.0, 3.0])),
    "negative baseline": ask(base=moments([-5.0, -4.0, -6.5, -4.4]), vivid=moments([-3.0, -2.0, -4.5, -2.4])),
    "baseline around zero": ask(base=moments([-1.0, 1.1] * 20), vivid=moments([5.0, 5.5] * 20)),
    "huge": ask(base=moments([1e150, 2e150, 3e150]), vivid=moments([1e150, 5e150, 3e150])),
    "beyond doubles": ask(base=Moments(n=5, mean=1e200, m2=math.inf), vivid=Moments(n=5, mean=1e200, m2=math.inf)),
    "not a number": ask(base=Moments(n=5, mean=math.nan, m2=math.nan), vivid=moments([1.0, 2.0])),
    "tiny": ask(base=Moments(n=50, mean=1e-310, m2=0.0), vivid=moments([0.0, 1.0])),
    "two against a hundred million": ask("proportion", base=proportion(0, 10**8), vivid=proportion(1, 2)),
    "a ratio beyond doubles": ask(
        "ratio",
        base=moments([1.0, 2.0], [1.0, 3.0]),
        vivid=Moments(n=5, mean=3.0, m2=1.0, denominator_mean=-1e300, denominator_m2=1.0),
    ),
    "a quantile beyond doubles": ask(
        "quantile",
        base=quantile(np.arange(40.0), np.arange(40), 0.5),
        vivid=msgspec.structs.replace(quantile(np.arange(40.0), np.arange(40), 0.5), high=1e300, count_mean=1e-300),
    ),
    "a covariate that is no number": msgspec.structs.replace(
        ask(base=moments([1.0, 2.0, 4.0, 5.0]), vivid=moments([3.0, 2.0, 4.0, 7.0])),
        joint={arm: Joint(n=4, means=(2.0, math.nan), products=((5.0, math.nan), (math.nan, math.inf)), covariates=("x",))
               for arm in ("base", "vivid")},
    ),
    "tiny rate": ask("proportion", base=proportion(1, 10**7), vivid=proportion(4, 10**7)),
    "too few events for a quantile": ask(
        "quantile",
        base=quantile(np.arange(4.0), np.arange(4), 0.99),
        vivid=quantile(np.arange(4.0), np.arange(4), 0.99),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("lift", ["delta", "fieller", "log_delta"])
def test_broken_input_is_answered(name, lift):
    question = msgspec.structs.replace(BROKEN[name], role="guardrail", guardrail=Guardrail(margin=2.0, direction="up"))
    for one in (BROKEN[name], question):
        (metric,) = compare_family([one], ["base", "vivid"], "base", Rules(lift=lift, looks=5))
        assert "NaN" not in msgspec.json.encode(metric).decode()
        check_one_story(metric.comparisons[0], 0.05)


@pytest.mark.parametrize(
    "name,words",
    [
        ("no data at all", "no data"),
        ("empty arm", "too few observations"),
        ("constant", "no variation"),
        ("zero baseline", "no lift: the control's mean is 0"),
        ("baseline around zero", "lift unbounded"),
        ("tiny rate", "Fisher"),
        ("one of one", "Boschloo"),
    ],
)
def test_the_method_says_why(name, words):
    lift = "fieller" if name == "baseline around zero" else "delta"
    assert words in compare(BROKEN[name], lift=lift).method


def test_defaults_by_hand():
    """Welch t, the delta method's lift with the same df, N* = 5000: written out with scipy."""
    rng = np.random.default_rng(2)
    a, b = rng.gamma(3, 2, 400), rng.gamma(3, 2.2, 350)
    ours = compare(ask(base=moments(a), vivid=moments(b)))
    theirs = stats.ttest_ind(b, a, equal_var=False)
    assert (ours.p_value, ours.df) == pytest.approx((theirs.pvalue, theirs.df), rel=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert ours.difference.ci == pytest.approx((interval.low, interval.high), rel=1e-9)
    se = math.sqrt(b.var(ddof=1) / 350 / a.mean() ** 2 + b.mean() ** 2 * a.var(ddof=1) / 400 / a.mean() ** 4)
    half, lift = stats.t.ppf(0.975, theirs.df) * se, b.mean() / a.mean() - 1
    assert ours.relative.ci == pytest.approx((lift - half, lift + half), rel=1e-9) and ours.relative.se == pytest.approx(se, rel=1e-9)
    rho2 = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 5000
    kappa = 750 * rho2 + 1
    half = ours.difference.se * math.sqrt(750) * math.sqrt(2 * kappa / (750**2 * rho2) * math.log(math.sqrt(kappa) / 0.05))
    value = ours.difference.value
    assert ours.always_valid.difference_ci == pytest.approx((value - half, value + half), rel=1e-9)
    precision = 1 / se**2 + 1 / 0.3**2
    mean, sd = lift / se**2 / precision, precision**-0.5
    assert ours.bayes.prob_better == pytest.approx(stats.norm.cdf(mean / sd), rel=1e-9)
    assert ours.bayes.relative_ci == pytest.approx((mean - 1.959963984540054 * sd, mean + 1.959963984540054 * sd), rel=1e-9)
    assert ours.lift_method == "delta method" and ours.ci_level == 0.95


def test_small_counts_go_by_boschloo():
    ours = compare(ask("proportion", base=proportion(1, 20), vivid=proportion(7, 20)))
    table = [[7, 1], [13, 19]]
    assert ours.exact.fisher == pytest.approx(stats.fisher_exact(table)[1], rel=1e-9)
    assert ours.p_value == ours.exact.boschloo == pytest.approx(stats.boschloo_exact(table, n=64).pvalue, rel=1e-6)
    assert ours.exact.barnard == pytest.approx(stats.barnard_exact(table, n=64).pvalue, rel=1e-6)
    assert "Boschloo" in ours.method and "Koopman" in ours.lift_method
    large = compare(ask("proportion", base=proportion(100, 2000), vivid=proportion(150, 2000)))
    assert large.exact is None and large.method == "pooled z test of two proportions; difference by Newcombe's interval"
    assert large.bayes.beta_binomial.prob_better > 0.99 > 0.01 > large.bayes.beta_binomial.expected_loss_ship


def test_small_counts_go_without_covariates():
    rng = np.random.default_rng(4)
    liked, x = np.repeat([1.0, 0.0], [2, 48]), rng.normal(size=50)
    many = np.repeat([1.0, 0.0], [20, 30])
    for y, start in ((liked, "Boschloo"), (many, "CUPED")):
        question = msgspec.structs.replace(
            ask("proportion", base=moments(y), vivid=moments(y[::-1])), joint={"base": joint(y, x), "vivid": joint(y[::-1], x)}
        )
        assert compare(question).method.startswith(start)


def test_direction_turns_the_posterior_around():
    up, down = (compare(ask("proportion", d, base=proportion(100, 2000), vivid=proportion(150, 2000))).bayes for d in ("up", "down"))
    assert up.prob_better == pytest.approx(1 - down.prob_better) and up.expected_loss_ship == pytest.approx(down.expected_loss_keep)
    assert up.beta_binomial.prob_better == pytest.approx(1 - down.beta_binomial.prob_better)
    assert up.beta_binomial.expected_loss_ship == pytest.approx(down.beta_binomial.expected_loss_keep)


def test_the_guaranteed_interval_is_the_widest():
    ours = compare(ask("proportion", base=proportion(400, 4000), vivid=proportion(600, 4000)))
    assert ours.guaranteed.difference_ci[0] < ours.always_valid.difference_ci[0] < ours.difference.ci[0]
    rng = np.random.default_rng(3)
    a, b = rng.beta(2, 5, 3000) * 10, rng.beta(3, 5, 3000) * 10
    bounded = msgspec.structs.replace(ask(base=moments(a), vivid=moments(b)), bounds=(0.0, 10.0))
    found = compare(bounded).guaranteed
    assert found.difference_ci[0] < b.mean() - a.mean() < found.difference_ci[1] and "[0, 10]" in found.method
    wrong = msgspec.structs.replace(bounded, bounds=(0.0, 2.0))
    assert compare(wrong).guaranteed.difference_ci == (None, None) and "outside" in compare(wrong).guaranteed.method
    assert compare(ask(base=moments(a), vivid=moments(b))).guaranteed is None


def test_planned_looks():
    question = ask("proportion", base=proportion(250, 2500), vivid=proportion(330, 2500))
    ours = compare(question, looks=4, planned_units=10_000).group_sequential
    assert (ours.look, ours.looks, ours.information) == (2, 4, 0.5)
    assert ours.crossed and ours.difference_ci[0] > 0
    early = compare(question, looks=4, planned_units=100_000).group_sequential
    assert early.look == 0 and early.critical is None and not early.crossed and early.difference_ci == (None, None)
    assert compare(question).group_sequential is None


def family(*lifts: float) -> list[MetricReport]:
    rng = np.random.default_rng(5)
    asked = [ask(base=moments(rng.normal(10, 1, 500)), vivid=moments(rng.normal(10 + lift, 1, 500))) for lift in lifts]
    return compare_family(asked, ["base", "vivid"], "base", Rules())


def test_e_bh_counts_every_comparison():
    metrics = with_e_bh(family(1, 0, 1, 0), 0.05)
    assert [c.e_bh for m in metrics for c in m.comparisons] == [True, False, True, False]
    silent = compare_family([ask()], ["base", "vivid"], "base", Rules())
    assert [c.e_bh for m in with_e_bh(silent, 0.05) for c in m.comparisons] == [False]


@pytest.mark.parametrize("correction", ["holm", "benjamini_hochberg", "none"])
def test_intervals_follow_the_correction(correction):
    rng = np.random.default_rng(6)
    asked = [ask(base=moments(rng.normal(10, 1, 200)), vivid=moments(rng.normal(10 + lift, 1, 200))) for lift in (0.3, 0.22, 0.0, 0.1)]
    metrics = compare_family(asked, ["base", "vivid"], "base", Rules(correction=correction))
    for metric in metrics:
        (c,) = metric.comparisons
        half = two_sided_critical(1 - c.ci_level, c.df) * c.difference.se
        assert c.difference.ci == pytest.approx((c.difference.value - half, c.difference.value + half), rel=1e-9)
        assert (side(c.difference.ci) != "open") == (c.adjusted_p_value <= 0.05)
        family = 1 if correction == "none" else 4
        assert c.always_valid.p_value == pytest.approx(min(1, family / c.always_valid.e_value))


def test_a_missing_comparison_never_makes_a_threshold_easier():
    rng = np.random.default_rng(7)
    one = ask(base=moments(rng.normal(10, 1, 200)), vivid=moments(rng.normal(10.3, 1, 200)))
    alone = compare_family([one], ["base", "vivid"], "base", Rules())[0].comparisons[0]
    beside = compare_family([one, ask(), ask()], ["base", "vivid"], "base", Rules())[0].comparisons[0]
    assert beside.adjusted_p_value == pytest.approx(3 * alone.p_value)


def test_order_of_units_and_arms_changes_nothing():
    rng = np.random.default_rng(10)
    a, b = rng.gamma(2, 1, 300), rng.gamma(2, 1.2, 300)
    one = compare(ask(base=moments(a), vivid=moments(b)))
    other = compare(ask(base=moments(rng.permutation(a)), vivid=moments(rng.permutation(b))))
    assert other.difference.ci == pytest.approx(one.difference.ci, rel=1e-9)
    back = compare(ask(base=moments(b), vivid=moments(a)))
    assert back.p_value == pytest.approx(one.p_value, rel=1e-9) and back.difference.value == pytest.approx(-one.difference.value)


def test_guardrails_of_zero_and_negative_controls_are_answered():
    guarded = {"role": "guardrail", "guardrail": Guardrail(margin=0.1, direction="down")}
    rng = np.random.default_rng(11)
    below = msgspec.structs.replace(ask(base=moments(rng.normal(-10, 1, 900)), vivid=moments(rng.normal(-8, 1, 900))), **guarded)
    found = compare(below)
    assert found.ok is False and "below 0" in found.method
    zero = msgspec.structs.replace(ask("proportion", base=proportion(0, 5000), vivid=proportion(80, 5000)), **guarded)
    found = compare(zero)
    assert found.ok is False and "allows nothing" in found.method
    nobody = msgspec.structs.replace(ask("proportion", base=proportion(0, 5000), vivid=proportion(0, 5000)), **guarded)
    assert compare(nobody).ok is None
