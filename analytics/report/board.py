"""The board of a duel: strengths of all variants, their ranks, and what does not fit a single order."""

from html import escape

import msgspec

from analytics.inference.contrast import Interval
from analytics.report.columns import table, wrap
from analytics.report.html_table import html_table
from analytics.report.words import p_value, percent, plural

# A terminal gets those that speak most clearly; the page has all.
MEETINGS_SHOWN = 10


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An arm on the board. `strength`: on the logit scale, mean 0 over the rated arms; `elo`: 1000 + 400 strength/ln 10. `ranks`:
    from the best to the worst that is not excluded, for all arms at once. None where `why` says that it has no number, or no error."""

    arm: str
    won: int
    lost: int
    tied: int
    raters: int
    strength: float | None = None
    se: float | None = None
    elo: float | None = None
    elo_ci: Interval = (None, None)
    rank: int | None = None
    ranks: tuple[int, int] | None = None
    why: str = ""


class Encounter(msgspec.Struct, frozen=True, kw_only=True):
    """A pair by itself. `score`: of the first, a tie is 1/2; `expected`: what the board gives it.
    `adjusted_p_value`: Holm over all pairs."""

    first: str
    second: str
    won: int
    lost: int
    tied: int
    raters: int
    score: float
    ci: Interval
    expected: float | None
    p_value: float | None
    adjusted_p_value: float | None


class Circle(msgspec.Struct, frozen=True, kw_only=True):
    """Each arm beats the next, and the last the first: `scores[i]` of `arms[i]` against the next, `adjusted_p_values[i]`."""

    arms: list[str]
    scores: list[float]
    adjusted_p_values: list[float]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """How often the left picture won, of the votes that one picture won."""

    decided: int
    left: float
    ci: Interval
    p_value: float | None


class BoardReport(msgspec.Struct, frozen=True, kw_only=True):
    """Best first, then those without a number. Intervals are for one look, at `level`.

    `tie_chance`: of two arms that are alike (Davidson). `one_order_p_value`: small where no order of strengths explains the pairs.
    `warnings`: for the decision's risks."""

    model: str
    level: float
    votes: int
    raters: int
    tie_chance: float | None
    one_order_p_value: float | None
    standings: list[Standing]
    encounters: list[Encounter]
    circles: list[Circle]
    side: Side | None
    warnings: list[str]


def board_lines(report: BoardReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    if report is None:
        return []
    lines = ["", *wrap(_title(report), "")]
    lines += table(_header(report), [_row(standing) for standing in report.standings])
    for standing in report.standings:
        lines += wrap(f"{standing.arm}: {standing.why}", "    ") if standing.why else []
    shown = sorted(report.encounters, key=lambda e: (1.0 if e.p_value is None else e.p_value, -e.won - e.lost - e.tied))[:MEETINGS_SHOWN]
    if len(report.standings) > 2 and shown:
        left = f" (the {len(shown)} clearest of {len(report.encounters)})" if len(shown) < len(report.encounters) else ""
        lines += wrap(f"Pairs{left}", "  ")
        lines += table(["pair", "votes", "score", "interval", "the board says", "p"], [_pair_row(e) for e in shown])
    for words in said(report):
        lines += wrap(words, "    ")
    return lines


def board_section(report: BoardReport | None) -> str:
    """For the page; empty without it."""
    if report is None:
        return ""
    whys = [f"{standing.arm}: {standing.why}" for standing in report.standings if standing.why]
    listed = "".join(f"<li>{escape(words)}</li>" for words in (*whys, *said(report)))
    pairs = ""
    if len(report.standings) > 2 and report.encounters:
        pairs = html_table(["pair", "votes", "score", "interval", "the board says", "p"], [_pair_row(e) for e in report.encounters])
    standings = html_table(_header(report), [_row(standing) for standing in report.standings])
    return (
        f'<section class="board"><h2>Board</h2><p class="lead">{escape(_title(report))}</p>{standings}{pairs}'
        f'<ul class="quiet">{listed}</ul></section>'
    )


def said(report: BoardReport) -> list[str]:
    """What a reader of the board should know, a sentence each: circles, fit, sides, and how to read it."""
    lines = []
    for circle in report.circles:
        steps = zip(circle.arms, [*circle.arms[1:], circle.arms[0]], circle.scores, circle.adjusted_p_values, strict=True)
        beaten = ", ".join(f"{arm} beats {other} ({percent(score)}, p = {p_value(p)})" for arm, other, score, p in steps)
        lines.append(f"A circle: {beaten}. No single order is right here: read the pairs.")
    if report.one_order_p_value is not None:
        fits = report.one_order_p_value > 1 - report.level
        ending = "one order of strengths fits them" if fits else "they do not follow one order of strengths, and ranks hide that"
        lines.append(f"Pairs against the board: {ending} (p = {p_value(report.one_order_p_value)}).")
    if report.tie_chance is not None:
        lines.append(f"Two arms that are alike tie {percent(report.tie_chance)} of the time.")
    if report.side is not None:
        side = report.side
        low, high = side.ci
        around = f" [{percent(low)}, {percent(high)}]" if low is not None and high is not None else ""
        tested = f", p = {p_value(side.p_value)}" if side.p_value is not None else ""
        lines.append(
            f"The left picture won {percent(side.left)}{around} of {plural(side.decided, 'decided vote')}{tested}. Sides are drawn by "
            "chance, so that this favours no arm."
        )
    if any(standing.elo is not None for standing in report.standings):
        lines.append("The board is for one look; what holds at any look stands with the metrics.")
    return lines


def _title(report: BoardReport) -> str:
    model = f"; {report.model}" if report.model else ""
    return f"Board: {plural(report.votes, 'vote')} of {plural(report.raters, 'rater')}{model}"


def _header(report: BoardReport) -> list[str]:
    return ["arm", "Elo", f"{report.level:.0%} interval", "rank", "ranks", "won", "lost", "tied", "raters"]


def _row(standing: Standing) -> list[str]:
    low, high = standing.elo_ci
    return [
        standing.arm,
        "–" if standing.elo is None else f"{standing.elo:,.0f}",
        "–" if low is None or high is None else f"[{low:,.0f}, {high:,.0f}]",
        "–" if standing.rank is None else f"{standing.rank}",
        "–" if standing.ranks is None else f"{standing.ranks[0]}–{standing.ranks[1]}",
        *(f"{count:,}" for count in (standing.won, standing.lost, standing.tied, standing.raters)),
    ]


def _pair_row(e: Encounter) -> list[str]:
    low, high = e.ci
    return [
        f"{e.first} : {e.second}",
        f"{e.won + e.lost + e.tied:,}",
        percent(e.score),
        "–" if low is None or high is None else f"[{percent(low)}, {percent(high)}]",
        "–" if e.expected is None else percent(e.expected),
        p_value(e.p_value),
    ]
