"""The report as one HTML page that needs nothing else: no script, no font, no address to fetch."""

import base64
from collections.abc import Sequence
from html import escape
from itertools import groupby

from analytics.facts import GalleryPicture
from analytics.report import figures, tables
from analytics.report.adaptive import adaptive_section
from analytics.report.board import board_section
from analytics.report.position import position_section
from analytics.report.preference import preference_section
from analytics.report.schema import Report
from analytics.report.style import STYLE
from analytics.report.switchback import switchback_section
from analytics.report.text import VERDICTS, age, plain_verdict, read_lines

TONES = {"ship": "good", "keep_running": "calm", "stop": "calm", "rollback": "bad", "invalid": "bad"}
GALLERY_ROWS = 12


def to_html(report: Report, gallery: Sequence[GalleryPicture] = ()) -> str:
    """A whole page. `gallery`: pictures whose rows share prompt and seed, embedded as data."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(report.experiment)} · Salon report</title><style>{STYLE}</style></head>"
        f"<body>{body(report, gallery)}</body></html>\n"
    )


def body(report: Report, gallery: Sequence[GalleryPicture] = ()) -> str:
    """What stands on the page, without its frame: for a notebook, which has its own."""
    parts = [
        _banner(report),
        figures.effects(report),
        adaptive_section(report.adaptive),
        preference_section(report.preference),
        board_section(report.board),
        switchback_section(report.switchback),
        position_section(report.position),
        figures.course(report),
        figures.breakdowns(report),
        figures.novelty(report),
        _gallery(report, gallery),
        tables.arms(report),
        tables.numbers(report),
        tables.checks(report),
        tables.history(report),
        tables.notes(report),
        tables.methods(report),
        tables.sql(report),
    ]
    return '<main class="salon">\n' + "\n".join(part for part in parts if part) + "\n</main>"


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
        f'<p class="plain">{escape(plain_verdict(report))}</p><p>{escape(decision.reason)}</p>'
        f"{f'<ul>{risks}</ul>' if risks else ''}</section>"
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
