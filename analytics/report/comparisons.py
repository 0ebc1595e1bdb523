"""One metric in all arms → comparisons with the control whose interval, p-values and posterior agree."""

import math
from collections.abc import Sequence

import msgspec

from analytics.facts import QuantileFacts
from analytics.inference.contrast import UNBOUNDED, Contrast
from analytics.inference.exact import ExactContrast
from analytics.inference.intervals import difference_shown, lift_shown
from analytics.inference.intervals import finite as finite_interval
from analytics.inference.mean import mean_variance
from analytics.inference.multiplicity import Adjusted, correct
from analytics.inference.noninferiority import margin_remark, worse_than_margin
from analytics.inference.quantile import quantile_variance
from analytics.inference.ratio import ratio_value, ratio_variance
from analytics.inference.tails import two_sided_p
from analytics.report.contrasts import METHODS, Found, contrast_of
from analytics.report.evidence import always_valid, bayes, critical_values, planned_looks
from analytics.report.question import Facts, Question, Rules
from analytics.report.schema import Comparison, Estimate, MetricArm, MetricReport
from analytics.report.small_samples import exact_tests, guaranteed

__all__ = ["METHODS", "Question", "Rules", "compare_family", "finite", "metric_arm"]


class _Tested(msgspec.Struct, frozen=True, kw_only=True):
    arm: str
    found: Found
    p_value: float | None


def compare_family(questions: Sequence[Question], arms: Sequence[str], control: str, rules: Rules) -> list[MetricReport]:
    """All metrics of one role: one family, over which `rules.correction` corrects p-values and intervals, Bonferroni what is
    always valid (`none`: neither).

    `arms` in order; the family counts the comparisons asked for, tested or not, so that missing data never makes a threshold
    easier.
    """
    tested = [[_test(question, arm, control) for arm in arms if arm != control] for question in questions]
    flat = [one for row in tested for one in row]
    levels = iter(correct([1.0 if one.p_value is None else one.p_value for one in flat], rules.alpha, rules.correction))
    family = 1 if rules.correction == "none" else len(flat)
    return [
        MetricReport(
            metric=question.metric,
            role=question.role,
            kind=question.kind,
            direction=question.direction,
            arms=[question.shown.get(arm) or metric_arm(arm, question.kind, question.facts.get(arm)) for arm in arms],
            comparisons=[_comparison(question, one, control, next(levels), family, rules, len(arms)) for one in row],
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


def _test(question: Question, arm: str, control: str) -> _Tested:
    found = contrast_of(question, arm, control)
    contrast = found.contrast
    if contrast is None:
        return _Tested(arm=arm, found=found, p_value=None)
    p = contrast.p_value if isinstance(contrast, ExactContrast) else two_sided_p(contrast.statistic(), contrast.df)
    return _Tested(arm=arm, found=found, p_value=p)


def _untested(question: Question, one: _Tested, control: str, level: Adjusted) -> Comparison:
    a, b = ((question.shown.get(arm) or metric_arm(arm, question.kind, question.facts.get(arm))).mean for arm in (control, one.arm))
    # A bandit's arms may have been estimated over different times.
    difference = None if a is None or b is None or question.allocation is not None else b - a
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
        method=one.found.method,
        ci_level=1 - level.alpha,
    )


def _comparison(question: Question, one: _Tested, control: str, level: Adjusted, family: int, rules: Rules, arms: int) -> Comparison:
    contrast = one.found.contrast
    if contrast is None or one.p_value is None:
        return _untested(question, one, control, level)
    critical = critical_values(contrast, level.alpha)
    difference, lift = difference_shown(contrast, critical), lift_shown(contrast, critical, rules.lift)
    value = _lift(contrast)
    remark = margin_remark(contrast.control, question.guardrail.margin) if question.guardrail else ""
    share = rules.alpha / family
    sequence = always_valid(contrast, one.p_value, rules.alpha, family, rules.planned_units, rules.lift)
    return Comparison(
        arm=one.arm,
        vs=control,
        difference=Estimate(value=finite(contrast.difference), se=finite(contrast.se), ci=finite_interval(difference.interval)),
        relative=Estimate(value=value, se=finite(contrast.relative_se) if value is not None else None, ci=lift.interval),
        p_value=one.p_value,
        adjusted_p_value=level.p_value,
        always_valid=sequence,
        bayes=bayes(contrast, one.p_value, question.direction, level.alpha, exact=not question.brief),
        df=contrast.lift_df,
        variance_reduction=one.found.variance_reduction,
        method="; ".join(filter(None, (one.found.method, difference.method, lift.method if lift.interval == UNBOUNDED else "", remark))),
        ci_level=1 - level.alpha,
        ok=_holds(question, contrast, lift.interval, family, rules),
        lift_method=lift.method,
        exact=exact_tests(contrast),
        guaranteed=None
        if question.brief
        else guaranteed(question, one.arm, control, contrast, share, rules.planned_units, sequence.difference_ci),
        group_sequential=None if question.brief else planned_looks(contrast, share, rules, arms),
    )


def _holds(question: Question, contrast: Contrast, lift: tuple[float | None, float | None], family: int, rules: Rules) -> bool | None:
    """Of a guardrail. Established only where the interval shown for the lift says so too."""
    if question.guardrail is None:
        return None
    margin, better = question.guardrail.margin, question.guardrail.direction
    worse = worse_than_margin(contrast, margin, better, rules.alpha / family, rules.planned_units)
    low, high = lift
    if worse is None or low is None or high is None:
        return None if worse is None else not worse
    shown_worse, shown_held = (low > margin, high < margin) if better == "down" else (high < -margin, low > -margin)
    return (not worse) if (shown_worse if worse else shown_held) else None


def _lift(contrast: Contrast) -> float | None:
    return finite(contrast.difference / abs(contrast.control)) if contrast.control else None
