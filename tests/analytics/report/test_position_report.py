"""The position model in a report: what it says, what it leaves out, its checks and risks, and that it is rebuilt bit for bit."""

import msgspec
import numpy as np
import pytest
from position_cases import THETA, by_arm, drawn, place_facts
from report_cases import METRICS, NOW, experiment, facts, proportion

from analytics.checks.position import position
from analytics.facts_of_designs import PlaceFacts, SeedOrder
from analytics.report.build import build_report, rebuild
from analytics.report.check_lines import check_lines
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text

PLACED = np.array([[0.85, 0.5, 0.15, 0.5], [0.15, 0.5, 0.85, 0.5]])
ARMS = ["base", "vivid"]


def report_of(places: PlaceFacts | None, **changes: object) -> Report:
    given = facts({"like_rate": {arm: proportion(200, 1000) for arm in ARMS}}, dict.fromkeys(ARMS, 1000), places=places)
    return build_report("x", experiment(**changes), METRICS, given, NOW)


def shuffles(skew: int) -> list[SeedOrder]:
    counts = np.full((4, 4), 1000)
    counts[0, 0] += skew
    counts[0, 1] -= skew
    counts[1, 1] += skew
    counts[1, 0] -= skew
    return [SeedOrder(grid=4, counts=counts.tolist())]


def test_cells_and_arms_with_and_without_the_correction_stand_side_by_side() -> None:
    grids = drawn(5, 3000, np.outer([0.2, 0.25], [1.0, 0.6, 0.3, 0.6]), placed=PLACED)
    report = report_of(place_facts(grids, 2))
    assert report.position is not None
    (grid,) = report.position.grids
    counts = by_arm(grids, 2)
    assert [cell.shown for cell in grid.cells] == counts.shown.sum(axis=0).tolist()
    for cell, truth in zip(grid.cells[1:], [0.6, 0.3, 0.6], strict=True):
        low, high = cell.examination.ci
        assert low is not None and high is not None and low - 0.03 < truth < high + 0.03
        assert cell.examination.value == pytest.approx(np.sqrt(low * high))
    base, vivid = grid.arms
    assert base.raw_lift is None and base.corrected_lift is None
    assert vivid.raw_lift is not None and vivid.corrected_lift is not None
    assert vivid.raw_lift.value == pytest.approx(vivid.raw.value / base.raw.value - 1)
    assert vivid.raw_lift.value < -0.1 < 0.1 < vivid.corrected_lift.value, "raw reverses the arms"
    assert vivid.corrected_lift.ci[0] is not None and vivid.corrected_lift.ci[0] > 0
    assert rebuild(report) == report
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    text, page = to_text(report), to_html(report)
    assert "Position: what a picture gets by its cell (like)" in text and "corrected lift" in text
    assert "<h2>Position</h2>" in page and "docs/statistics/position.md" in page
    assert max(len(line) for line in text.splitlines()) <= 100
    assert report.formulas["Position: cells, arms, trust"] == "docs/statistics/position.md"


def test_arms_put_into_cells_by_somebody_are_a_risk() -> None:
    report = report_of(place_facts(drawn(5, 3000, np.outer([0.2, 0.25], THETA), placed=PLACED), 2))
    assert report.checks.position is not None and not report.checks.position.ok
    (risk,) = [risk for risk in report.decision.risks if "Chance alone does not put arms" in risk]
    assert "of 'base' stand in cell 0, not 25.0%" in risk or "of 'vivid' stand in cell 2, not 25.0%" in risk
    assert any(name == "position" and not ok for name, ok, _ in _lines(report))


def test_cells_looked_at_otherwise_than_before_are_a_risk() -> None:
    first, second = drawn(1, 1500, np.outer([0.2, 0.2], THETA)), drawn(2, 1500, np.outer([0.2, 0.2], THETA[[0, 2, 1, 3]]))
    later = second._replace(unit=second.unit + 1500)
    both = type(first)(*(np.concatenate(pair) for pair in zip(first, later, strict=True)))
    report = report_of(place_facts(both, 2))
    (risk,) = [risk for risk in report.decision.risks if "not looked at as before" in risk]
    assert "of cell 0 in the first half" in risk and ("cell 1 7" in risk or "cell 2 5" in risk or "cell 2 4" in risk)


def test_a_shuffle_that_is_none_is_a_risk_and_a_fair_one_is_not() -> None:
    fair, broken = (position(place_facts(drawn(1, 300, np.outer([0.2, 0.2], THETA)), 2, orders=shuffles(s)), ARMS) for s in (8, 300))
    assert fair is not None and fair.ok and fair.order is not None and fair.order > 0.01
    assert fair.drift is not None and fair.balance is not None
    assert broken is not None and not broken.ok and "the gateway's shuffle is broken" in broken.problems[0]


def test_a_bandit_shows_cells_and_no_rates_of_arms() -> None:
    places = place_facts(drawn(3, 500, np.outer([0.2, 0.3], THETA)), 2)
    report = report_of(places, design="bandit")
    assert report.position is not None
    (grid,) = report.position.grids
    assert len(grid.cells) == 4 and grid.arms == [] and any("no estimates of a bandit" in sentence for sentence in grid.said)


def test_too_little_and_one_arm_are_told_in_words() -> None:
    few = report_of(place_facts(drawn(3, 10, np.outer([0.2, 0.3], THETA)), 2)).position
    assert few is not None and few.grids[0].cells == [] and few.grids[0].said == ["No model yet: 10 units so far; at least 30 are needed."]
    alone = report_of(place_facts(drawn(3, 300, np.outer([0.2], THETA)), 2)).position
    assert alone is not None and alone.grids[0].trust is None and [arm.arm for arm in alone.grids[0].arms] == ["base"]
    assert "only one arm has events here" in alone.grids[0].said[0]
    same = report_of(place_facts(drawn(3, 300, np.outer([0.2, 0.2], THETA)), 2)).position
    assert same is not None and "attract too much alike" in same.grids[0].said[0]


def test_trust_is_told_where_cells_give_events_away() -> None:
    chance = np.outer([0.1, 0.3], [1.0, 0.6, 0.5, 0.8]) + np.array([0.0, 0.06, 0.02, 0.05])
    found = report_of(place_facts(drawn(7, 6000, chance, spread=0.3), 2)).position
    assert found is not None and found.grids[0].trust is not None
    trust = found.grids[0].trust
    assert trust.p_value < 1e-4 and trust.df == 3 and len(trust.cells) == 4
    assert trust.likelihood_ratio is not None and trust.likelihood_ratio > 20
    assert [cell.floor for cell in trust.cells] == pytest.approx([0.0, 0.06, 0.02, 0.05], abs=0.03)


def test_without_grids_there_is_no_part_of_it() -> None:
    report = report_of(None)
    assert report.position is None and report.checks.position is None
    assert "Position" not in to_text(report) and "<h2>Position</h2>" not in to_html(report)


def _lines(report: Report) -> list[tuple[str, bool, str]]:
    return list(check_lines(report))
