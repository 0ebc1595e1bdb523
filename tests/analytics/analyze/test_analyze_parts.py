"""Tables in chunks, in any order, by parts; and what `salon analyze` says beside its numbers."""

import json
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from analyze_cases import compared, run, run_json, units, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analytics.analyze.gram import Cells, Partition, accumulate
from analytics.analyze.statistics import AnalysisStatistics, break_down, compare, sample_ratio_of
from analytics.analyze.table import CHUNK
from analytics.inference import empirical_bernstein

ASK = ["--arm", "arm", "--control", "base"]


def test_many_chunks_and_row_groups_are_one_table(tmp_path, capsys):
    """Also where the file's row groups cut its chunks, where rows stand arm by arm, and at a mean of 1e9 with a deviation of 1."""
    rng = np.random.default_rng(2)
    n = 2 * CHUNK + 1234
    c = {
        "arm": np.sort(rng.choice(["base", "vivid", "zeal"], n)),
        "far": 1e9 + rng.normal(0, 1, n),
        "x": 1e9 + rng.normal(0, 1, n),
        "little": rng.integers(0, 2, n),
    }
    c["far"] += 0.7 * (c["x"] - 1e9)
    path = write(tmp_path / "t.parquet", c, row_group_size=50_000)
    report = run_json(capsys, path, *ASK, "--metric", "far:mean", "--covariate", "x", "--metric", "little", "--metric", "far:quantile:0.5")
    theta = np.cov(c["far"], c["x"])[0, 1] / c["x"].var(ddof=1)
    left = {arm: (c["far"] - 1e9)[c["arm"] == arm] - theta * (c["x"] - 1e9)[c["arm"] == arm] for arm in ("base", "vivid", "zeal")}
    for place, arm in enumerate(("vivid", "zeal")):
        # Against this control theta is of these two arms alone.
        two = np.isin(c["arm"], ["base", arm])
        theta = np.cov(c["far"][two], c["x"][two])[0, 1] / c["x"][two].var(ddof=1)
        left = [(c["far"] - 1e9)[c["arm"] == k] - theta * (c["x"] - 1e9)[c["arm"] == k] for k in ("base", arm)]
        theirs = stats.ttest_ind(left[1], left[0], equal_var=False)
        ours = compared(report, 0, place)
        assert ours["p_value"] == pytest.approx(theirs.pvalue, rel=1e-4)
        assert ours["difference"]["se"] == pytest.approx(abs((left[1].mean() - left[0].mean()) / theirs.statistic), rel=1e-5)
    assert report["rows"] == n and [arm["units"] for arm in report["arms"]] == [
        int((c["arm"] == a).sum()) for a in ("base", "vivid", "zeal")
    ]


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.tuples(st.integers(-1, 2), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=60),
    cuts=st.lists(st.integers(1, 59), max_size=4),
)
def test_one_pass_is_numpy_wherever_it_is_cut(values, cuts):
    codes = np.array([v[0] for v in values])
    columns = [np.array([v[1] for v in values]), np.array([v[2] for v in values])]
    ends = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    chunks = [(a, [column[a:b] for column in columns]) for a, b in pairwise(ends)]
    (cells,) = accumulate(chunks, [Partition(codes, 3)])
    for cell in range(3):
        here = np.array(columns)[:, codes == cell]
        assert cells.n[cell] == here.shape[1]
        if here.shape[1]:
            apart = here - here.mean(axis=1)[:, None]
            assert cells.mean[cell] == pytest.approx(here.mean(axis=1), rel=1e-12, abs=1e-6)
            assert cells.products[cell] == pytest.approx(apart @ apart.T, rel=1e-9, abs=1e-3)


def test_a_cell_is_the_same_in_one_part_or_two():
    whole, halves = Cells(1, 2), Cells(1, 2)
    values = np.random.default_rng(0).normal(5, 2, (2, 1000))
    whole.add(0, values.copy())
    halves.add(0, values[:, :10].copy())
    halves.add(0, values[:, 10:].copy())
    assert halves.products[0] == pytest.approx(whole.products[0], rel=1e-12) and halves.n[0] == 1000


