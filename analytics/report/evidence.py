"""What stays right at any look, at planned looks, and what a prior makes of it: beside the one planned look."""

import math

from analytics.inference import confidence_sequence, group_sequential
from analytics.inference.bayes import PRIOR_SD, posterior
from analytics.inference.contrast import UNBOUNDED, Contrast
from analytics.inference.exact import ExactContrast
from analytics.inference.intervals import Critical, LiftMethod, Shown, difference_shown, finite, lift_shown
from analytics.inference.proportion import ProportionContrast
from analytics.inference.tails import normal_statistic, two_sided_critical, two_sided_p
from analytics.report.question import Rules
from analytics.report.schema import AlwaysValid, Bayes, GroupSequential
from analytics.report.small_samples import posterior_of_counts


def critical_values(contrast: Contrast, alpha: float) -> Critical:
    """Of one planned look."""
    log = contrast.log_ratio
    return Critical(
        test=two_sided_critical(alpha, contrast.df),
        lift=two_sided_critical(alpha, contrast.lift_df),
        log=two_sided_critical(alpha, log.df if log is not None else contrast.lift_df),
    )


def always_valid(contrast: Contrast, p_value: float, alpha: float, family: int, planned_units: float, lift: LiftMethod) -> AlwaysValid:
    """Never sharper than the fixed-horizon test at the same level, so that no reader sees the two disagree at small n."""
    alpha = alpha / family
    if isinstance(contrast, ExactContrast):
        contrast = contrast.cautious
    sequence, fixed = confidence_sequence.two_sided_critical(contrast.units, alpha, planned_units), critical_values(contrast, alpha)
    critical = Critical(test=max(sequence, fixed.test), lift=max(sequence, fixed.lift), log=max(sequence, fixed.log))
    score, wald = contrast, contrast.unpooled if isinstance(contrast, ProportionContrast) else None
    if wald is not None and not abs(wald.statistic()) > critical.test > fixed.test >= abs(contrast.statistic()):
        contrast = wald
    lifts = lift_shown(contrast, critical, lift).interval
    if lifts == UNBOUNDED and (abs(contrast.statistic()) > critical.test) == (abs(score.statistic()) > critical.test):
        # Koopman's is bounded where Fieller's is not.
        lifts = lift_shown(score, critical, lift).interval
    evidence = confidence_sequence.e_value(contrast.statistic(), contrast.units, alpha, planned_units)
    e = min(evidence, 1 / p_value) if p_value > 0 else evidence
    return AlwaysValid(
        relative_ci=lifts,
        difference_ci=difference_shown(contrast, critical).interval,
        p_value=min(1.0, family / e) if e > 0 else 1.0,
        e_value=e,
    )


def planned_looks(contrast: Contrast, alpha: float, rules: Rules, arms: int) -> GroupSequential | None:
    """Lan-DeMets bounds, for an experiment that planned its looks; `alpha` is this comparison's share, and a pair of the
    `arms` has its share of the planned units."""
    if rules.looks is None:
        return None
    planned = rules.planned_units * 2 / arms
    look, information, critical = group_sequential.reached(contrast.units, planned, rules.looks, alpha)
    if critical is None or not math.isfinite(critical):
        return GroupSequential(look=look, looks=rules.looks, information=information, critical=None, difference_ci=UNBOUNDED, crossed=False)
    # The t quantile with the same tail: the bound is for a normal statistic.
    own = two_sided_critical(two_sided_p(critical), contrast.df)
    shown = difference_shown(contrast, Critical(test=own, lift=own, log=own)) if math.isfinite(own) else Shown(UNBOUNDED, "")
    return GroupSequential(
        look=look,
        looks=rules.looks,
        information=information,
        critical=critical,
        difference_ci=shown.interval,
        crossed=abs(contrast.statistic()) > own,
    )


def bayes(contrast: Contrast, p_value: float, direction: str, alpha: float, *, exact: bool = True) -> Bayes | None:
    """Posterior of the lift from its normal likelihood. Where that would claim an effect that the p-value does not, the
    likelihood is the one whose own test of "no lift" is the p-value. None without a lift. `exact`: of two counts also
    the Beta-Binomial posterior."""
    if not contrast.control:
        return None
    lift, se = contrast.difference / abs(contrast.control), contrast.relative_se
    signed = min(normal_statistic(p_value), abs(contrast.statistic()))
    cautious = abs(lift) / max(signed, 1e-9) if lift else contrast.se / abs(contrast.control)
    if se is None or not 0 < se < math.inf or _claims(lift, se, alpha) > (p_value <= alpha):
        se = cautious
    if not (0 < se < math.inf and math.isfinite(lift)):
        return None
    gain = posterior(lift if direction == "up" else -lift, se, prior_sd=PRIOR_SD)
    return Bayes(
        prob_better=gain.prob_positive,
        expected_loss_ship=gain.loss_if_negative,
        expected_loss_keep=gain.loss_if_positive,
        relative_ci=finite(posterior(lift, se, prior_sd=PRIOR_SD).interval(alpha)),
        beta_binomial=posterior_of_counts(contrast, direction) if exact else None,
    )


def _claims(lift: float, se: float, alpha: float) -> bool:
    low, high = posterior(lift, se, prior_sd=PRIOR_SD).interval(alpha)
    return low > 0 or high < 0
