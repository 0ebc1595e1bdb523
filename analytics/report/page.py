"""The report as one HTML page that needs nothing else: no script, no font, no address to fetch."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby

from analytics.facts import GalleryPicture
from analytics.report.plots import forest, means, ratio
from analytics.report.schema import Comparison, MetricReport, Report
from analytics.report.style import STYLE
from analytics.report.text import VERDICTS, age, check_lines, read_lines
from analytics.report.words import chance, number, p_value, percent, signed, span

TONES = {"ship": "good", "keep_running": "calm", "stop": "calm", "rollback": "bad", "invalid": "bad"}
GALLERY_ROWS = 12


def to_html(report: Report, gallery: Sequence[GalleryPicture] = ()) -> str:
    """A whole page. `gallery`: pictures whose rows share prompt and seed, embedded as data."""
    title = escape(report.experiment)
    body = [_banner(report), _effects(report), _gallery(report, gallery), _arms(report), _metrics(report), _checks(report), _notes(report)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{title} · Salon report</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _banner(report: Report) -> str:
    decision = report.decision
    arm = f" <b>{escape(decision.arm)}</b>" if decision.arm else ""
    risks = "".join(f"<li>{escape(risk)}</li>" for risk in decision.risks)
    events = f" · {read_lines(report)}" if report.events_read else ""
    events += " · <b>flagged events are counted</b>" if report.flagged == "included" else ""
    where = f" on route <b>{escape(report.route)}</b>" if report.route else ""
    return (
        f'<header><p class="kicker">Experiment{where}</p><h1>{escape(report.experiment)}</h1>'
        f'<p class="quiet">{escape(age(report))} · as of {report.as_of:%Y-%m-%d %H:%M} UTC{events}</p></header>'
        f'<section class="banner {TONES[decision.action]}"><h2>{VERDICTS[decision.action].capitalize()}{arm}</h2>'
        f"<p>{escape(decision.reason)}</p>{f'<ul>{risks}</ul>' if risks else ''}</section>"
    )


def _effects(report: Report) -> str:
    primary = [m for m in report.metrics if m.role == "primary"]
    figures = [f"<figure><figcaption>Lift against the control, every metric</figcaption>{forest(report.metrics)}{LEGEND}</figure>"]
    small = [f"<figure><figcaption>{escape(m.metric)} per arm</figcaption>{means(m)}</figure>" for m in primary]
    small.append(f"<figure><figcaption>Units per arm, of what the weights promise</figcaption>{ratio(report.checks.srm)}</figure>")
    return f'<section>{"".join(figures)}<div class="pair">{"".join(small)}</div></section>'


LEGEND = (
    '<p class="legend"><span class="key thick"></span>one planned look <span class="key thin"></span>at any look '
    '<span class="key dash"></span>guardrail margin</p>'
)


def _gallery(report: Report, gallery: Sequence[GalleryPicture]) -> str:
    if not gallery:
        return ""
    arms = [arm.arm for arm in report.arms]
    head = "".join(f"<th>{escape(arm)}</th>" for arm in arms)
    rows = []
    for (prompt, seed), pictures in groupby(sorted(gallery, key=lambda p: (p.prompt, p.seed)), key=lambda p: (p.prompt, p.seed)):
        found = {picture.arm: picture for picture in pictures}
        cells = "".join(f"<td>{_picture(found[arm]) if arm in found else '<span class=quiet>none</span>'}</td>" for arm in arms)
        rows.append(f'<tr><th scope="row">{escape(prompt)}<br><span class="quiet">seed {seed}</span></th>{cells}</tr>')
    return (
        "<section><h2>The same prompt and seed, arm by arm</h2>"
        f'<div class="wide"><table class="gallery"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows[:GALLERY_ROWS])}</tbody></table></div></section>"
    )


def _picture(picture: GalleryPicture) -> str:
    data = base64.b64encode(picture.png).decode()
    return f'<img alt="{escape(picture.prompt)}, by {escape(picture.arm)}" src="data:image/png;base64,{data}">'


def _arms(report: Report) -> str:
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
    return (
        "<section><h2>Arms</h2>"
        + _table(["Arm", "Weight", "Units", "Requests", "Images", "Failed", "p50 ms", "p95 ms", "Variant"], rows)
        + "</section>"
    )


def _metrics(report: Report) -> str:
    rows = []
    for metric in report.metrics:
        values = {arm.arm: number(arm.mean, metric.kind) for arm in metric.arms}
        rows += [_metric_row(metric, comparison, values) for comparison in metric.comparisons]
    header = ["Metric", "Arm", "Value", "Lift", "Interval", "At any look", "p", "P(better)", "Loss"]
    return "<section><h2>Numbers</h2>" + _table(header, rows) + NUMBERS + "</section>"


NUMBERS = (
    '<p class="legend">p: at any look, over all comparisons of the metric\'s role. Loss: what shipping costs on average, as a lift.</p>'
)


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
        f'<span title="{escape(comparison.method)}">{span(comparison.relative.ci)}</span>',
        span(sequence.relative_ci) if sequence else "–",
        p_value(sequence.p_value if sequence else None),
        chance(bayes.prob_better if bayes else None),
        percent(bayes.expected_loss_ship) if bayes else "–",
    ]


def _checks(report: Report) -> str:
    items = "".join(
        f'<li class="{"good" if ok else "bad"}"><b>{escape(name.capitalize())}</b> {escape(text)}</li>'
        for name, ok, text in check_lines(report)
    )
    return f'<section><h2>Checks</h2><ul class="checks">{items}</ul></section>'


def _notes(report: Report) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in report.method_notes)
    return f'<section class="quiet"><h2>How to read this</h2><ul>{items}</ul></section>'


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
