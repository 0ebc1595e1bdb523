"""The analysis of a table as one HTML page that needs nothing else, in the style of a report's."""

from collections.abc import Iterable
from html import escape

from analytics.analyze.analysis import Analysis
from analytics.analyze.text import check_lines, heterogeneity
from analytics.analyze.verdict import verdicts
from analytics.report import plots
from analytics.report.formulas import of_comparison, page_text
from analytics.report.markdown import to_html as from_markdown
from analytics.report.schema import Comparison, MetricReport
from analytics.report.style import STYLE
from analytics.report.words import chance, number, p_value, percent, plural, signed, span

LEGEND = (
    '<p class="legend"><span><span class="key thick"></span>one planned look</span><span><span class="key thin"></span>at any look</span>'
    '<span><span class="key dash"></span>guardrail margin</span></p>'
)


def to_html(analysis: Analysis) -> str:
    """A whole page: sentences first, then figures, numbers, checks, methods."""
    parts = [_head(analysis), _figures(analysis), _arms(analysis), _numbers(analysis), _bootstrap(analysis), _checks(analysis)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in analysis.method_notes)
    parts += [f'<section class="quiet"><h2>How to read this</h2><ul>{notes}</ul></section>', _methods(analysis)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(analysis.experiment)} · Salon analysis</title><style>{STYLE}</style></head>"
        f'<body><main class="salon">{"".join(parts)}</main></body></html>\n'
    )


def _head(analysis: Analysis) -> str:
    units = plural(sum(arm.units for arm in analysis.arms), "unit")
    broken = analysis.checks.srm is not None and not analysis.checks.srm.ok
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdicts(analysis))
    return (
        f'<header><p class="kicker">Table</p><h1>{escape(analysis.experiment)}</h1>'
        f'<p class="quiet">{plural(analysis.rows, "row")} · {units}</p></header>'
        f'<section class="banner {"bad" if broken else "calm"}">{said}</section>'
    )


def _figures(analysis: Analysis) -> str:
    small = [_figure(f"{m.metric} per arm", plots.means(m)) for m in analysis.metrics if m.role == "primary"]
    if analysis.checks.srm is not None:
        small.append(_figure("Units per arm, and what the weights promise", plots.ratio(analysis.checks.srm)))
    made = [_figure("Lift against the control, every metric", plots.forest(analysis.metrics) + LEGEND)]
    made.append(f'<div class="pair">{"".join(small)}</div>')
    sections = [f"<section>{''.join(made)}</section>"]
    for breakdown in analysis.breakdowns:
        said = "".join(f"<p>{escape(text)}</p>" for text in heterogeneity(breakdown))
        sections.append(f"<section>{_figure(f'By {breakdown.dimension}', plots.slices(breakdown))}{said}</section>")
    return "".join(sections)


def _arms(analysis: Analysis) -> str:
    rows = [
        [
            escape(arm.arm) + (' <span class="tag">control</span>' if arm.control else ""),
            "–" if arm.weight is None else percent(arm.weight),
            f"{arm.units:,}",
        ]
        for arm in analysis.arms
    ]
    return f"<section><h2>Arms</h2>{_table(['Arm', 'Weight', 'Units'], rows)}</section>"


def _numbers(analysis: Analysis) -> str:
    sequential = analysis.sufficient_statistics.sequential
    every = [(metric, comparison) for metric in analysis.metrics for comparison in metric.comparisons]
    header = ["Metric", "Arm", "Value", "Lift", "Interval", *(["At any look"] if sequential else []), "p", "P(better)"]
    looks = "at any look" if sequential else "for one planned look, corrected over its role"
    said = "".join(f"<li>{_method(metric, comparison)}</li>" for metric, comparison in every)
    table = _table(header, [_row(metric, comparison, sequential=sequential) for metric, comparison in every])
    return f'<section><h2>Numbers</h2>{table}<p class="legend">p: {looks}.</p><ul class="quiet">{said}</ul></section>'


def _row(metric: MetricReport, comparison: Comparison, *, sequential: bool) -> list[str]:
    values = {arm.arm: number(arm.mean, metric.kind) for arm in metric.arms}
    tag: str = metric.role
    if metric.margin is not None:
        tag += f" {percent(metric.margin)}: " + {True: "holds", False: "broken", None: "open"}[comparison.ok]
    tone = " bad" if comparison.ok is False else " good" if comparison.ok else ""
    sequence, bayes = comparison.always_valid, comparison.bayes
    return [
        f'{escape(metric.metric)}<br><span class="tag{tone}">{escape(tag)}</span>',
        escape(comparison.arm),
        f'{values[comparison.arm]} <span class="quiet">vs {values[comparison.vs]}</span>',
        f"<b>{signed(comparison.relative.value)}</b>",
        span(comparison.relative.ci),
        *([span(sequence.relative_ci) if sequence else "–"] if sequential else []),
        p_value(sequence.p_value if sequence else comparison.adjusted_p_value),
        chance(bayes.prob_better if bayes else None),
    ]


def _method(metric: MetricReport, comparison: Comparison) -> str:
    said = comparison.method + (f"; lift: {comparison.lift_method}" if comparison.lift_method else "")
    links = ", ".join(f'<a href="#{formula.page}">{escape(formula.title)}</a>' for formula in of_comparison(comparison))
    return f"{escape(metric.metric)}, {escape(comparison.arm)}: {escape(said)}{f' ({links})' if links else ''}"


def _bootstrap(analysis: Analysis) -> str:
    if not analysis.bootstrap:
        return ""
    rows = [[escape(one.metric), escape(one.arm), span(one.relative_ci), span(one.basic_relative_ci)] for one in analysis.bootstrap]
    title = f"The same by drawing units anew ({analysis.bootstrap[0].draws:,} draws)"
    return f"<section><h2>{title}</h2>{_table(['Metric', 'Arm', 'Percentiles', 'Basic'], rows)}</section>"


def _checks(analysis: Analysis) -> str:
    items = "".join(
        f'<li class="{"good" if ok else "bad"}"><b>{escape(name.capitalize())}</b><span>{escape(text)}</span></li>'
        for name, ok, text in check_lines(analysis)
    )
    return f'<section><h2>Checks</h2><ul class="checks">{items}</ul></section>' if items else ""


def _methods(analysis: Analysis) -> str:
    """The formula page of every method that made a comparison, folded."""
    used = {formula.page: formula for m in analysis.metrics for c in m.comparisons for formula in of_comparison(c)}
    folds = "".join(
        f'<details id="{formula.page}"><summary>{escape(formula.title)} <span class="quiet">{escape(formula.path)}</span></summary>'
        f"{from_markdown(page_text(formula) or '')}</details>"
        for formula in used.values()
    )
    return f'<section><h2>Methods</h2><div class="folds">{folds}</div></section>' if folds else ""


def _figure(caption: str, drawing: str) -> str:
    return f"<figure><figcaption>{escape(caption)}</figcaption>{drawing}</figure>"


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
