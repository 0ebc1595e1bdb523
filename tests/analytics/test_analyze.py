"""`salon analyze`: on tables made here against statsmodels and scipy, on real logs of the Open Bandit Dataset, and its errors."""

import csv
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from analyze_cases import run, run_json, write
from report_cases import moments
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest

from analytics.analyze.metric_option import parse_cap, parse_metric

OPEN_BANDIT = Path(__file__).parents[3] / "shared" / "data" / "open-bandit"


@pytest.fixture
def table(tmp_path) -> tuple[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    n = 3000
    arm = rng.permutation(np.repeat(["base", "vivid"], n // 2))
    before = rng.gamma(2, 5, n)
    spent = before * 2 + rng.gamma(2, 3, n) + (arm == "vivid") * 1.0
    liked = (rng.random(n) < 0.1 + 0.05 * (arm == "vivid")).astype(int)
    columns = {"arm": arm, "spent": spent, "before": before, "liked": liked, "views": rng.integers(1, 9, n)}
    return write(tmp_path / "units.csv", columns), columns


def test_mean_proportion_ratio_quantile(capsys, table):
    path, c = table
    ask = [
        "--arm",
        "arm",
        "--control",
        "base",
        "--metric",
        "liked",
        "--metric",
        "spent",
        "--metric",
        "spent:ratio:views",
        "--metric",
        "spent:quantile:0.9",
    ]
    report = run_json(capsys, path, *ask)
    assert [m["kind"] for m in report["metrics"]] == ["proportion", "mean", "ratio", "quantile"]
    a, b = c["arm"] == "base", c["arm"] == "vivid"
    liked, spent, ratio, quantile = (m["comparisons"][0] for m in report["metrics"])
    _, p = proportions_ztest([c["liked"][b].sum(), c["liked"][a].sum()], [b.sum(), a.sum()])
    assert liked["p_value"] == pytest.approx(p, rel=1e-9)
    theirs = stats.ttest_ind(c["spent"][b], c["spent"][a], equal_var=False)
    assert spent["p_value"] == pytest.approx(theirs.pvalue, rel=1e-8)
    assert spent["df"] == pytest.approx(theirs.df, rel=1e-8)
    rows = moments(c["spent"][b], c["views"][b])
    assert ratio["difference"]["value"] == pytest.approx(
        rows.mean / rows.denominator_mean - c["spent"][a].sum() / c["views"][a].sum(), rel=1e-9
    )
    picked = [np.quantile(c["spent"][k], 0.9, method="inverted_cdf") for k in (a, b)]
    assert quantile["difference"]["value"] == pytest.approx(picked[1] - picked[0], rel=1e-9)
    assert spent["always_valid"] is None
    assert report["checks"]["srm"] is None


def test_covariate_is_regression(capsys, table):
    """One covariate: theta is the slope of statsmodels' regression over both arms as one sample."""
    path, c = table
    report = run_json(capsys, path, "--arm", "arm", "--control", "base", "--metric", "spent", "--covariate", "before")
    (comparison,) = report["metrics"][0]["comparisons"]
    theta = sm.OLS(c["spent"], sm.add_constant(c["before"])).fit().params[1]
    left = c["spent"] - theta * c["before"]
    theirs = stats.ttest_ind(left[c["arm"] == "vivid"], left[c["arm"] == "base"], equal_var=False)
    se = comparison["difference"]["se"]
    assert comparison["difference"]["value"] / se == pytest.approx(theirs.statistic, rel=1e-9)
    assert comparison["df"] == pytest.approx(theirs.df, rel=1e-9)
    assert comparison["variance_reduction"] > 0.8


def test_covariate_on_a_ratio_narrows_it(capsys, table):
    path, _ = table
    ask = ["--arm", "arm", "--control", "base", "--metric", "spent:ratio:views"]
    plain = run_json(capsys, path, *ask)["metrics"][0]["comparisons"][0]
    adjusted = run_json(capsys, path, *ask, "--covariate", "before")["metrics"][0]["comparisons"][0]
    assert adjusted["difference"]["se"] < plain["difference"]["se"]
    assert adjusted["method"].startswith("CUPED") and "ratio" in adjusted["method"]


def test_cap_by_value_and_percentile(capsys, table):
    path, c = table
    ask = ["--arm", "arm", "--control", "base", "--metric", "spent"]
    b = c["arm"] == "vivid"
    for option, cap in (("20", 20.0), ("p95", np.percentile(c["spent"], 95))):
        report = run_json(capsys, path, *ask, "--cap", option)
        arm = next(arm for arm in report["metrics"][0]["arms"] if arm["arm"] == "vivid")
        assert arm["mean"] == pytest.approx(np.minimum(c["spent"][b], cap).mean(), rel=1e-9)
        assert "capped at" in report["metrics"][0]["comparisons"][0]["method"]


def test_events_with_units(tmp_path, capsys):
    """Two rows of one unit are one unit; a unit in both arms is left out and said so."""
    columns = {"who": ["u1", "u1", "u2", "u3", "u4", "u5", "u5"], "arm": ["a", "a", "a", "b", "b", "a", "b"], "like": [1, 1, 0, 0, 1, 1, 1]}
    for suffix in (".csv", ".parquet"):
        path = write(tmp_path / f"events{suffix}", columns)
        ask = [path, "--arm", "arm", "--control", "a", "--unit", "who", "--metric", "like:mean", "--metric", "like:proportion"]
        report = run_json(capsys, *ask)
        assert report["checks"]["multiple_exposure"] == 1
        assert [arm["units"] for arm in report["arms"]] == [2, 2]
        assert [arm["mean"] for arm in report["metrics"][0]["arms"]] == [1.0, 0.5]
        assert [arm["mean"] for arm in report["metrics"][1]["arms"]] == [0.5, 0.5]


def test_sequential_weights_and_text(capsys, table):
    path, _ = table
    ask = [path, "--arm", "arm", "--control", "base", "--metric", "liked", "--sequential", "--weights", "base=0.5,vivid=0.5"]
    report = run_json(capsys, *ask)
    assert report["metrics"][0]["comparisons"][0]["always_valid"]["e_value"] > 0
    assert report["checks"]["srm"]["ok"] is True and report["checks"]["srm"]["p_value"] == 1.0
    code, text, _ = run(capsys, *ask)
    assert code == 0 and "at any look" in text and max(map(len, text.splitlines())) <= 100
    _, plain, _ = run(capsys, *ask[:7])
    assert "at any look" not in plain


def test_open_bandit_end_to_end(tmp_path, capsys):
    """Real clicks under two policies (Saito et al. 2020), recomputed here from the rows: 46 against 69 clicks."""
    if not OPEN_BANDIT.is_dir():
        pytest.skip(f"the Open Bandit sample is not at {OPEN_BANDIT}")
    columns: dict[str, list[object]] = {"policy": [], "click": []}
    for name in ("random", "bts"):
        with (OPEN_BANDIT / f"{name}_men.csv").open() as file:
            for row in csv.DictReader(file):
                columns["policy"].append(name)
                columns["click"].append(row["click"])
    path = write(tmp_path / "bandit.csv", columns)
    report = run_json(capsys, path, "--arm", "policy", "--control", "random", "--metric", "click", "--weights", "random=0.5,bts=0.5")
    clicks = {
        name: sum(int(c) for p, c in zip(columns["policy"], columns["click"], strict=True) if p == name) for name in ("random", "bts")
    }
    means = {arm["arm"]: arm["mean"] * arm["n"] for arm in report["metrics"][0]["arms"]}
    assert means == {"random": pytest.approx(clicks["random"]), "bts": pytest.approx(clicks["bts"])}
    _, p = proportions_ztest([clicks["bts"], clicks["random"]], [10_000, 10_000])
    assert report["metrics"][0]["comparisons"][0]["p_value"] == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize(
    "change,pieces",
    [
        ({"--metric": "likd"}, ["no column 'likd'", "'liked'"]),
        ({"--arm": "arn"}, ["no column 'arn'", "'arm'"]),
        ({"--control": "bse"}, ["no arm 'bse'", "'base'"]),
        ({"--metric": "spent:proportion"}, ["'spent' is no proportion", "spent:mean"]),
        ({"--metric": "spent:ratoi:views"}, ["'ratoi:views'"]),
        ({"--metric": "spent:quantile:90"}, ["quantile:0.95"]),
        ({"--weights": "base=0.7,vivid=0.7"}, ["sum to 1.4"]),
        ({"--weights": "base=0.5,vvid=0.5"}, ["'vivid'"]),
        ({"--weights": "base"}, ["'base' is not ARM=SHARE"]),
        ({"--cap": "p200"}, ["'p200'"]),
        ({"--alpha": "2"}, ["--alpha is 2.0"]),
        ({"--lower": "views"}, ["--lower 'views'"]),
    ],
)
def test_errors_name_what_is_wrong_and_what_to_do(capsys, table, change, pieces):
    options = {"--arm": "arm", "--control": "base", "--metric": "liked"} | change
    code, _, err = run(capsys, table[0], *(part for pair in options.items() for part in pair))
    assert code == 2
    for piece in pieces:
        assert piece in err


@pytest.mark.parametrize("values,row,shown", [([1, "x3", 2], 3, "'x3'"), ([1, 2, "nan"], 4, "empty"), (["inf", 2, 1], 2, "inf")])
def test_bad_values_are_found_by_row(tmp_path, capsys, values, row, shown):
    path = write(tmp_path / "bad.csv", {"arm": ["a", "b", "a"], "y": values})
    code, _, err = run(capsys, path, "--arm", "arm", "--control", "a", "--metric", "y")
    assert code == 2 and f"row {row} of column 'y'" in err and shown in err


def test_files_that_are_none(tmp_path, capsys):
    ask = ["--arm", "arm", "--control", "a", "--metric", "y"]
    assert run(capsys, str(tmp_path / "missing.csv"), *ask)[0] == 1
    junk = tmp_path / "junk.parquet"
    junk.write_bytes(b"not parquet at all")
    code, _, err = run(capsys, str(junk), *ask)
    assert code == 2 and "no readable Parquet" in err
    only = write(tmp_path / "one.csv", {"arm": ["a", "a"], "y": [1, 2]})
    code, _, err = run(capsys, only, *ask)
    assert code == 2 and "one arm only" in err


def test_option_parsing():
    assert parse_metric("x:ratio:y").name == "x/y"
    assert parse_metric("x:quantile:0.95").name == "x p95"
    assert parse_cap("p99").percentile == 99 and parse_cap("12.5").value == 12.5
