"""The sections of the page that are drawn: effects, the course of the experiment, breakdowns, novelty."""

from html import escape

from analytics.report import courses, plots
from analytics.report.schema import Breakdown, MetricReport, Report
from analytics.report.text_views import heterogeneity_lines, primary_of

LEGEND = (
    '<p class="legend"><span><span class="key thick"></span>one planned look</span><span><span class="key thin"></span>at any look</span>'
    '<span><span class="key dash"></span>guardrail margin</span></p>'
)


def effects(report: Report) -> str:
    """Every lift; then the primary metric and the units, arm by arm."""
    small = [_figure(f"{m.metric} per arm", plots.means(m)) for m in report.metrics if m.role == "primary"]
    small.append(_figure("Units per arm, and what the weights promise", plots.ratio(report.checks.srm)))
    lifts = _figure("Lift against the control, every metric", plots.forest(report.metrics) + LEGEND)
    return f'<section><h2 class="aside">Effects</h2>{lifts}<div class="pair">{"".join(small)}</div></section>'


def course(report: Report) -> str:
    """Day by day: the primary lift of every arm, units, sample ratio. Empty without a path."""
    points = report.path
    if not points:
        return ""
    name = primary_of(report).metric
    drawn = [
        _figure(f"Lift of {arm} on {name}, with the interval that holds at any look", courses.lift(points, arm)) for arm in points[-1].lift
    ]
    drawn.append(_figure("Units that have come", courses.units(points)))
    drawn.append(_figure("Evidence against the sample ratio", courses.ratio(points)))
    note = "Over the units first exposed up to each day, with what they have done until now; without covariates."
    return f'<section><h2>Day by day</h2><p class="quiet lead">{note}</p><div class="pair">{"".join(drawn)}</div></section>'


def novelty(report: Report) -> str:
    """The primary lift by day of life. Empty without one."""
    if not report.novelty:
        return ""
    note = (
        "Does it wear off, or grow? The lift in each unit's first 24 hours, the next, and so on. Later days hold only the units "
        "that have lived through them."
    )
    figure = _figure(f"Lift on {primary_of(report).metric} by day since exposure", plots.ages(report.novelty))
    return f'<section><h2>By day since exposure</h2><p class="quiet lead">{note}</p>{figure}</section>'


def breakdowns(report: Report) -> str:
    """The primary metric by every dimension. Empty without one."""
    if not report.breakdowns:
        return ""
    note = "Intervals are corrected over the slices of a dimension. A slice is a place to look, not a winner to pick."
    drawn = "".join(_breakdown(b, primary_of(report)) for b in report.breakdowns)
    return f'<section><h2>Breakdowns</h2><p class="quiet lead">{note}</p>{drawn}</section>'


def _breakdown(breakdown: Breakdown, primary: MetricReport) -> str:
    tests = "".join(f"<li>{escape(words)}</li>" for words in heterogeneity_lines(breakdown))
    warnings = "".join(f'<li class="bad">{escape(warning)}</li>' for warning in breakdown.warnings)
    below = f'<ul class="notes">{tests}{warnings}</ul>' if tests or warnings else ""
    return _figure(f"Lift on {primary.metric} by {breakdown.dimension}", plots.slices(breakdown) + below)


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"
