"""Broken input to `salon analyze`: each is answered clearly, never by a traceback, never by a verdict."""

import numpy as np
import pytest
from analyze_cases import compared, run, run_json, units, write
from scipy import stats

ASK = ["--arm", "arm", "--control", "a", "--metric", "y"]


@pytest.mark.parametrize(
    "arm,y",
    [
        (["a"] * 5 + ["b"], [1.0, 2, 3, 4, 5, 9]),  # one unit in an arm
        (["a", "b"], [1.5, 2.5]),  # one unit in every arm
        (["a"] * 4 + ["b"] * 4, [7.5] * 8),  # constant
        (["a"] * 4 + ["b"] * 4, [0.0, -0.0] * 4),  # all zeros, as a mean
    ],
)
@pytest.mark.parametrize(
    "extra", [[], ["--sequential", "--lift", "fieller"], ["--covariate", "x"], ["--covariate", "x", "--covariate", "z"]]
)
def test_what_cannot_be_told_is_null_and_says_why(tmp_path, capsys, arm, y, extra):
    path = write(tmp_path / "t.csv", {"arm": arm, "y": y, "x": range(len(y)), "z": [3.5] * len(y)})
    extra = ["--metric", "y:mean", *extra]
    one = compared(run_json(capsys, path, *ASK[:4], *extra))
    assert one["p_value"] is None and one["bayes"] is None and one["always_valid"] is None
    assert one["difference"]["ci"] == [None, None] and one["relative"]["ci"] == [None, None]
    assert one["method"].startswith("no inference")
    code, text, _ = run(capsys, path, *ASK[:4], *extra)
    assert code == 0 and "no inference" in text


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("extra", [[], ["--sequential"], ["--covariate", "x"]])
def test_a_share_of_none_or_all_is_no_difference(tmp_path, capsys, value, extra):
    path = write(tmp_path / "t.csv", {"arm": ["a", "b"] * 40, "y": [value] * 80, "x": range(80)})
    one = compared(run_json(capsys, path, *ASK, *extra))
    assert one["p_value"] in (None, 1.0) and one["difference"]["value"] == 0
    low, high = one["difference"]["ci"]
    assert low is None or low <= 0 <= high
    assert one["always_valid"] is None or one["always_valid"]["p_value"] == 1.0


@pytest.mark.parametrize("shift", [0.0, -25.0])
def test_zero_and_negative_baselines(tmp_path, capsys, shift):
    rng = np.random.default_rng(1)
    y = rng.normal(0, 1, 400)
    arm = np.repeat(["a", "b"], 200)
    y[:200] -= y[:200].mean()
    y = y + shift + (arm == "b") * 0.5
    path = write(tmp_path / "t.parquet", {"arm": arm, "y": y})
    one = compared(run_json(capsys, path, *ASK, "--lift", "log_delta"))
    assert one["difference"]["value"] > 0.2
    theirs = stats.ttest_ind(y[200:], y[:200], equal_var=False)
    assert one["p_value"] == pytest.approx(theirs.pvalue, rel=1e-6)
    if shift:
        assert one["relative"]["value"] == pytest.approx(one["difference"]["value"] / 25, rel=1e-9)
        low, high = one["relative"]["ci"]
        assert low < one["relative"]["value"] < high
    else:
        assert one["relative"]["ci"] == [None, None]


def test_an_arm_with_a_weight_and_no_rows(tmp_path, capsys):
    path = write(tmp_path / "t.csv", {"arm": ["a", "b"] * 50, "y": range(100)})
    report = run_json(capsys, path, *ASK, "--weights", "a=0.4,b=0.4,c=0.2")
    assert {arm["arm"]: arm["units"] for arm in report["arms"]} == {"a": 50, "b": 50, "c": 0}
    assert report["checks"]["srm"]["p_value"] == pytest.approx(stats.chisquare([50, 50, 0], [40, 40, 20]).pvalue)
    empty = compared(report, 0, 1)
    assert empty["arm"] == "c" and empty["p_value"] is None and "no inference" in empty["method"]


