"""The report's JSON shape, its text and its page."""

import re
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, NOW, experiment, facts, guardrails, moments, proportion, quantile

from analytics.facts import GalleryPicture
from analytics.report.build import build_report
from analytics.report.page import to_html
from analytics.report.schema import Report
from analytics.report.text import to_text
from analytics.report.words import chance, percent


def latencies(seed: int):
    return quantile(np.random.default_rng(seed).gamma(8, 50, 4000), np.repeat(np.arange(2000), 2), 0.95)


@pytest.fixture
def report() -> Report:
    rows = {
        "like_rate": {"base": proportion(240, 2000), "vivid": proportion(400, 2000)},
        "likes": {"base": moments([0, 1] * 1000), "vivid": moments([0, 1.2] * 1000)},
        "latency_p95_ms": {"base": latencies(1), "vivid": latencies(2)},
        "failure_rate": {"base": moments([0] * 1990 + [1] * 10, [2] * 2000), "vivid": moments([0] * 1985 + [1] * 15, [2] * 2000)},
    }
    latency = {"base": moments([400.0, 420.0] * 1000), "vivid": moments([401.0, 423.0] * 1000)}
    given = experiment(secondary=("likes",), guardrails=guardrails())
    return build_report("vivid-colours", given, METRICS, facts(rows, {"base": 2000, "vivid": 2000}, latency=latency, flagged_events=7), NOW)


def test_json_shape_of_the_contract(report):
    tree = msgspec.json.decode(msgspec.json.encode(report))
    top = "experiment route design as_of started_at data_as_of events_read late_events flagged"
    views = ["breakdowns", "path", "novelty", "formulas", "adaptive", "preference", "board", "switchback", "position"]
    assert list(tree) == [*top.split(), "method_notes", "arms", "checks", "metrics", "decision", *views, "sufficient_statistics"]
    assert {"arm", "control", "variant", "weight", "units", "generations", "images", "failures", "latency_ms"} <= set(tree["arms"][0])
    assert set(tree["arms"][0]["latency_ms"]) == {"p50", "p95"}
    assert {"srm", "exposure", "latency_gap", "bots", "flagged"} <= set(tree["checks"])
    assert {"p_value", "e_value", "ok"} <= set(tree["checks"]["srm"]) and {"ms", "ci", "ok"} <= set(tree["checks"]["latency_gap"])
    roles = [(m["metric"], m["role"], m["kind"]) for m in tree["metrics"]]
    assert roles == [
        ("like_rate", "primary", "proportion"),
        ("likes", "secondary", "mean"),
        ("latency_p95_ms", "guardrail", "quantile"),
        ("failure_rate", "guardrail", "ratio"),
    ]
    for metric in tree["metrics"]:
        assert set(metric["arms"][0]) == {"arm", "n", "mean", "sd"}
        (comparison,) = metric["comparisons"]
        wanted = "arm vs difference relative p_value adjusted_p_value always_valid bayes df variance_reduction method ok"
        assert set(wanted.split()) <= set(comparison)
        for part in ("difference", "relative"):
            assert set(comparison[part]) == {"value", "se", "ci"} and len(comparison[part]["ci"]) == 2
        assert {"relative_ci", "p_value", "e_value"} <= set(comparison["always_valid"])
        assert {"prob_better", "expected_loss_ship", "expected_loss_keep", "relative_ci"} <= set(comparison["bayes"])
    assert {"action", "arm", "reason", "risks"} <= set(tree["decision"])


def test_every_number_re_derives_bit_for_bit(report):
    stored = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    given = stored.sufficient_statistics
    again = build_report(stored.experiment, given.experiment, given.metrics, given.facts, stored.as_of)
    assert msgspec.json.encode(again) == msgspec.json.encode(report)


def test_values_against_arithmetic(report):
    like = report.metrics[0].comparisons[0]
    assert like.difference.value == pytest.approx(0.08)
    assert like.relative.value == pytest.approx(0.08 / 0.12)
    assert report.metrics[3].arms[1].mean == pytest.approx(15 / 4000)


def test_text_is_narrow_and_begins_with_the_decision(report):
    lines = to_text(report).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("SHIP vivid" in line for line in lines[:5])
    text = "\n".join(lines)
    for piece in ("+66.7%", "sample ratio", "latency gap", "7 events flagged", "open", "failure_rate"):
        assert piece in text


def test_text_of_long_names_and_of_nothing():
    name = "a-very-long-arm-name-" * 3
    given = experiment(arms={"base": 0.5, name[:60]: 0.5})
    empty = build_report("x", given, METRICS, facts({}, {"base": 0, name[:60]: 0}, started_at=None, periods=[]), NOW)
    lines = to_text(empty).splitlines()
    assert max(map(len, lines)) <= 100
    assert "no unit has been exposed yet" in lines[1]
    assert "KEEP RUNNING" in to_text(empty) and "nan" not in to_text(empty).lower()


class Page(HTMLParser):
    """Collects tags, and fails on anything left open."""

    VOID = frozenset({"meta", "img", "br", "line", "circle", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    assert page.open == []
    return page


def test_page_needs_nothing_from_outside(report):
    gallery = [GalleryPicture(prompt=p, seed=1, arm=arm, png=b"\x89PNG") for p in ("a red heart", "pizza") for arm in ("base", "vivid")]
    html = to_html(report, gallery)
    page = parsed(html)
    tags = {tag for tag, _ in page.seen}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "url(" not in html and "@import" not in html and "http" not in html
    sources = [attributes["src"] or "" for tag, attributes in page.seen if tag == "img"]
    assert len(sources) == 4 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "prefers-color-scheme" in html and "@media print" in html and [tag for tag, _ in page.seen].count("svg") > 3


def test_page_escapes_what_people_wrote(report):
    evil = "<script>alert('x')</script>&"
    html = to_html(msgspec.structs.replace(report, experiment=evil), [GalleryPicture(prompt=evil, seed=3, arm="base", png=b"x")])
    assert "<script" not in html and html.count("&lt;script&gt;") >= 3
    parsed(html)


def test_plots_stay_inside_their_frame(report):
    frames = re.findall(r'<svg width="100%" height="(\d+)"(.*?)</svg>', to_html(report), re.S)
    assert len(frames) > 6
    for height, body in frames:
        for value in re.findall(r'\b(?:x[12]?|cx|width)="([-\d.]+)%"', body):
            assert 0 <= float(value) <= 100
        for value in re.findall(r'\b(?:y[12]?|cy)="([-\d.]+)"', body):
            assert 0 <= float(value) <= int(height)


def test_page_of_an_empty_experiment():
    empty = build_report("x", experiment(), METRICS, facts({}, {"base": 0, "vivid": 0}, started_at=None, periods=[]), NOW)
    assert not re.search(r"\bnan\b", parsed_text(to_html(empty)))


def parsed_text(html: str) -> str:
    parsed(html)
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.S).lower()


def test_words():
    assert percent(0.1234) == "12.3%" and percent(0.00123) == "0.12%" and percent(0.0) == "0.0%"
    assert chance(0.99999) == ">99.9%" and chance(0.00001) == "<0.1%" and chance(0.5) == "50.0%"
