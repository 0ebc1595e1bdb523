"""One metric in all arms → comparisons with the control whose interval, p-values and posterior agree."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from analytics.experiment import Guardrail
from analytics.facts import Joint, Moments, QuantileFacts
from analytics.inference import confidence_sequence
from analytics.inference.bayes import PRIOR_SD, posterior
from analytics.inference.contrast import UNBOUNDED, Contrast, Interval
from analytics.inference.cuped import CovariateMoments, cuped_contrast
from analytics.inference.mean import mean_contrast, mean_variance
from analytics.inference.multiplicity import Adjusted, holm
from analytics.inference.noninferiority import worse_than_margin
from analytics.inference.proportion import proportion_contrast
from analytics.inference.quantile import quantile_contrast, quantile_variance
from analytics.inference.ratio import ratio_contrast, ratio_value, ratio_variance
from analytics.inference.tails import normal_statistic, two_sided_critical, two_sided_p
from analytics.report.schema import AlwaysValid, Bayes, Comparison, Estimate, MetricArm, MetricReport, Role

Facts = Moments | QuantileFacts
METHODS = {
    "mean": "Welch's t test; lift by Fieller's interval",
    "proportion": "pooled z test of two proportions; score intervals (Mee; lift: Koopman)",
    "ratio": "delta method for a ratio of totals per unit, Welch's t; lift by Fieller's interval",
    "quantile": "quantile of events clustered by unit (Deng et al. 2018); lift by Fieller's interval",
}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How comparisons are made: error rate, where sequences are tightest (units of both arms of a comparison), the interval of
    a lift, the correction over a family, and how many looks were planned."""

    alpha: float = 0.05
    planned_units: float = 5000
    lift: Literal["delta", "fieller", "log_delta"] = "delta"
    correction: Literal["holm", "benjamini_hochberg", "none"] = "holm"
    looks: int | None = None


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One metric to compare: what is known per arm, and why it is asked.

    `joint` per arm turns on CUPED. `periods` (of constant weights) and `strata` hold the same per arm for parts of the units: the
    comparison is then made within each and put together. `bounds` of a mean turn on the guaranteed interval.
    """

    metric: str
    role: Role
    kind: str
    direction: Literal["up", "down"]
    facts: Mapping[str, Facts]
    guardrail: Guardrail | None = None
    covariates: Mapping[str, CovariateMoments] | None = None
    joint: Mapping[str, Joint] | None = None
    periods: Sequence[Mapping[str, Joint]] = ()
    strata: Sequence[Mapping[str, Joint]] = ()
    bounds: tuple[float, float] | None = None
    cap: float | None = None
    sql: str = ""
    note: str = ""


class _Tested(msgspec.Struct, frozen=True, kw_only=True):
    arm: str
    contrast: Contrast | None
    statistic: float | None
    p_value: float | None
    variance_reduction: float | None
    method: str


def compare_family(questions: Sequence[Question], arms: Sequence[str], control: str, rules: Rules) -> list[MetricReport]:
    """All metrics of one role: one family, over which Holm corrects p-values and intervals, Bonferroni what is always valid.

    `arms` in order; the family counts the comparisons asked
    for, tested or not, so that missing data never makes a threshold easier.
    """
    alpha = rules.alpha
    tested = [[_test(question, arm, control) for arm in arms if arm != control] for question in questions]
    flat = [one for row in tested for one in row]
    adjusted = holm([1.0 if one.p_value is None else one.p_value for one in flat], alpha)
    levels = iter(adjusted)
    return [
        MetricReport(
            metric=question.metric,
            role=question.role,
            kind=question.kind,
            direction=question.direction,
            arms=[metric_arm(arm, question.kind, question.facts.get(arm)) for arm in arms],
            comparisons=[_comparison(question, one, control, next(levels), alpha, len(flat), rules.planned_units) for one in row],
            margin=question.guardrail.margin if question.guardrail else None,
            cap=question.cap,
            sql=question.sql,
        )
        for question, row in zip(questions, tested, strict=True)
    ]


def metric_arm(arm: str, kind: str, facts: Facts | None) -> MetricArm:
    """Size, value and spread of a metric in one arm."""
    if facts is None:
        return MetricArm(arm=arm, n=0, mean=None, sd=None)
    if isinstance(facts, QuantileFacts):
        variance = quantile_variance(facts)
        return MetricArm(
            arm=arm, n=facts.units, mean=finite(facts.value) if facts.events else None, sd=None if variance is None else math.sqrt(variance)
        )
    if kind == "ratio":
        value, variance = ratio_value(facts), ratio_variance(facts)
    elif kind == "proportion":
        value, variance = facts.mean, max(0.0, facts.mean * (1 - facts.mean))
    else:
        value, variance = facts.mean, mean_variance(facts)
    known = facts.n > 1 and value is not None
    return MetricArm(arm=arm, n=facts.n, mean=finite(value) if facts.n else None, sd=finite(math.sqrt(variance)) if known else None)


def finite(value: float | None) -> float | None:
    """The number, or None where it is none (JSON has no NaN and no infinity)."""
    return value if value is not None and math.isfinite(value) else None


def _contrast(question: Question, arm: str, control: str) -> tuple[Contrast | None, float | None, str]:
    """The comparison to test, the variance reduction, and the method in words."""
    a, b = question.facts.get(control), question.facts.get(arm)
    if a is None or b is None:
        return None, None, "no data"
    if isinstance(a, QuantileFacts) or isinstance(b, QuantileFacts):
        contrast = quantile_contrast(a, b) if isinstance(a, QuantileFacts) and isinstance(b, QuantileFacts) else None
        return contrast, None, METHODS["quantile"]
    if question.covariates and control in question.covariates and arm in question.covariates:
        cuped = cuped_contrast(question.covariates[control], question.covariates[arm])
        if cuped is not None:
            plain = METHODS["mean" if question.kind == "proportion" else question.kind]
            return cuped.contrast, cuped.variance_reduction, f"CUPED; {plain}"
    if question.kind == "proportion":
        return proportion_contrast(a, b), None, METHODS["proportion"]
    if question.kind == "ratio":
        return ratio_contrast(a, b), None, METHODS["ratio"]
    return mean_contrast(a, b), None, METHODS["mean"]


def _test(question: Question, arm: str, control: str) -> _Tested:
    contrast, reduction, method = _contrast(question, arm, control)
    statistic = contrast.statistic() if contrast is not None else None
    if contrast is None or statistic is None or not math.isfinite(statistic):
        why = "no inference: too few observations, or no variation" if method != "no data" else "no inference: no data"
        return _Tested(arm=arm, contrast=None, statistic=None, p_value=None, variance_reduction=None, method=why)
    method = f"{method}; {question.note}" if question.note else method
    p = two_sided_p(statistic, contrast.df)
    return _Tested(arm=arm, contrast=contrast, statistic=statistic, p_value=p, variance_reduction=reduction, method=method)


def _comparison(
    question: Question, one: _Tested, control: str, level: Adjusted, alpha: float, family: int, planned_units: float
) -> Comparison:
    a, b = (metric_arm(arm, question.kind, question.facts.get(arm)).mean for arm in (control, one.arm))
    contrast = one.contrast
    if contrast is None or one.statistic is None or one.p_value is None:
        difference = None if a is None or b is None else b - a
        lift = None if difference is None or not a else difference / abs(a)
        return Comparison(
            arm=one.arm,
            vs=control,
            difference=Estimate(value=finite(difference), se=None, ci=UNBOUNDED),
            relative=Estimate(value=finite(lift), se=None, ci=UNBOUNDED),
            p_value=None,
            adjusted_p_value=None,
            always_valid=None,
            bayes=None,
            df=None,
            variance_reduction=None,
            method=one.method,
            ci_level=1 - level.alpha,
        )
    critical = two_sided_critical(level.alpha, contrast.df)
    lift = _lift(contrast)
    relative_ci = _relative(contrast, contrast.ratio_interval(critical))
    method = one.method
    if lift is None:
        method += "; no lift: the control's mean is 0"
    elif relative_ci == UNBOUNDED:
        method += "; lift unbounded: the control's mean is not told from 0"
    worse = None
    if question.guardrail is not None:
        worse = worse_than_margin(contrast, question.guardrail.margin, question.guardrail.direction, alpha / family, planned_units)
    return Comparison(
        arm=one.arm,
        vs=control,
        difference=Estimate(
            value=finite(contrast.treated - contrast.control), se=finite(contrast.se), ci=_finite(contrast.difference_interval(critical))
        ),
        relative=Estimate(value=lift, se=finite(contrast.relative_se) if lift is not None else None, ci=relative_ci),
        p_value=one.p_value,
        adjusted_p_value=level.p_value,
        always_valid=_always_valid(contrast, one.statistic, one.p_value, alpha, family, planned_units),
        bayes=_bayes(lift, contrast, one.statistic, one.p_value, question.direction, level.alpha),
        df=contrast.df,
        variance_reduction=one.variance_reduction,
        method=method,
        ci_level=1 - level.alpha,
        ok=None if worse is None else not worse,
    )


def _always_valid(contrast: Contrast, statistic: float, p_value: float, alpha: float, family: int, planned_units: float) -> AlwaysValid:
    """Never sharper than the fixed-horizon test at the same level, so that no reader sees the two disagree at small n."""
    alpha = alpha / family
    critical = max(
        confidence_sequence.two_sided_critical(contrast.units, alpha, planned_units),
        two_sided_critical(alpha, contrast.df),
    )
    evidence = confidence_sequence.e_value(statistic, contrast.units, alpha, planned_units)
    e = min(evidence, 1 / p_value) if p_value > 0 else evidence
    return AlwaysValid(
        relative_ci=_relative(contrast, contrast.ratio_interval(critical)),
        difference_ci=_finite(contrast.difference_interval(critical)),
        p_value=min(1.0, family / e) if e > 0 else 1.0,
        e_value=e,
    )


def _bayes(lift: float | None, contrast: Contrast, statistic: float, p_value: float, direction: str, alpha: float) -> Bayes | None:
    """Posterior from the normal likelihood whose own test of "no lift" is the reported p-value: so its interval, which the
    prior only draws towards 0, never claims an effect that the p-value does not."""
    if lift is None:
        return None
    signed = min(normal_statistic(p_value), abs(statistic))
    se = abs(lift) / signed if lift and signed > 1e-9 else contrast.se / abs(contrast.control)
    if not (0 < se < math.inf):
        return None
    gain = posterior(lift if direction == "up" else -lift, se, prior_sd=PRIOR_SD)
    return Bayes(
        prob_better=gain.prob_positive,
        expected_loss_ship=gain.loss_if_negative,
        expected_loss_keep=gain.loss_if_positive,
        relative_ci=_finite(posterior(lift, se, prior_sd=PRIOR_SD).interval(alpha)),
    )


def _lift(contrast: Contrast) -> float | None:
    return finite((contrast.treated - contrast.control) / abs(contrast.control)) if contrast.control else None


def _relative(contrast: Contrast, ratio: Interval) -> Interval:
    """An interval of treated/control as one of the lift (treated - control)/|control|."""
    low, high = ratio
    if low is None or high is None or not contrast.control:
        return UNBOUNDED
    return _finite((low - 1, high - 1) if contrast.control > 0 else (1 - high, 1 - low))


def _finite(interval: Interval) -> Interval:
    low, high = finite(interval[0]), finite(interval[1])
    return UNBOUNDED if low is None or high is None else (low, high)
