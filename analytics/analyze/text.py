"""The analysis of a table on a terminal."""

from analytics.analyze.analysis import Analysis
from analytics.analyze.verdict import verdicts
from analytics.report.schema import Breakdown
from analytics.report.text import metric_lines, table, wrap
from analytics.report.words import p_value, percent, plural, signed, span


def to_text(analysis: Analysis) -> str:
    """As text of at most 100 columns, ending in a newline."""
    control = next(arm.arm for arm in analysis.arms if arm.control)
    lines = [f"{analysis.experiment}: {plural(analysis.rows, 'row')}, {plural(sum(arm.units for arm in analysis.arms), 'unit')}", ""]
    lines += [line for sentence in verdicts(analysis) for line in wrap(sentence, "  ▶ ", "    ")]
    rows = [
        [arm.arm + (" (control)" if arm.control else ""), "" if arm.weight is None else percent(arm.weight), f"{arm.units:,}"]
        for arm in analysis.arms
    ]
    lines += ["", *table(["arm", "weight" if analysis.checks.srm else "", "units"], rows)]
    checks = check_lines(analysis)
    lines += (
        ["", *(line for name, ok, text in checks for line in wrap(f"{'✓' if ok else '✗'} {name}: {text}", "  ", "    "))] if checks else []
    )
    lines += metric_lines(analysis.metrics, control)
    lines += [line for breakdown in analysis.breakdowns for line in _breakdown(breakdown)]
    if analysis.bootstrap:
        lines += ["", f"The same by drawing units anew ({analysis.bootstrap[0].draws:,} draws)"]
        rows = [[f"{one.metric}, {one.arm}", span(one.relative_ci), span(one.basic_relative_ci)] for one in analysis.bootstrap]
        lines += table(["", "percentiles", "basic"], rows)
    lines += ["", "How to read this"]
    for note in analysis.method_notes:
        lines += wrap(note, "  - ", "    ")
    return "\n".join(lines) + "\n"


def check_lines(analysis: Analysis) -> list[tuple[str, bool, str]]:
    """(name, ok, sentence) of every check that could be made."""
    srm, lines = analysis.checks.srm, []
    if srm is not None:
        mark = "as intended" if srm.ok else "SAMPLE RATIO MISMATCH, no number below can be trusted"
        stray = f", {plural(srm.stray_units, 'unit')} in an arm of weight 0" if srm.stray_units else ""
        lines.append(
            ("sample ratio", srm.ok, f"{mark}; chi-square p = {p_value(srm.p_value)}, e-value {srm.e_value:.2g} (alarm at 1000){stray}")
        )
    if analysis.checks.multiple_exposure:
        lines.append(("exposure", False, f"{plural(analysis.checks.multiple_exposure, 'unit')} with rows in several arms left out"))
    return lines


def heterogeneity(breakdown: Breakdown) -> list[str]:
    """A sentence per arm, then the warnings."""
    said = [
        f"{h.arm}: Cochran's Q = {h.q:.1f} on {h.df} df, adjusted p = {p_value(h.adjusted_p_value)}, I² = {h.i2:.0%}"
        for h in breakdown.heterogeneity
    ]
    return [*said, *breakdown.warnings]


def _breakdown(breakdown: Breakdown) -> list[str]:
    rows = [
        [one.value, comparison.arm, f"{sum(one.units.values()):,}", signed(comparison.relative.value), span(comparison.relative.ci)]
        for one in breakdown.slices
        for comparison in one.comparisons
    ]
    lines = ["", f"By {breakdown.dimension}", *table([breakdown.dimension, "arm", "units", "lift", "interval"], rows)]
    return lines + [line for text in heterogeneity(breakdown) for line in wrap(text, "    ")]