def test_a_broken_split_is_said(tmp_path, capsys):
    path = write(tmp_path / "t.csv", {"arm": ["a"] * 700 + ["b"] * 300, "y": list(range(10)) * 100})
    report = run_json(capsys, path, *ASK, "--weights", "a=0.5,b=0.5")
    assert report["checks"]["srm"]["ok"] is False
    assert report["checks"]["srm"]["p_value"] == pytest.approx(stats.chisquare([700, 300]).pvalue, rel=1e-6)
    assert "SAMPLE RATIO MISMATCH" in run(capsys, path, *ASK, "--weights", "a=0.5,b=0.5")[1]


def test_units_twice(tmp_path, capsys):
    """Two rows of a unit are summed and counted; without --unit they are two units; ids are read as written."""
    columns = {"arm": ["a", "a", "a", "b", "b", "b"], "who": ["07", "07", "7", "x", "y", "y"], "y": [1, 2, 3, 4, 5, 7]}
    for name in ("t.csv", "t.parquet"):
        path = write(tmp_path / name, columns)
        report = run_json(capsys, path, *ASK[:4], "--metric", "y:mean", "--unit", "who")
        assert [arm["units"] for arm in report["arms"]] == [2, 2]
        assert [arm["mean"] for arm in report["metrics"][0]["arms"]] == [3.0, 8.0]
        assert report["checks"]["units_with_several_rows"] == 2
        assert any("2 units have several" in note for note in report["method_notes"])


def test_every_unit_in_several_arms(tmp_path, capsys):
    path = write(tmp_path / "t.csv", {"arm": ["a", "b"] * 3, "who": ["u", "u", "v", "v", "w", "w"], "y": range(6)})
    report = run_json(capsys, path, *ASK, "--metric", "y:quantile:0.5", "--unit", "who")
    assert report["checks"]["multiple_exposure"] == 3 and [arm["units"] for arm in report["arms"]] == [0, 0]
    for metric in report["metrics"]:
        assert metric["comparisons"][0]["p_value"] is None and "no inference" in metric["comparisons"][0]["method"]


def test_missing_values_are_refused_or_zero(tmp_path, capsys):
    path = write(tmp_path / "t.csv", {"arm": ["a", "a", "b", "b"] * 5, "y": [1.5, "", 2, 3] * 5})
    code, _, err = run(capsys, path, *ASK)
    assert code == 2 and "row 3 of column 'y' is empty" in err and "--empty zero" in err
    report = run_json(capsys, path, *ASK, "--empty", "zero")
    assert [arm["mean"] for arm in report["metrics"][0]["arms"]] == [0.75, 2.5]
    assert any("missing value of a metric counts as 0" in note for note in report["method_notes"])


def test_missing_covariates_are_their_mean(tmp_path, capsys):
    c = units(600)
    holes = np.arange(600) % 7 == 0
    filled = np.where(holes, c["before"][~holes].mean(), c["before"])
    ask = ["--arm", "arm", "--control", "base", "--metric", "spent:mean", "--covariate", "before"]
    with_holes = run_json(capsys, write(tmp_path / "h.parquet", c | {"before": np.where(holes, np.nan, c["before"])}), *ASK[:0], *ask)
    without = run_json(capsys, write(tmp_path / "f.parquet", c | {"before": filled}), *ask)
    assert compared(with_holes)["p_value"] == pytest.approx(compared(without)["p_value"], rel=1e-9)
    assert any(f"{holes.sum()} units without a value of 'before'" in note for note in with_holes["method_notes"])
    nothing = run_json(capsys, write(tmp_path / "n.parquet", c | {"before": np.full(600, np.nan)}), *ask)
    plain = run_json(capsys, write(tmp_path / "p.parquet", c), *ask[:-2])
    for key in ("value", "se", "ci"):
        assert compared(nothing)["difference"][key] == pytest.approx(compared(plain)["difference"][key])


