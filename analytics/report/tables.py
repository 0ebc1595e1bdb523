"""The sections of the page that are tables and lists: arms, numbers, checks, methods, SQL."""

from collections.abc import Iterable
from html import escape

from analytics.report.formulas import Formula, formulas, of_comparison, page_text
from analytics.report.markdown import to_html
from analytics.report.schema import Comparison, MetricReport, Report
from analytics.report.text import check_lines
from analytics.report.text_views import beside
from analytics.report.words import chance, number, p_value, percent, signed, span

NUMBERS_HEADER = ("Metric", "Arm", "Value", "Lift", "Interval", "At any look", "p", "P(better)", "Loss")
NUMBERS = (
    '<p class="legend">p: at any look, over all comparisons of the metric\'s role. Loss: what shipping costs on average, as a lift. '
    "Links lead to the formulas below.</p>"
)


def arms(report: Report) -> str:
    """Who was served what, and how fast."""
    rows = [
        [
            escape(arm.arm) + (' <span class="tag">control</span>' if arm.control else ""),
            percent(arm.weight),
            f"{arm.units:,}",
            f"{arm.generations:,}",
            f"{arm.images:,}",
            f"{arm.failures:,}",
            number(arm.latency_ms.p50, "mean"),
            number(arm.latency_ms.p95, "mean"),
            f'<code title="{escape(arm.variant)}">{escape(arm.variant.removeprefix("sha256:")[:10]) or "–"}</code>',
        ]
        for arm in report.arms
    ]
    header = ["Arm", "Weight", "Units", "Requests", "Images", "Failed", "p50 ms", "p95 ms", "Variant"]
    return f"<section><h2>Arms</h2>{_table(header, rows)}</section>"


def numbers(report: Report) -> str:
    """Every comparison; under each the methods that made it, and what else it says."""
    rows = []
    for metric in report.metrics:
        values = {arm.arm: number(arm.mean, metric.kind) for arm in metric.arms}
        for comparison in metric.comparisons:
            rows.append(_cells(_metric_row(metric, comparison, values)))
            rows.append(f'<tr class="method"><td colspan="{len(NUMBERS_HEADER)}">{_method(comparison)}</td></tr>')
    return f"<section><h2>Numbers</h2>{_table_of(NUMBERS_HEADER, rows)}{NUMBERS}</section>"


def _metric_row(metric: MetricReport, comparison: Comparison, values: dict[str, str]) -> list[str]:
    tag: str = metric.role
    if metric.role == "guardrail":
        tag += f" {percent(metric.margin or 0.0)}: " + {True: "holds", False: "broken", None: "open"}[comparison.ok]
    sequence, bayes = comparison.always_valid, comparison.bayes
    tone = " bad" if comparison.ok is False else " good" if comparison.ok else ""
    return [
        f'{escape(metric.metric)}<br><span class="tag{tone}">{escape(tag)}</span>',
        escape(comparison.arm),
        f'{values.get(comparison.arm, "–")} <span class="quiet">vs {values.get(comparison.vs, "–")}</span>',
        f"<b>{signed(comparison.relative.value)}</b>",
        span(comparison.relative.ci),
        span(sequence.relative_ci) if sequence else "–",
        p_value(sequence.p_value if sequence else None),
        chance(bayes.prob_better if bayes else None),
        percent(bayes.expected_loss_ship) if bayes else "–",
    ]


def _method(comparison: Comparison) -> str:
    said = comparison.method + (f"; lift: {comparison.lift_method}" if comparison.lift_method else "")
    links = ",".join(f' <a href="#{formula.page}">{escape(formula.title)}</a>' for formula in of_comparison(comparison))
    return f"{escape('; '.join([said, *beside(comparison)]))}{'.' + links if links else ''}"


def checks(report: Report) -> str:
    """What has to hold before a number is believed."""
    items = "".join(
        f'<li class="{"good" if ok else "bad"}"><b>{escape(name.capitalize())}</b><span>{escape(text)}</span></li>'
        for name, ok, text in check_lines(report)
    )
    return f'<section><h2>Checks</h2><ul class="checks">{items}</ul></section>'


def history(report: Report) -> str:
    """Each change of mind that was logged, the latest first. Empty where there is none."""
    past = report.decision.history
    if not past:
        return ""
    rows = [
        [f"{one.at:%Y-%m-%d %H:%M}", escape(one.told.replace("_", " ")), signed(one.lift), span(one.always_valid_ci), escape(one.reason)]
        for one in reversed(past)
    ]
    header = ["When (UTC)", "Decision", "Lift", "At any look", "Reason"]
    return f'<section class="history"><h2>Decisions so far</h2>{_table(header, rows)}</section>'


def notes(report: Report) -> str:
    """How the numbers are to be read."""
    items = "".join(f"<li>{escape(note)}</li>" for note in report.method_notes)
    return f'<section class="quiet"><h2>How to read this</h2><ul>{items}</ul></section>'


def methods(report: Report) -> str:
    """The formula page of every method of this report, folded."""
    return f'<section><h2>Methods</h2><div class="folds">{"".join(map(_formula, formulas(report)))}</div></section>'


def _formula(formula: Formula) -> str:
    written = page_text(formula)
    body = to_html(written.partition("\n")[2]) if written else "<p>This installation has no docs.</p>"
    place = f'<span class="quiet">{formula.path}</span>'
    return f'<details id="{formula.page}"><summary>{escape(formula.title)} {place}</summary>{body}</details>'


def sql(report: Report) -> str:
    """The SQL that each metric became, folded. Empty where none is known."""
    known = [metric for metric in report.metrics if metric.sql]
    if not known:
        return ""
    folds = "".join(
        f'<details><summary>{escape(metric.metric)} <span class="quiet">{escape(metric.kind)}, {escape(metric.role)}</span></summary>'
        f"<pre>{escape(metric.sql)}</pre></details>"
        for metric in known
    )
    return f'<section><h2>SQL of the metrics</h2><div class="folds">{folds}</div></section>'


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    return _table_of(header, map(_cells, rows))


def _cells(row: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"


def _table_of(header: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
