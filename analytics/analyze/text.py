"""The analysis of a table on a terminal."""

from analytics.analyze.analysis import Analysis
from analytics.report.text import metric_lines, table, wrap
from analytics.report.words import p_value, percent, plural


def to_text(analysis: Analysis) -> str:
    """As text of at most 100 columns, ending in a newline."""
    control = next(arm.arm for arm in analysis.arms if arm.control)
    lines = [f"{analysis.experiment}: {plural(analysis.rows, 'row')}, {plural(sum(arm.units for arm in analysis.arms), 'unit')}", ""]
    rows = [
        [arm.arm + (" (control)" if arm.control else ""), "" if arm.weight is None else percent(arm.weight), f"{arm.units:,}"]
        for arm in analysis.arms
    ]
    lines += table(["arm", "weight" if analysis.checks.srm else "", "units"], rows)
    srm = analysis.checks.srm
    if srm is not None:
        mark = "✓ sample ratio as intended" if srm.ok else "✗ SAMPLE RATIO MISMATCH: no number below can be trusted"
        lines += ["", *wrap(f"{mark}; chi-square p = {p_value(srm.p_value)}, e-value {srm.e_value:.2g} (alarm at 1000)", "  ", "    ")]
    if analysis.checks.multiple_exposure:
        lines += wrap(f"✗ {plural(analysis.checks.multiple_exposure, 'unit')} with rows in several arms left out", "  ", "    ")
    lines += [*metric_lines(analysis.metrics, control), "", "How to read this"]
    for note in analysis.method_notes:
        lines += wrap(note, "  - ", "    ")
    return "\n".join(lines) + "\n"
