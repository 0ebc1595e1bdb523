"""What a switchback's blocks say beside the comparisons."""

from html import escape

import msgspec

from analytics.inference.contrast import Interval
from analytics.inference.randomisation import Randomisation
from analytics.inference.switchback import CarryOver
from analytics.report.columns import table, wrap
from analytics.report.html_table import html_table
from analytics.report.words import p_value, plural

HEADER = ["metric", "arm", "difference", "Newey-West", "p", "randomisation p", "foretold"]


class BlockEffect(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one arm against `vs`, for one look: the difference of the comparison, least squares with Newey-West errors
    (`ci` at its `ci_level`, normal), the randomisation test, and the share of the variance that earlier blocks `foretold`.
    `carry_over`: does an arm go on acting in the next block?"""

    metric: str
    arm: str
    vs: str
    blocks: int
    difference: float
    newey_west_se: float
    ci: Interval
    ci_level: float
    p_value: float | None
    randomisation: Randomisation | None
    foretold: float
    carry_over: CarryOver | None


class SwitchbackReport(msgspec.Struct, frozen=True, kw_only=True):
    """`blocks` per arm that the primary metric counts, tightest at `planned_blocks` at any look. `running`: not over yet; `mixed`:
    with two arms, for weights changed within, left out; `unplaced`: generations that tell no block."""

    block_minutes: float
    washout_minutes: float
    lag: int
    blocks: dict[str, int]
    planned_blocks: int
    running: int
    mixed: int
    unplaced: int
    effects: list[BlockEffect]
    warnings: list[str]


def switchback_lines(report: SwitchbackReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    if report is None:
        return []
    lines = ["", "Switchback", *wrap(_blocks(report), "  ")]
    if report.effects:
        lines += table(HEADER, _rows(report))
        lines += wrap(_note(report), "    ")
    for sentence in _carried(report):
        lines += wrap(sentence, "    ")
    return lines


def switchback_section(report: SwitchbackReport | None) -> str:
    """For the page; empty without it."""
    if report is None:
        return ""
    rows = _rows(report)
    shown = html_table(HEADER, rows) if rows else ""
    legend = f'<p class="legend">{escape(_note(report))}</p>' if rows else ""
    carried = "".join(f"<p>{escape(sentence)}</p>" for sentence in _carried(report))
    return f"<section><h2>Switchback</h2><p>{escape(_blocks(report))}</p>{shown}{legend}{carried}</section>"


def _blocks(report: SwitchbackReport) -> str:
    counted = ", ".join(f"{arm} {n:,}" for arm, n in report.blocks.items())
    washout = f", the first {report.washout_minutes:g} of each left out" if report.washout_minutes else ""
    rest = [f"{report.running} not over yet"] if report.running else []
    rest += [f"{report.mixed} with two arms left out"] if report.mixed else []
    others = f"; {', '.join(rest)}" if rest else ""
    return f"Blocks of {report.block_minutes:g} minutes{washout}: {counted} counted{others}. Planned: {report.planned_blocks:,} in all."


def _note(report: SwitchbackReport) -> str:
    return (
        f"All for one look. Newey-West: least squares, errors related over {plural(report.lag, 'block')}. Randomisation: how often arms "
        "drawn again would differ as much. Foretold: the share of the variance that earlier blocks took out."
    )


def _rows(report: SwitchbackReport) -> list[list[str]]:
    return [
        [
            one.metric,
            one.arm,
            f"{one.difference:+.4g}",
            "unbounded" if one.ci[0] is None or one.ci[1] is None else f"[{one.ci[0]:+.4g}, {one.ci[1]:+.4g}]",
            p_value(one.p_value),
            _randomised(one.randomisation),
            f"{max(0.0, one.foretold):.0%}",
        ]
        for one in report.effects
    ]


def _randomised(test: Randomisation | None) -> str:
    return "–" if test is None else f"{p_value(test.p_value)} ({'all' if test.exact else 'of'} {test.assignments:,})"


def _carried(report: SwitchbackReport) -> list[str]:
    return [
        f"{one.metric}, {one.arm}: {one.carry_over.after_other:+.4g} in blocks after one of the other arm, "
        f"{one.carry_over.after_same:+.4g} after one of the same (p = {p_value(one.carry_over.p_value)} that they are alike)."
        for one in report.effects
        if one.carry_over is not None
    ]
