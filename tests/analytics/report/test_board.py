"""The board of a duel in a report: numbers by arithmetic, arms without one, circles, sides, and its text and page."""

import math
from itertools import combinations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paired_cases import Row, drawn, facts, names
from report_cases import experiment
from scipy import stats

from analytics.experiment import Experiment
from analytics.facts_of_designs import DuelFacts, SideVotes
from analytics.report.board import BoardReport, board_lines, board_section
from analytics.report.standings import board

CIRCLE = [(rater, *((0, 1, 0), (1, 2, 0), (0, 2, 1))[rater % 3]) for rater in range(300)]


def duel(arms: int) -> Experiment:
    return experiment(arms=dict.fromkeys(names(arms), 1 / arms), control="a", design="duel")


def found(votes: DuelFacts | list[Row], arms: int) -> BoardReport:
    report = board(duel(arms), facts(votes, arms) if isinstance(votes, list) else votes)
    assert report is not None
    return report


def text(report: BoardReport) -> str:
    return " ".join(" ".join(board_lines(report)).split())


def test_two_arms_by_arithmetic() -> None:
    report = found([(rater, 0, 1, 0 if rater < 60 else 1) for rater in range(100)], 2)
    first, second = report.standings
    strength = math.log(60 / 40) / 2
    assert (
        first.arm == "a" and first.strength == pytest.approx(strength) and first.elo == pytest.approx(1000 + 400 * strength / math.log(10))
    )
    assert second.elo == pytest.approx(2000 - first.elo)
    se = math.sqrt(1 / (100 * 0.6 * 0.4)) / 2
    assert first.se == pytest.approx(se)
    half = stats.t.ppf(0.975, 99) * se * 400 / math.log(10)
    assert first.elo_ci == pytest.approx((first.elo - half, first.elo + half))
    (pair,) = report.encounters
    assert pair.p_value == pytest.approx(2 * stats.t.sf(2.0, 99)) and (pair.won, pair.lost, pair.score) == (60, 40, 0.6)
    assert [s.ranks for s in report.standings] == [(1, 1), (2, 2)]  # t = 2.03
    assert report.model == "Bradley-Terry" and report.tie_chance is None and report.one_order_p_value is None


def test_one_rater_is_one_voice() -> None:
    """100 votes of one person and 10 of others: the pair is open, and nothing has an interval."""
    report = found([(0, 0, 1, 0)] * 100 + [(rater, 0, 1, rater % 2) for rater in range(1, 11)], 2)
    assert report.encounters[0].p_value > 0.3 and report.encounters[0].ci == (None, None)
    assert all(s.elo is not None and s.elo_ci == (None, None) and s.ranks == (1, 2) for s in report.standings)
    assert "11 raters voted on it; an interval takes 20" in text(report)


def test_arms_without_a_number() -> None:
    rows = drawn([0.3, -0.3], raters=40, each=4) + [(rater, 0, 2, 1) for rater in range(30)]
    report = found(rows, 4)
    assert [s.arm for s in report.standings] == ["a", "b", "c", "d"]
    assert [s.elo is None for s in report.standings] == [False, False, True, True]
    assert report.standings[2].why == "won every vote that links it to the others: its strength has no upper end"
    assert report.standings[3].why == "no votes" and report.standings[2].won == 30
    assert [e.expected is None for e in report.encounters] == [False, True]
    nothing = found([(rater, 0, 1, 0) for rater in range(50)], 2)
    assert [s.elo for s in nothing.standings] == [None, None] and nothing.model == ""
    assert "no upper end" in nothing.standings[0].why and "no lower end" in nothing.standings[1].why


def test_ties_make_it_davidson() -> None:
    report = found(drawn([0.4, 0, -0.4], raters=400, each=3, nu=0.5), 3)
    assert report.model == "Davidson" and report.tie_chance == pytest.approx(0.2, abs=0.04)
    few = found([(rater, 0, 1, 2 if rater < 5 else 0) for rater in range(40)], 2)
    assert few.model == "Bradley-Terry, a tie as half a win" and few.standings[0].strength == pytest.approx(math.log(37.5 / 2.5) / 2)


def test_a_circle_is_named_with_its_evidence() -> None:
    report = found(CIRCLE + [(rater, i, j, 1 - o if o < 2 else 2) for rater, i, j, o in CIRCLE[:60]], 3)
    (circle,) = report.circles
    assert circle.arms == ["a", "b", "c"] and circle.scores == pytest.approx([100 / 120] * 3) and max(circle.adjusted_p_values) < 1e-4
    assert report.warnings == [
        "The duels contradict each other: a beats b, b beats c, c beats a. Which arm is best depends on what it stands beside."
    ]
    assert report.one_order_p_value < 1e-4 and {s.ranks for s in report.standings} == {(1, 3)}
    assert "A circle: a beats b (83.3%" in text(report) and "do not follow one order" in text(report)


def test_a_habit_for_the_left_side() -> None:
    """Three raters' sums by hand: 5 of 6, 4 of 6, 3 of 3 decided votes went left."""
    sides = SideVotes(raters=3, decided=15, left=12, left_squares=50, left_decided=63, decided_squares=81)
    report = found(msgspec.structs.replace(facts(CIRCLE, 3), sides=sides), 3)
    assert report.side is not None and report.side.left == 0.8 and report.side.ci == (None, None)
    error = math.sqrt((5 - 3) ** 2 + (4 - 3) ** 2 + (3 - 1.5) ** 2)
    assert report.side.p_value == pytest.approx(2 * stats.t.sf((12 - 7.5) / error, 2))
    many = found(msgspec.structs.replace(facts(CIRCLE, 3), sides=msgspec.structs.replace(sides, raters=30)), 3)
    assert many.side is not None
    half = stats.t.ppf(0.975, 29) * math.sqrt((5 - 4.8) ** 2 + (4 - 4.8) ** 2 + (3 - 2.4) ** 2) / 15
    assert many.side.ci == pytest.approx((0.8 - half, 0.8 + half))


def test_nobody_voted() -> None:
    assert board(duel(2), None) is None and board_lines(None) == [] and board_section(None) == ""


def test_text_is_narrow_and_the_page_escapes() -> None:
    report = found(drawn([0.2, 0, -0.1, -0.1, -0.2, 0.2], raters=200, each=5), 6)
    lines = board_lines(report)
    assert max(map(len, lines)) <= 100 and "the 10 clearest of 15" in text(report)
    named = msgspec.structs.replace(report, standings=[msgspec.structs.replace(report.standings[0], arm="<b>")])
    assert "&lt;b&gt;" in board_section(named) and "<b>" not in board_section(named)
    assert msgspec.json.decode(msgspec.json.encode(report), type=BoardReport) == report


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 2), st.sampled_from([1, 1, 3, 400])), min_size=1, max_size=14)
)
def test_whatever_people_vote_there_is_a_board(votes: list[tuple[int, int, int, int]]) -> None:
    """Sparse, one-sided, contradictory, all ties: arms with a number are rated by votes that connect them, ranks are in range."""
    pairs = list(combinations(range(4), 2))
    report = found([(rater, *pairs[pair], outcome) for rater, pair, outcome, times in votes for _ in range(times)], 4)
    rated = [s for s in report.standings if s.elo is not None]
    assert len(report.standings) == 4 and len(rated) != 1 and all(s.why for s in report.standings if s.elo is None)
    assert sum(s.elo for s in rated) == pytest.approx(1000 * len(rated))
    assert all(1 <= s.ranks[0] <= s.rank <= s.ranks[1] <= len(rated) for s in rated)
    assert msgspec.json.decode(msgspec.json.encode(report), type=BoardReport) == report
