"""What needs no large sample: exact tests, exact posteriors, and intervals guaranteed at every sample size."""

from analytics.facts import Moments
from analytics.inference import bernoulli_sequence, beta_binomial
from analytics.inference.contrast import UNBOUNDED, Contrast, Interval
from analytics.inference.exact import ExactContrast
from analytics.inference.proportion import ProportionContrast
from analytics.report.adaptive_contrast import adaptive_guaranteed
from analytics.report.question import Question
from analytics.report.schema import BetaBinomial, Exact, Guaranteed


def exact_tests(contrast: Contrast) -> Exact | None:
    """None where counts are large enough, or it is no comparison of two counts."""
    if not isinstance(contrast, ExactContrast):
        return None
    tests = contrast.tests
    return Exact(fisher=tests.fisher, barnard=tests.barnard, boschloo=tests.boschloo)


def counts(contrast: Contrast) -> ProportionContrast | None:
    """The two counts that a contrast compares, if it does."""
    return contrast if isinstance(contrast, ProportionContrast) else contrast.score if isinstance(contrast, ExactContrast) else None


def posterior_of_counts(contrast: Contrast, direction: str) -> BetaBinomial | None:
    """Priors Beta(1, 1); `direction` says which is better. None unless two counts are compared."""
    c = counts(contrast)
    if c is None:
        return None
    above, ship, keep = beta_binomial.compare(c.x_a, c.n_a, c.x_b, c.n_b)
    if direction == "down":
        above, ship, keep = beta_binomial.compare(c.x_b, c.n_b, c.x_a, c.n_a)
    return BetaBinomial(prob_better=above, expected_loss_ship=max(0.0, ship), expected_loss_keep=max(0.0, keep))


def guaranteed(
    question: Question, arm: str, control: str, contrast: Contrast, alpha: float, units: float, shown: Interval
) -> Guaranteed | None:
    """For proportions and means with declared bounds, of one period of constant weights. `shown`: the always-valid interval;
    where that holds 0 this one is widened to hold it too, which keeps what it guarantees. Of a bandit by empirical Bernstein on its
    draws, over all its periods."""
    if question.allocation is not None:
        found = adaptive_guaranteed(question, arm, control, alpha, units)
        if isinstance(found, str):
            return Guaranteed(difference_ci=UNBOUNDED, method=found) if found else None
        return Guaranteed(difference_ci=_holding(shown, *found), method="doubly robust empirical Bernstein on the logged propensities")
    c = counts(contrast)
    if c is not None:
        low, high = bernoulli_sequence.difference_interval(c.x_a, c.n_a, c.x_b, c.n_b, alpha, units)
        return Guaranteed(difference_ci=_holding(shown, low, high), method="beta-binomial mixture, each arm at half the error rate")
    a, b = question.facts.get(control), question.facts.get(arm)
    if question.bounds is None or len(question.periods) > 1 or not (isinstance(a, Moments) and isinstance(b, Moments)):
        return None
    floor, ceiling = question.bounds
    width = ceiling - floor
    shares = []
    for facts in (a, b):
        share = (facts.mean - floor) / width
        # A variance above (mean - low)(high - mean) is that of no sample within the bounds.
        if not (0 <= share <= 1) or facts.m2 > facts.n * width * width * share * (1 - share) * (1 + 1e-9):
            return Guaranteed(difference_ci=UNBOUNDED, method=f"none: values lie outside `bounds` = [{floor:g}, {ceiling:g}]; correct them")
        shares.append(share)
    low, high = bernoulli_sequence.difference_interval(shares[0] * a.n, a.n, shares[1] * b.n, b.n, alpha, units)
    ends = _holding(shown, None if low is None else low * width, None if high is None else high * width)
    method = f"beta-binomial mixture of values in [{floor:g}, {ceiling:g}], each arm at half the error rate"
    return Guaranteed(difference_ci=ends, method=method)


def _holding(shown: Interval, low: float | None, high: float | None) -> Interval:
    if low is None or high is None:
        return UNBOUNDED
    told = shown[0] is not None and shown[1] is not None and (shown[0] > 0 or shown[1] < 0)
    return (low, high) if told else (min(low, 0.0), max(high, 0.0))