@pytest.mark.parametrize(
    "extra",
    [
        ["--metric", "spent", "--metric", "liked", "--metric", "clicks:ratio:views", "--metric", "age:quantile:0.9"],
        ["--metric", "spent", "--covariate", "before", "--covariate", "age", "--stratify", "country"],
        ["--metric", "spent", "--covariate", "before", "--breakdown", "country", "--cap", "p95"],
    ],
)
def test_order_of_rows_changes_nothing(tmp_path, capsys, extra):
    c = units(800)
    order = np.random.default_rng(4).permutation(800)
    first = run_json(capsys, write(tmp_path / "t.parquet", c), *ASK, *extra)
    second = run_json(capsys, write(tmp_path / "u.parquet", {k: v[order] for k, v in c.items()}), *ASK, *extra)
    same = run_json(capsys, write(tmp_path / "t.csv", c), *ASK, *extra)
    for other in (second, same):
        assert _numbers(other["metrics"]) == pytest.approx(_numbers(first["metrics"]), rel=1e-8, abs=1e-12)
        assert _numbers(other["breakdowns"]) == pytest.approx(_numbers(first["breakdowns"]), rel=1e-8, abs=1e-12)


def _numbers(value: object) -> list[float]:
    """Every number in it, in order; None as -1."""
    if isinstance(value, dict):
        return [x for key in value for x in _numbers(value[key])]
    if isinstance(value, list):
        return [x for one in value for x in _numbers(one)]
    return [-1.0] if value is None else [float(value)] if isinstance(value, int | float) else []


