"""What the analysis of a table says of its first metric, in sentences."""

from analytics.analyze.analysis import Analysis
from analytics.report.schema import Comparison, MetricReport
from analytics.report.words import interval, number, p_value, signed


def verdicts(analysis: Analysis) -> list[str]:
    """One sentence per arm; before them, that nothing counts where the sample ratio is broken."""
    srm = analysis.checks.srm
    lines = []
    if srm is not None and not srm.ok:
        lines.append("The sample ratio is broken: units were lost or added in one arm more often, so no number below can be trusted.")
    primary = next(metric for metric in analysis.metrics if metric.role == "primary")
    return lines + [_sentence(primary, comparison, analysis) for comparison in primary.comparisons]


def _sentence(metric: MetricReport, comparison: Comparison, analysis: Analysis) -> str:
    values = {arm.arm: number(arm.mean, metric.kind) for arm in metric.arms}
    who = f"{metric.metric} of {comparison.arm!r} is {values[comparison.arm]}, of {comparison.vs!r} {values[comparison.vs]}"
    if comparison.p_value is None:
        return f"{who}; {comparison.method}."
    sequence = comparison.always_valid
    p = sequence.p_value if sequence else comparison.adjusted_p_value
    ci = sequence.relative_ci if sequence else comparison.relative.ci
    size = f"{signed(comparison.relative.value)} (between {interval(ci)})"
    if comparison.relative.value is None or ci[0] is None:
        ci = sequence.difference_ci if sequence else comparison.difference.ci
        size = f"{comparison.difference.value:+.4g} (between {interval(ci, relative=False)})"
    told = p is not None and p < analysis.sufficient_statistics.rules.alpha and ci[0] is not None and ci[1] is not None
    better = told and ((ci[0] or 0) > 0) == (metric.direction == "up")
    word = ("better" if better else "worse") if told else "not told apart"
    look = "at any look" if sequence else "for one planned look"
    return f"{who}: {size}, {word} (p = {p_value(p)}, {look})."