@pytest.mark.parametrize(
    "columns,extra,pieces",
    [
        ({"arm": ["a", "", "b"], "y": [1, 2, 3]}, [], ["row 3 of column 'arm' is empty"]),
        ({"arm": ["a", "b", "b"], "y": ["", "", ""]}, [], ["row 2 of column 'y' is empty"]),
        ({"arm": ["a", "b", "b"], "y": [1, 2, 1e200]}, [], ["row 4 of column 'y' is 1e+200", "smaller unit"]),
        ({"arm": ["a", "b", "b"], "y": [1, -np.inf, 2]}, [], ["row 3 of column 'y' is -inf"]),
        ({"arm": ["a", "b"], "y": ["2026-01-01", "2026-01-02"]}, [], ["column 'y'", "not numbers"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--metric", "y"], ["'y' is given 2 times"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--metric", "arm"], ["'arm' is the column of --arm"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--metric", "y:mean:event"], ["--unit"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--guardrail", "y"], ["--guardrail 'y' has no margin", "0.05"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--guardrail", "y:quantile=0.1"], ["--guardrail 'y:quantile' has no level"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--bounds", "5,1"], ["--bounds '5,1'"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--bounds", "z=0,1"], ["--bounds: 'z'"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--covariate", "yy=y"], ["--covariate: 'yy'"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--covariate", "befor"], ["no column 'befor'"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--covariate", "y=y/y"], ["'y' is no ratio"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--looks", "1"], ["--looks is 1"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--bootstrap", "10"], ["--bootstrap is 10"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--period", "arm", "--weights", "a=0.5,b=0.5"], ["names no period"]),
        ({"arm": ["a", "b"], "y": [1, 2]}, ["--weights", "a=0.5,b=0.5", "--weights", "a=0.5,b=0.5"], ["given twice"]),
        ({"arm": ["a", "b"], "y": [3, 2]}, ["--bounds", "0,1"], ["--bounds 0,1"]),
    ],
)
def test_errors_name_the_value_and_the_fix(tmp_path, capsys, columns, extra, pieces):
    code, out, err = run(capsys, write(tmp_path / "t.csv", columns), *ASK, *extra)
    assert code == 2 and not out
    for piece in pieces:
        assert piece in err


def test_files_without_rows_or_with_a_column_twice(tmp_path, capsys):
    for text, piece in (("arm,y\n", "has no rows"), ("", "no readable CSV"), ("arm,y,y\na,1,2\nb,3,4\n", "2 columns named 'y'")):
        (tmp_path / "t.csv").write_text(text)
        code, _, err = run(capsys, str(tmp_path / "t.csv"), *ASK)
        assert code == 2 and piece in err


def test_columns_of_the_wrong_type_or_separator(tmp_path, capsys):
    lists = write(tmp_path / "t.parquet", {"arm": [[1], [2]] * 5, "y": np.arange(10.0), "when": np.arange(10).astype("datetime64[us]")})
    code, _, err = run(capsys, lists, *ASK)
    assert code == 2 and "column 'arm' holds list" in err and "give a column of texts" in err
    code, _, err = run(capsys, lists, "--arm", "y", "--control", "0", "--metric", "when")
    assert code == 2 and "column 'when' holds timestamp[us], not numbers" in err
    (tmp_path / "s.csv").write_text("arm;y\na;1\nb;2\n")
    code, _, err = run(capsys, str(tmp_path / "s.csv"), *ASK)
    assert code == 2 and "are its columns separated by commas?" in err


def test_huge_values_stay_readable(tmp_path, capsys):
    y = np.random.default_rng(0).normal(size=200) * 1e149
    code, text, _ = run(capsys, write(tmp_path / "t.parquet", {"arm": ["a", "b"] * 100, "y": y}), *ASK, "--sequential")
    assert code == 0 and max(map(len, text.splitlines())) <= 100 and "not told apart" in " ".join(text.split())


def test_names_that_look_like_nothing_are_names(tmp_path, capsys):
    path = write(tmp_path / "t.parquet", {"arm": ["None", "nan"] * 20, "y": np.arange(40.0)})
    report = run_json(capsys, path, "--arm", "arm", "--control", "None", "--metric", "y")
    assert [arm["arm"] for arm in report["arms"]] == ["None", "nan"]
    numbered = write(tmp_path / "n.parquet", {"arm": [0, 1] * 20, "y": np.arange(40.0)})
    report = run_json(capsys, numbered, "--arm", "arm", "--control", "0", "--metric", "y")
    assert [arm["arm"] for arm in report["arms"]] == ["0", "1"]