def test_every_number_again_from_the_sufficient_statistics(tmp_path, capsys):
    """Bit for bit, from the JSON alone."""
    path = write(tmp_path / "t.parquet", units(900) | {"week": np.arange(900) // 450})
    metrics = ["--metric", "spent:mean", "--metric", "clicks:ratio:views", "--metric", "liked", "--metric", "age:quantile:0.5"]
    plain = [path, *ASK, *metrics, "--guardrail", "views=10%", "--sequential", "--weights", "base=0.5,vivid=0.5", "--looks", "4"]
    weights = ["--weights", "0:base=0.5,vivid=0.5", "--weights", "1:base=0.5,vivid=0.5"]
    for ask in (
        [*plain, "--covariate", "before", "--covariate", "age", "--breakdown", "country", "--bounds", "spent=0,500"],
        [*plain[:-4], *weights, "--period", "week", "--covariate", "before", "--breakdown", "country"],
        [*plain, "--stratify", "country", "--correction", "benjamini_hochberg", "--lift", "fieller"],
    ):
        report = run_json(capsys, *ask)
        statistics = msgspec.json.decode(json.dumps(report["sufficient_statistics"]), type=AnalysisStatistics)
        compared_again = compare(statistics)
        assert json.loads(msgspec.json.encode(compared_again)) == report["metrics"]
        assert json.loads(msgspec.json.encode(break_down(statistics, compared_again))) == report["breakdowns"]
        assert json.loads(msgspec.json.encode(sample_ratio_of(statistics))) == report["checks"]["srm"]


def test_a_breakdown_is_the_table_cut_by_hand(tmp_path, capsys):
    c = units(1500)
    whole = run_json(capsys, write(tmp_path / "t.parquet", c), *ASK, "--metric", "spent:mean", "--breakdown", "country")
    (breakdown,) = whole["breakdowns"]
    assert breakdown["dimension"] == "country" and sum(sum(s["units"].values()) for s in breakdown["slices"]) == 1500
    for one in breakdown["slices"]:
        here = c["country"] == one["value"]
        a, b = (c["spent"][here & (c["arm"] == arm)] for arm in ("base", "vivid"))
        assert one["comparisons"][0]["p_value"] == pytest.approx(stats.ttest_ind(b, a, equal_var=False).pvalue, rel=1e-7)
        assert one["comparisons"][0]["always_valid"] is None
    lifts = np.array([s["comparisons"][0]["relative"]["value"] for s in breakdown["slices"]])
    w = 1 / np.array([s["comparisons"][0]["relative"]["se"] for s in breakdown["slices"]]) ** 2
    q = float(np.sum(w * (lifts - np.sum(w * lifts) / w.sum()) ** 2))
    assert breakdown["heterogeneity"][0]["q"] == pytest.approx(q, rel=1e-9)
    assert breakdown["heterogeneity"][0]["p_value"] == pytest.approx(stats.chi2.sf(q, 2), rel=1e-9)


def test_a_unit_counts_by_its_first_row(tmp_path, capsys):
    columns = {"who": ["u", "v", "u", "w", "x"], "arm": ["base", "vivid", "base", "vivid", "base"], "y": [1, 2, 3, 4, 5]}
    path = write(tmp_path / "t.csv", columns | {"land": ["de", "de", "fr", "fr", "fr"]})
    report = run_json(capsys, path, *ASK, "--metric", "y:mean", "--unit", "who", "--breakdown", "land")
    assert report["checks"]["units_that_moved"] == {"land": 1}
    found = {one["value"]: one["units"] for one in report["breakdowns"][0]["slices"]}
    assert found == {"de": {"base": 1, "vivid": 1}, "fr": {"base": 1, "vivid": 1}}
    assert any("several 'land' count by the first row" in note for note in report["method_notes"])


def test_guardrails_and_bounds(tmp_path, capsys):
    rng = np.random.default_rng(6)
    n = 8000
    arm = rng.permutation(np.repeat(["base", "vivid"], n // 2))
    slower = 400 * (1 + 0.3 * (arm == "vivid")) * rng.gamma(20, 0.05, n)
    stars = np.round(np.clip(rng.normal(3, 1, n), 1, 5))
    path = write(tmp_path / "t.parquet", {"arm": arm, "ms": slower, "same": rng.gamma(9, 1, n), "stars": stars})
    ask = ["--metric", "stars:mean", "--guardrail", "ms=0.1", "--guardrail", "same=10%", "--lower", "ms", "--lower", "same"]
    report = run_json(capsys, path, *ASK, *ask, "--bounds", "1,5")
    assert [m["role"] for m in report["metrics"]] == ["primary", "guardrail", "guardrail"]
    assert [m["direction"] for m in report["metrics"]] == ["up", "down", "down"]
    assert [m["comparisons"][0]["ok"] for m in report["metrics"][1:]] == [False, True]
    low, high = compared(report)["guaranteed"]["difference_ci"]
    expected = empirical_bernstein.difference_bound(stars[arm == "base"], stars[arm == "vivid"], 1, 5, 0.05, 5000)
    assert (low, high) == pytest.approx(expected, rel=1e-9) and low < 0 < high
    code, text, _ = run(capsys, path, *ASK, *ask)
    assert code == 0 and "BROKEN" in text and "holds" in text


class Tags(HTMLParser):
    """Keeps what would load something, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "line", "rect", "circle", "path", "polyline", "polygon", "img"):
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")]
        self.loads += ["script"] if tag == "script" else []

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_escapes(tmp_path, capsys):
    c = units(1200)
    path = write(tmp_path / "a<b>.parquet", c | {"arm": np.where(c["arm"] == "base", "base", "<i>vivid")})
    ask = ["--metric", "spent:mean", "--metric", "liked", "--breakdown", "country", "--weights", "base=0.5,<i>vivid=0.5"]
    out = tmp_path / "page.html"
    code, shown, err = run(capsys, path, *ASK, *ask, "--bootstrap", "100", "--sequential", "--format", "html", "--out", str(out))
    assert code == 0 and not shown and str(out) in err
    page = out.read_text("utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.open and not tags.loads and "<i>" not in page
    for piece in ("&lt;i&gt;vivid", "By country", "at any look", "drawing units anew", "Welch", "sample ratio".capitalize()):
        assert piece in page


def test_the_terminal_is_a_hundred_wide_and_starts_with_the_answer(tmp_path, capsys):
    path = write(tmp_path / "t.parquet", units(3000))
    ask = ["--metric", "spent:mean", "--covariate", "before", "--breakdown", "country", "--metric", "liked", "--bootstrap", "100"]
    code, text, _ = run(capsys, path, *ASK, *ask)
    lines = text.splitlines()
    assert code == 0 and max(map(len, lines)) <= 100
    assert lines[2].startswith("  ▶ spent of 'vivid' is ") and "for one planned look" in text
    assert "By country" in text and "Cochran's Q" in text and "drawing units anew" in text
