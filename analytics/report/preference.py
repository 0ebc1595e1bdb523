"""What interleaved grids and duels say beside the comparisons."""

from html import escape

import msgspec

from analytics.report.columns import table, wrap
from analytics.report.html_table import html_table
from analytics.report.words import p_value, percent, plural

HEADER = ["metric", "arm", "against", "prefers", "people for", "against it", "torn", "votes", "sign p", "at any look"]


class PairPreference(msgspec.Struct, frozen=True, kw_only=True):
    """Two arms on one metric. `score`: the share of votes that `arm` won, ties half, by person; `units_*`: people who lean to it,
    from it, neither; `won`, `lost`, `tied`: votes, one per person and generation. `p_value`: the sign test on people, for one look at
    this pair alone. `e_value`: of the bets, at any look, of this pair alone."""

    metric: str
    arm: str
    vs: str
    score: float
    units_won: int
    units_lost: int
    units_tied: int
    won: int
    lost: int
    tied: int
    p_value: float
    e_value: float


class PreferenceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every pair of arms that met; `units[metric]`: people who compared any two. `warnings` are risks."""

    units: dict[str, int]
    pairs: list[PairPreference]
    warnings: list[str]


def preference_lines(report: PreferenceReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    if report is None or not report.pairs:
        return []
    return ["", "Preference", *wrap(_counted(report), "  "), *table(HEADER, _rows(report)), *wrap(NOTE, "    ")]


def preference_section(report: PreferenceReport | None) -> str:
    """For the page; empty without it."""
    if report is None or not report.pairs:
        return ""
    shown = html_table(HEADER, _rows(report))
    return f'<section><h2>Preference</h2><p>{escape(_counted(report))}</p>{shown}<p class="legend">{escape(NOTE)}</p></section>'


NOTE = (
    "Prefers: the share of a person's votes that the arm won (ties half), averaged over people. Sign p: exact, on people who lean to "
    "one side, for one look at one pair. At any look: the e-value of bets on their scores, of one pair alone."
)


def _counted(report: PreferenceReport) -> str:
    return "; ".join(f"{metric}: {plural(units, 'person') if units == 1 else f'{units:,} people'} compared" for metric, units in
                     report.units.items()) + "."  # fmt: skip


def _rows(report: PreferenceReport) -> list[list[str]]:
    return [
        [
            one.metric,
            one.arm,
            one.vs,
            percent(one.score),
            f"{one.units_won:,}",
            f"{one.units_lost:,}",
            f"{one.units_tied:,}",
            f"{one.won + one.lost + one.tied:,}",
            p_value(one.p_value),
            f"{one.e_value:.3g}",
        ]
        for one in report.pairs
    ]
