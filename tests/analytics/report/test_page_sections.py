"""The page and the text of a report with everything in it: course, breakdowns, novelty, SQL, formula pages."""

import re
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, NOW, experiment, facts, guardrails, moments, proportion, quantile

from analytics.facts import Age, Cohort, Slice
from analytics.report import courses
from analytics.report.build import build_report
from analytics.report.formulas import ALL, formulas, of_comparison, page_text
from analytics.report.markdown import to_html as markdown
from analytics.report.merging import merged_arms
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.svg import Axis, axis_of
from analytics.report.text import plain_verdict, to_text

ROOT = Path(__file__).parents[3]
ARMS = {"base": 0.12, "vivid": 0.2, "<soft>": 0.12}


def latencies(seed: int):
    return quantile(np.random.default_rng(seed).gamma(8, 50, 2000), np.repeat(np.arange(1000), 2), 0.95)


@pytest.fixture(scope="module")
def report() -> Report:
    def primary(n: int) -> dict[str, object]:
        return {arm: proportion(round(rate * n), n) for arm, rate in ARMS.items()}

    days = [
        Cohort(day=date(2026, 11, 1) + timedelta(days=i), units=[dict.fromkeys(ARMS, 100 + i)], primary=primary(100 + i)) for i in range(12)
    ]
    whole = merged_arms(c.primary for c in days)
    sliced = [Slice(value=v, units=[dict.fromkeys(ARMS, 300)], primary=primary(300)) for v in ("phone", "<b>tv</b>")]
    sliced[1].primary["<soft>"] = proportion(120, 300)
    rows = {
        "like_rate": whole,
        "likes": {arm: moments([0.0, 1.0 + i] * 600) for i, arm in enumerate(ARMS)},
        "latency_p95_ms": {arm: latencies(i) for i, arm in enumerate(ARMS)},
        "failure_rate": {arm: moments([0] * 1190 + [1] * 10, [2] * 1200) for arm in ARMS},
    }
    given = experiment(arms=dict.fromkeys(ARMS, 1 / 3), secondary=("likes",), guardrails=guardrails(), breakdowns=("device",))
    made = facts(
        rows,
        {arm: whole[arm].n for arm in ARMS},
        cohorts=days,
        breakdowns={"device": sliced},
        ages=[Age(day=i, primary=primary(900 - 50 * i)) for i in range(5)],
        sql={"like_rate": "SELECT arm, count() FROM unit_states WHERE y < 1"},
        caps={"likes": 12.0},
    )
    return build_report("vivid-colours", given, METRICS, made, NOW)


def words(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).split())


def test_the_page_has_every_part_in_order(report):
    html = to_html(report)
    parts = [
        "Ship", plain_verdict(report), "Lift against the control", "Day by day", "Breakdowns", "By day since exposure", "Arms", "Numbers",
        "Checks", "How to read this", "Methods", "SQL of the metrics",
    ]  # fmt: skip
    places = [words(html).index(part) for part in parts]
    assert places == sorted(places)
    assert "SELECT arm, count() FROM unit_states WHERE y &lt; 1" in html
    assert "<soft>" not in html and "<b>tv</b>" not in html and "&lt;soft&gt;" in html


def test_nothing_is_fetched_or_run(report):
    html = to_html(report)
    assert "<script" not in html and "<link" not in html and "url(" not in html and "@import" not in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert not re.search(r"\bnan\b", words(html).lower())


def test_links_of_methods_lead_to_their_formulas(report):
    html = to_html(report)
    targets = set(re.findall(r'href="#([^"]+)"', html))
    assert {"means", "proportions", "ratios", "quantiles", "lifts"} <= targets
    assert targets <= set(re.findall(r'<details id="([^"]+)"', html))
    folded = re.search(r'<details id="means">(.*?)</details>', html, re.S)
    assert folded and "docs/statistics/means.md" in folded[1] and "Welch" in folded[1] and "<pre>" in folded[1]


def test_every_comparison_that_was_tested_has_a_formula(report):
    tested = [c for m in report.metrics for c in m.comparisons if c.p_value is not None]
    assert len(tested) == 8 and all(of_comparison(c) for c in tested)
    pages = [f.page for f in formulas(report)]
    assert list(report.formulas.values()) == [f"docs/statistics/{page}.md" for page in pages]
    assert len(pages) == len(set(pages))
    assert {"caps", "families", "sequences", "bayes", "guardrails", "sample-ratio", "checks", "breakdowns", "course"} <= set(pages)


@pytest.mark.parametrize("formula", ALL, ids=lambda f: f.page)
def test_every_formula_page_is_there(formula):
    text = page_text(formula)
    assert text and (ROOT / formula.path).read_text() == text
    assert text.startswith("# ") and "```" in text, "a formula page has a title and a formula"
    assert f"({formula.page}.md)" in (ROOT / "docs/statistics/README.md").read_text(), "the index names every page"


def test_every_method_that_code_can_name_has_a_page():
    """The words of comparisons live in code: whatever stands there must lead somewhere."""
    from analytics.report.contrasts import METHODS

    for method in METHODS.values():
        said = method.lower()
        assert any(word in said for formula in ALL for word in formula.words), method


def test_text_has_course_breakdowns_and_novelty(report):
    text = to_text(report)
    assert max(map(len, text.splitlines())) <= 100
    for piece in (
        plain_verdict(report),
        "Day by day",
        "By device",
        "Cochran's Q",
        "By day since exposure",
        "docs/statistics/means.md",
        "<b>tv</b>",
    ):
        assert piece in text
    assert "Nov 1" not in text and "2026-11-12" in text


def test_markdown_of_formula_pages():
    page = (
        "# A <b>\n\nSee [means](means.md), `a < b` and **this**\nline.\n\n```\nx < y\n\nz\n```\n\n"
        "- one\n  more\n- two\n\n|a|b|\n|-|-|\n|1|2|"
    )
    html = markdown(page)
    assert html.splitlines()[0] == "<h3>A &lt;b&gt;</h3>"
    assert "<p>See means, <code>a &lt; b</code> and <b>this</b> line.</p>" in html
    assert "<pre>x &lt; y\n\nz</pre>" in html and "<li>one more</li><li>two</li>" in html
    assert "<th>a</th><th>b</th>" in html and "<td>1</td><td>2</td>" in html and "---" not in html


def test_an_axis_holds_zero_and_stays_within_bounds():
    axis = axis_of([0.1, 9.0, float("inf")], widest=3.0)
    assert (axis.low, axis.high) == (0.0, 3.0) and axis.at(99.0) == axis.at(3.0) == pytest.approx(0.97) and axis.at(0.0) == 0.03
    assert axis_of([]).low < 0 < axis_of([0.0]).high
    assert Axis(-0.2, 0.3).ticks(5) == pytest.approx([-0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    assert axis_of([1e-300]).low < axis_of([1e-300]).high and axis_of([1e300]).ticks()


def test_courses_of_one_day_and_of_nothing_known(report):
    point = report.path[0]
    unknown = msgspec.structs.replace(point, lift={"vivid": None}, always_valid_ci={"vivid": (None, None)})
    assert "No lift" in courses.lift([unknown], "vivid")
    lone = courses.lift([point], "vivid")
    assert lone.count("<circle") == 1 and "polygon" not in lone
    assert "1e6" in courses.ratio([msgspec.structs.replace(point, srm_e_value=1e6)])
    assert courses.units([point]).count("<circle") == 3
