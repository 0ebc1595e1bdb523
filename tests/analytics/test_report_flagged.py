"""A report with and without flagged events: what is said when they agree, and what when they do not."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_cases import METRICS, NOW, START, experiment, facts, proportion, quantile

from analytics.checks import sample_ratio
from analytics.decision import established
from analytics.facts import WeightPeriod, WithFlagged
from analytics.report.build import build_report
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text

HALVES = {"base": 0.5, "vivid": 0.5}
UNITS = {"base": 2000, "vivid": 2000}


def stretch(base: int, vivid: int) -> list[WeightPeriod]:
    return [WeightPeriod(started_at=START, weights=HALVES, units={"base": base, "vivid": vivid})]


def flagged_report(without, with_, *, units=(2000, 2000), clean=(1990, 1990), flags=None, **changes) -> Report:
    """Likers of (base, vivid) of 2,000 each, without and with flagged events."""
    primary = {arm: proportion(x, 2000) for arm, x in zip(UNITS, with_, strict=True)}
    known = {
        "flagged_events": 30,
        "flags": flags or {"rate": 20, "token_mismatch": 10},
        "with_flagged": WithFlagged(periods=stretch(*units), clean_periods=stretch(*clean), primary=primary),
    }
    rows = {"like_rate": {arm: proportion(x, 2000) for arm, x in zip(UNITS, without, strict=True)}}
    return build_report("x", experiment(), METRICS, facts(rows, UNITS, **(known | changes)), NOW)


def test_where_both_tell_the_same() -> None:
    report = flagged_report((240, 400), (245, 410))
    flagged = report.checks.flagged
    assert flagged.ok and flagged.warnings == [] and (flagged.events, flagged.by_flag) == (30, {"rate": 20, "token_mismatch": 10})
    assert flagged.srm_with == report.checks.srm
    assert flagged.primary_with.comparisons[0].difference.value == pytest.approx(0.0825)
    text = to_text(report)
    assert "30 flagged events left out (rate 20, token mismatch 10)" in text and "✓ with flagged" in text
    assert "tell the same with them (vivid +67.3%)" in text


@pytest.mark.parametrize(
    ("without", "with_", "said"),
    [
        ((240, 250), (240, 400), "'vivid' is not told apart without them and is better with them"),
        ((240, 400), (240, 250), "'vivid' is better without them and is not told apart with them"),
        ((240, 400), (400, 240), "'vivid' is better without them and is worse with them"),
    ],
)
def test_where_the_answer_hangs_on_flagged_events(without, with_, said) -> None:
    report, plain = flagged_report(without, with_), flagged_report(without, without)
    assert not report.checks.flagged.ok and plain.checks.flagged.ok
    (warning,) = report.checks.flagged.warnings
    assert said in warning and report.decision.risks[0] == warning
    assert (report.decision.action, report.decision.reason) == (plain.decision.action, plain.decision.reason)
    shown = " ".join(to_text(report).split())
    assert shown.count(said) == 1 and "✗ with flagged the report would say something else with them" in shown
    assert "Flagged events change the answer" in to_html(report) and "With flagged</b><span>the report would" in to_html(report)


def test_where_the_sample_ratio_hangs_on_flagged_events() -> None:
    broken = flagged_report((240, 250), (240, 250), units=(2000, 2600))
    assert "broken only with the flagged events" in broken.checks.flagged.warnings[0] and broken.checks.srm.ok
    assert broken.decision.action == "keep_running"
    hit = flagged_report((240, 250), (240, 250), clean=(1990, 1500))
    (warning,) = hit.checks.flagged.warnings
    assert "base 1,990 of 1,745 / vivid 1,500 of 1,745 expected" in warning
    mended = flagged_report((240, 250), (240, 250), clean=(2000, 2000), periods=stretch(2600, 2000))
    assert len(mended.checks.flagged.warnings) == 2 and mended.decision.action == "invalid"


def test_without_a_flagged_event_there_is_nothing_to_compare() -> None:
    report = flagged_report((240, 400), (240, 400), flagged_events=0, flags={}, with_flagged=None)
    flagged = report.checks.flagged
    assert flagged.ok and flagged.srm_with is None and flagged.primary_with is None and "with flagged" not in to_text(report)
    assert not any("flagged" in note for note in report.method_notes)


def test_a_report_that_counts_them_says_so() -> None:
    report = flagged_report((240, 400), (0, 0), flagged_counted=True, with_flagged=None, events_read=300)
    assert report.flagged == "included" and report.checks.flagged.counted and report.checks.bots.counted
    assert report.method_notes[0].startswith("Flagged events are counted in this report (30 events)")
    assert "30 flagged events counted" in to_text(report) and "left out" not in " ".join(report.decision.risks)
    assert "flagged events are counted" in to_text(report) and "flagged events are counted" in to_html(report)


def test_data_as_of_and_late_events_are_shown() -> None:
    report = flagged_report((240, 400), (240, 400), late_events=3)
    tree = msgspec.json.decode(msgspec.json.encode(report))
    assert (tree["data_as_of"], tree["late_events"], tree["flagged"]) == ("2026-11-22T08:00:00Z", 3, "excluded")
    line = "40,000 events, the latest received 2026-11-22 08:00 UTC, 3 of them late"
    assert line in to_text(report) and line in to_html(report)
    assert any(note.startswith("3 events came over 72 hours after they occurred") for note in report.method_notes)


def test_a_quantile_as_the_primary_metric() -> None:
    import numpy as np

    rng = np.random.default_rng(3)
    rows = {arm: quantile(rng.gamma(8, scale, 4000), np.repeat(np.arange(2000), 2), 0.95) for arm, scale in (("base", 50), ("vivid", 80))}
    with_flagged = WithFlagged(periods=stretch(2000, 2000), clean_periods=stretch(2000, 2000), primary={"base": rows["base"]})
    known = facts({"latency_p95_ms": rows}, UNITS, flagged_events=1, flags={"rate": 1}, with_flagged=with_flagged)
    report = build_report("x", experiment(primary="latency_p95_ms"), METRICS, known, NOW)
    assert report.checks.flagged.primary_with.comparisons[0].method == "no inference: no data" and not report.checks.flagged.ok


@settings(max_examples=60, deadline=None)
@given(*[st.integers(0, 2000)] * 4, st.tuples(st.integers(0, 3000), st.integers(0, 3000)))
def test_warnings_are_exactly_the_disagreements_and_every_number_re_derives(a, b, c, d, clean) -> None:
    report = flagged_report((a, b), (c, d), clean=clean)
    flagged = report.checks.flagged
    left, right = (established(m.comparisons[0], "up") for m in (report.metrics[0], flagged.primary_with))
    split = sample_ratio(stretch(*clean), list(UNITS)).ok != report.checks.srm.ok
    assert len(flagged.warnings) == (left != right) + split and flagged.ok == (not flagged.warnings)
    given_ = msgspec.json.decode(msgspec.json.encode(report), type=Report).sufficient_statistics
    again = build_report("x", given_.experiment, given_.metrics, given_.facts, NOW)
    assert msgspec.json.encode(again) == msgspec.json.encode(report)
