"""The report in a notebook: `analytics.report(...)`, what it shows, and its data frames."""

import html
import subprocess
import sys
from datetime import date, timedelta

import msgspec
import pandas as pd
import pytest
from report_cases import METRICS, NOW, experiment, facts, guardrails, moments, proportion

import analytics
from analytics.event_log import open_log
from analytics.events import Event, new_id, utc_now
from analytics.facts import Age, Cohort, Slice
from analytics.report.build import build_report
from analytics.report.notebook import AnalystReport

CONFIG = """
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.vivid-colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
"""


@pytest.fixture(scope="module")
def shown() -> AnalystReport:
    primary = {"base": proportion(240, 2000), "vivid": proportion(400, 2000)}
    made = facts(
        {"like_rate": primary, "likes": {"base": moments([1.0] * 9), "vivid": moments([1.0] * 9)}},
        {"base": 2000, "vivid": 2000},
        cohorts=[Cohort(day=date(2026, 11, 20), units=[{"base": 2000, "vivid": 2000}], primary=primary)],
        breakdowns={"device": [Slice(value=v, units=[{"base": 1000, "vivid": 1000}], primary=primary) for v in ("phone", "tv")]},
        ages=[Age(day=i, primary=primary) for i in range(3)],
    )
    return AnalystReport(build_report("vivid-colours", experiment(secondary=("likes",), guardrails=guardrails()), METRICS, made, NOW))


def test_views_hold_the_numbers_of_the_report(shown):
    frame = shown.to_frame()
    assert isinstance(frame, pd.DataFrame) and list(frame["metric"]) == ["like_rate", "likes", "latency_p95_ms", "failure_rate"]
    row, comparison = frame.iloc[0], shown.report.metrics[0].comparisons[0]
    assert (row["lift"], row["lift_low"], row["lift_high"]) == (comparison.relative.value, *comparison.relative.ci)
    assert (row["any_look_lift_low"], row["any_look_p_value"]) == (comparison.always_valid.relative_ci[0], comparison.always_valid.p_value)
    assert (row["n"], row["mean_vs"]) == (2000, 0.12) and frame["lift"].dtype == float
    assert pd.isna(frame.iloc[1]["p_value"]) and "no inference" in frame.iloc[1]["method"]
    slices, path, novelty = (shown.to_frame(view) for view in ("breakdowns", "path", "novelty"))
    assert list(slices["value"]) == ["phone", "tv"] and slices["adjusted_p_value"][0] == comparison.p_value * 2
    assert list(path["arm"]) == ["base", "vivid"] and path["units"].sum() == 4000
    assert list(novelty["day"]) == [0, 1, 2]


def test_an_unknown_view_and_an_empty_one(shown):
    with pytest.raises(ValueError, match=r"view = 'slices' is none; take one of 'comparisons', 'breakdowns'"):
        shown.to_frame("slices")
    bare = AnalystReport(build_report("x", experiment(), METRICS, facts({}, {"base": 0, "vivid": 0}, periods=[]), NOW))
    assert len(bare.to_frame("path")) == 0 and len(bare.to_frame()) == 1


def test_without_pandas_and_polars_it_says_so(shown, monkeypatch):
    monkeypatch.setattr("analytics.report.notebook.FRAMES", ("no_such_frames",))
    with pytest.raises(ImportError, match=r"needs pandas or polars.*\.rows\(\)"):
        shown.to_frame()


def test_polars_where_it_is_the_one_at_hand(shown, monkeypatch):
    monkeypatch.setattr("analytics.report.notebook.FRAMES", ("polars",))
    frame = shown.to_frame()
    assert frame["lift"][0] == shown.report.metrics[0].comparisons[0].relative.value and frame.height == 4


def test_what_a_notebook_shows(shown):
    page = shown._repr_html_()
    assert page.startswith("<iframe srcdoc=") and html.unescape(page).count("<!doctype html>") == 1
    assert "<script" not in page and page.count('"') == 4
    assert shown._repr_markdown_().startswith("```text\nvivid-colours") and str(shown) == shown.to_text()
    assert repr(shown) == "<AnalystReport vivid-colours: SHIP vivid, as of 2026-11-22 08:00 UTC>"


def test_json_there_and_back(shown):
    again = AnalystReport.from_json(shown.to_json())
    assert msgspec.json.encode(again.report) == msgspec.json.encode(shown.report) and again.to_html() == shown.to_html()
    with pytest.raises(msgspec.ValidationError):
        AnalystReport.from_json("{}")


def test_read_from_log_and_warehouse(tmp_path):
    """From what waits in a local log; also as it stood at a time without a zone, which is UTC."""
    (tmp_path / "salon.toml").write_text(
        CONFIG + f'[events]\nlog = "local:{tmp_path}/events"\n[warehouse]\nurl = "chdb://{tmp_path}/warehouse"\n'
    )
    log, start = open_log(f"local:{tmp_path}/events"), utc_now() - timedelta(hours=5)
    common = {"route": "hero", "experiment": "vivid-colours", "propensity": 0.5, "occurred_at": start, "received_at": start}
    log.submit(
        [
            Event(event_id=new_id(), kind=kind, arm=arm, unit=f"{arm}-{i}", **common)
            for arm, likes in (("base", 10), ("vivid", 25))
            for i in range(60)
            for kind in ("exposure", *(("like",) if i < likes else ()))
        ]
    ).result()
    log.close()
    read = analytics.report("vivid-colours", tmp_path / "salon.toml")
    assert [arm.units for arm in read.report.arms] == [60, 60]
    assert read.to_frame()["mean"][0] == pytest.approx(25 / 60)
    early = start - timedelta(hours=1)
    then = analytics.report("vivid-colours", str(tmp_path / "salon.toml"), early.replace(tzinfo=None))
    assert then.report.as_of == early and sum(arm.units for arm in then.report.arms) == 0
    with pytest.raises(ValueError, match="no experiment 'vivid-color'"):
        analytics.report("vivid-color", tmp_path / "salon.toml")
    with pytest.raises(ValueError, match="is no ISO 8601 time"):
        analytics.report("vivid-colours", tmp_path / "salon.toml", "yesterday")


def test_importing_analytics_stays_light():
    code = (
        "import sys, analytics; assert not [m for m in sys.modules if m.startswith(('numpy', 'scipy', 'msgspec', 'analytics.'))]; "
        "assert callable(analytics.report); import analytics.report.build; assert callable(analytics.report); "
        "assert 'analytics.warehouse.client' not in sys.modules\n"
        "try:\n    analytics.nothing\nexcept AttributeError as e:\n    assert 'nothing' in str(e)\nelse:\n    raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
