"""`salon analyze` against statsmodels, tea-tasting, scipy and formulas written out in numpy, through the command."""

import msgspec
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import tea_tasting as tt
from analyze_cases import compared, run_json, units, write
from report_cases import quantile
from scipy import stats
from statsmodels.stats.multitest import multipletests

ASK = ["--arm", "arm", "--control", "base"]


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return units()


@pytest.fixture(scope="module")
def path(columns, tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("golden") / "units.parquet", columns)


def sides(c: dict, *names: str) -> list[np.ndarray]:
    """The columns of the control, then those of the other arm."""
    return [np.column_stack([c[name] for name in names])[c["arm"] == arm].astype(float) for arm in ("base", "vivid")]


def test_several_covariates_are_lins_regression_with_hc2(capsys, path, columns):
    ask = [path, *ASK, "--metric", "spent:mean", "--covariate", "before", "--covariate", "age"]
    ours = compared(run_json(capsys, *ask))
    z = (columns["arm"] == "vivid").astype(float)
    x = np.column_stack([columns["before"], columns["age"]])
    x = x - x.mean(axis=0)
    fit = sm.OLS(columns["spent"], np.column_stack([np.ones(len(z)), z, x, x * z[:, None]])).fit(cov_type="HC2")
    assert ours["difference"]["value"] == pytest.approx(fit.params[1], rel=1e-9)
    assert ours["difference"]["se"] == pytest.approx(fit.bse[1], rel=1e-9)
    assert ours["p_value"] == pytest.approx(fit.pvalues[1], rel=1e-7) and ours["p_value"] > 1e-6
    assert ours["difference"]["ci"] == pytest.approx(list(fit.conf_int()[1]), rel=1e-7)
    assert "Lin" in ours["method"] and "HC2" in ours["method"]


def test_one_covariate_is_pooled_cuped(capsys, path, columns):
    """Notes 2.3 written out; the relative error keeps the covariance of the adjustment with the control's mean."""
    ours = compared(run_json(capsys, path, *ASK, "--metric", "spent:mean", "--covariate", "before"))
    theta = np.cov(columns["spent"], columns["before"])[0, 1] / columns["before"].var(ddof=1)
    a, b = sides(columns, "spent", "before")
    left_a, left_b = a[:, 0] - theta * a[:, 1], b[:, 0] - theta * b[:, 1]
    theirs = stats.ttest_ind(left_b, left_a, equal_var=False)
    d = left_b.mean() - left_a.mean()
    mean_a, mean_b = a[:, 0].mean(), b[:, 0].mean()
    s = np.cov(a.T)
    r = mean_b / mean_a
    relative = left_b.var(ddof=1) / (len(b) * mean_a**2)
    relative += (s[0, 0] * r**2 - 2 * theta * s[0, 1] * r + theta**2 * s[1, 1]) / (len(a) * mean_a**2)
    assert ours["difference"]["value"] == pytest.approx(d, rel=1e-9)
    assert ours["p_value"] == pytest.approx(theirs.pvalue, rel=1e-7) and ours["p_value"] > 1e-12
    assert ours["df"] == pytest.approx(theirs.df, rel=1e-9)
    assert ours["relative"]["value"] == pytest.approx(d / mean_a, rel=1e-9)
    assert ours["relative"]["se"] == pytest.approx(np.sqrt(relative), rel=1e-9)
    plain = stats.ttest_ind(b[:, 0], a[:, 0], equal_var=False)
    assert ours["variance_reduction"] == pytest.approx(1 - ours["difference"]["se"] ** 2 / ((mean_b - mean_a) / plain.statistic) ** 2)


def test_a_ratio_is_adjusted_by_its_own_past(capsys, path, columns):
    """Notes 2.3 for ratios, written out with the 4 x 4 covariances."""
    ask = [path, *ASK, "--metric", "clicks:ratio:views", "--covariate", "clicks/views=clicks_before/views_before"]
    ours = compared(run_json(capsys, *ask))
    arms = []
    for rows in sides(columns, "clicks", "views", "clicks_before", "views_before"):
        y, d, y0, d0 = rows.mean(axis=0)
        arms.append((len(rows), np.array([1 / d, -y / d**2]), np.array([1 / d0, -y0 / d0**2]), np.cov(rows.T), y / d, y0 / d0))
    theta = sum(h @ s[2:, :2] @ g for _, g, h, s, _, _ in arms) / sum(h @ s[2:, 2:] @ h for _, g, h, s, _, _ in arms)
    variances = [np.concatenate([g, -theta * h]) @ s @ np.concatenate([g, -theta * h]) / n for n, g, h, s, _, _ in arms]
    difference = (arms[1][4] - theta * arms[1][5]) - (arms[0][4] - theta * arms[0][5])
    n, g, h, s, ratio, _ = arms[0]
    star = np.concatenate([-(ratio + difference) / ratio**2 * g, theta * h / ratio])
    assert ours["difference"]["value"] == pytest.approx(difference, rel=1e-9)
    assert ours["difference"]["se"] == pytest.approx(np.sqrt(sum(variances)), rel=1e-9)
    assert ours["relative"]["se"] == pytest.approx(np.sqrt(variances[1] / ratio**2 + star @ s @ star / n), rel=1e-9)
    assert ours["variance_reduction"] > 0.1


def test_a_mean_per_event_is_clustered_by_unit(tmp_path, capsys):
    """statsmodels' CR0 of the rows' mean, up to its missing n/(n - 1); and never the error of independent rows."""
    rng = np.random.default_rng(5)
    count = rng.integers(1, 12, 400)
    unit = np.repeat(np.arange(400), count)
    arm = np.where(unit % 2 == 0, "base", "vivid")
    seconds = rng.gamma(3, 1, 400)[unit] + rng.gamma(2, 0.5, len(unit)) + (arm == "vivid") * 0.2
    order = rng.permutation(len(unit))
    path = write(tmp_path / "events.parquet", {"unit": unit[order], "arm": arm[order], "seconds": seconds[order]})
    ours = compared(run_json(capsys, path, *ASK, "--unit", "unit", "--metric", "seconds:mean:event"))
    value, variance = {}, 0.0
    for name in ("base", "vivid"):
        here = arm == name
        fit = sm.OLS(seconds[here], np.ones(here.sum())).fit(cov_type="cluster", cov_kwds={"groups": unit[here], "use_correction": False})
        value[name] = fit.params[0]
        variance += fit.bse[0] ** 2 * 200 / 199
    assert ours["difference"]["value"] == pytest.approx(value["vivid"] - value["base"], rel=1e-9)
    assert ours["difference"]["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    independent = np.sqrt(sum(seconds[arm == name].var(ddof=1) / (arm == name).sum() for name in value))
    assert ours["difference"]["se"] > 1.5 * independent


def test_post_stratified_as_written_in_the_notes(capsys, path, columns):
    ours = compared(run_json(capsys, path, *ASK, "--metric", "spent:mean", "--stratify", "country"))
    total = len(columns["arm"])
    means, spread, within = np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2))
    for value in ("de", "fr", "us"):
        a, b = (columns["spent"][(columns["country"] == value) & (columns["arm"] == arm)] for arm in ("base", "vivid"))
        w = (len(a) + len(b)) / total
        p, q = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
        here = np.array([a.mean(), b.mean() - a.mean()])
        means += w * here
        spread += w * np.outer(here, here)
        within += w**2 * np.array([[p, -p], [-p, p + q]])
    covariance = within + (spread - np.outer(means, means)) / total
    gradient = np.array([-means[1] / means[0] ** 2, 1 / means[0]])
    assert ours["difference"]["value"] == pytest.approx(means[1], rel=1e-9)
    assert ours["difference"]["se"] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-9)
    assert ours["relative"]["value"] == pytest.approx(means[1] / means[0], rel=1e-9)
    assert ours["relative"]["se"] == pytest.approx(np.sqrt(gradient @ covariance @ gradient), rel=1e-9)


def test_a_ramp_with_a_trend_is_no_effect(tmp_path, capsys):
    """Week 2 gives arm b more units and everybody more of the metric: pooled that is an effect, within the periods it is none."""
    rng = np.random.default_rng(8)
    week = np.repeat(["1", "2"], 4000)
    arm = np.where(rng.random(8000) < np.where(week == "1", 0.1, 0.5), "vivid", "base")
    spent = rng.normal(10, 2, 8000) + (week == "2") * 5
    path = write(tmp_path / "ramp.csv", {"week": week, "arm": arm, "spent": spent})
    ask = [path, *ASK, "--metric", "spent:mean"]
    pooled = compared(run_json(capsys, *ask))
    weights = ["--weights", "1:base=0.9,vivid=0.1", "--weights", "2:base=0.5,vivid=0.5"]
    report = run_json(capsys, *ask, "--period", "week", *weights)
    apart = compared(report)
    assert pooled["p_value"] < 1e-50 and apart["p_value"] > 0.01
    expected = np.mean([spent[(week == w) & (arm == "vivid")].mean() - spent[(week == w) & (arm == "base")].mean() for w in "12"])
    assert apart["difference"]["value"] == pytest.approx(expected, rel=1e-9)
    assert report["checks"]["srm"]["ok"] and report["checks"]["srm"]["p_value"] > 0.001
    assert [arm["weight"] for arm in report["arms"]] == [0.5, 0.5]


def test_tea_tasting_says_the_same(capsys, path, columns):
    """Where definitions agree: Welch's difference, the delta method, CUPED's estimate of the difference."""
    data = pd.DataFrame(columns)
    data["variant"] = (data["arm"] == "vivid").astype(int)
    theirs = tt.Experiment(
        {
            "mean": tt.Mean("spent", use_t=True, equal_var=False),
            "ratio": tt.RatioOfMeans("clicks", "views", use_t=True, equal_var=False),
            "cuped": tt.Mean("spent", "before", use_t=True, equal_var=False),
        }
    ).analyze(data)
    report = run_json(capsys, path, *ASK, "--metric", "spent:mean", "--metric", "clicks:ratio:views")
    mean, ratio = compared(report), compared(report, 1)
    for ours, name in ((mean, "mean"), (ratio, "ratio")):
        assert ours["difference"]["value"] == pytest.approx(theirs[name].effect_size, rel=1e-9)
        assert ours["p_value"] == pytest.approx(theirs[name].pvalue, rel=1e-6)
        low, high = theirs[name].effect_size_ci_lower, theirs[name].effect_size_ci_upper
        assert ours["difference"]["ci"] == pytest.approx([low, high], rel=1e-7)
    adjusted = compared(run_json(capsys, path, *ASK, "--metric", "spent:mean", "--covariate", "before"))
    assert adjusted["difference"]["value"] == pytest.approx(theirs["cuped"].effect_size, rel=1e-9)


def test_lifts_as_written_in_the_notes(capsys, path, columns):
    (a,), (b,) = (rows.T for rows in sides(columns, "spent"))
    p, q = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    df = (p + q) ** 2 / (p**2 / (len(a) - 1) + q**2 / (len(b) - 1))
    t, r = stats.t.ppf(0.975, df), b.mean() / a.mean()
    delta = t * np.sqrt(q / a.mean() ** 2 + b.mean() ** 2 * p / a.mean() ** 4)
    g = t**2 * p / a.mean() ** 2
    half = t / a.mean() * np.sqrt(q + r**2 * p - g * q) / (1 - g)
    parts = p / a.mean() ** 2, q / b.mean() ** 2
    log_df = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    spread = stats.t.ppf(0.975, log_df) * np.sqrt(sum(parts))
    expected = {
        "delta": [r - 1 - delta, r - 1 + delta],
        "fieller": [r / (1 - g) - half - 1, r / (1 - g) + half - 1],
        "log_delta": [r * np.exp(-spread) - 1, r * np.exp(spread) - 1],
    }
    for lift, interval in expected.items():
        ours = compared(run_json(capsys, path, *ASK, "--metric", "spent:mean", "--lift", lift))
        assert ours["relative"]["ci"] == pytest.approx(interval, rel=1e-9), lift
        assert ours["relative"]["value"] == pytest.approx(r - 1, rel=1e-9)


@pytest.mark.parametrize("correction,theirs", [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_corrections(capsys, path, correction, theirs):
    metrics = ["age", "spent:mean", "liked", "views", "clicks", "before"]
    ask = [part for metric in metrics for part in ("--metric", metric)]
    report = run_json(capsys, path, *ASK, *ask, "--correction", correction)
    family = [metric["comparisons"][0] for metric in report["metrics"][1:]]
    expected = multipletests([one["p_value"] for one in family], method=theirs)[1]
    assert [one["adjusted_p_value"] for one in family] == pytest.approx(list(expected), rel=1e-9)
    for one in family:
        low, high = one["difference"]["ci"]
        assert (low > 0 or high < 0) == (one["adjusted_p_value"] < 0.05)
    alone = run_json(capsys, path, *ASK, *ask, "--correction", "none")["metrics"][1:]
    assert [m["comparisons"][0]["adjusted_p_value"] for m in alone] == [one["p_value"] for one in family]


def test_bootstrap_agrees_with_the_delta_method(capsys, path):
    report = run_json(capsys, path, *ASK, "--metric", "spent:mean", "--metric", "clicks:ratio:views", "--bootstrap", "1000")
    assert [(one["metric"], one["draws"]) for one in report["bootstrap"]] == [("spent", 1000), ("clicks/views", 1000)]
    for one, metric in zip(report["bootstrap"], report["metrics"], strict=True):
        low, high = metric["comparisons"][0]["relative"]["ci"]
        assert one["relative_ci"] == pytest.approx([low, high], abs=0.12 * (high - low))
    again = run_json(capsys, path, *ASK, "--metric", "spent:mean", "--metric", "clicks:ratio:views", "--bootstrap", "1000")
    assert again["bootstrap"] == report["bootstrap"]


def test_a_quantile_of_events_is_clustered_by_unit(tmp_path, capsys):
    """The facts against those of the reports' tests, and the error as written in the notes (2.2)."""
    rng = np.random.default_rng(9)
    unit = np.repeat(np.arange(600), rng.integers(1, 9, 600))
    arm = np.where(unit % 3 == 0, "base", "vivid")
    ms = rng.gamma(4, 100, 600)[unit] * rng.lognormal(0, 0.3, len(unit))
    path = write(tmp_path / "t.parquet", {"who": [f"u{k}" for k in unit], "arm": arm, "ms": ms})
    report = run_json(capsys, path, *ASK, "--unit", "who", "--metric", "ms:quantile:0.9", "--lower", "ms")
    variance = 0.0
    z = stats.norm.ppf(0.975)
    for name in ("base", "vivid"):
        here = arm == name
        expected = quantile(ms[here], unit[here], 0.9)
        found = report["sufficient_statistics"]["metrics"][0]["facts"][name]
        assert found == pytest.approx({"type": "quantile"} | msgspec.structs.asdict(expected))
        _, index = np.unique(unit[here], return_inverse=True)
        below, count = np.bincount(index, weights=ms[here] <= expected.value), np.bincount(index).astype(float)
        s, n, k = np.cov(below, count), here.sum(), len(count)
        share = below.mean() / count.mean()
        clustered = (s[0, 0] - 2 * share * s[0, 1] + share**2 * s[1, 1]) / (k * count.mean() ** 2)
        sd = (expected.high - expected.low) / (2 * z)
        variance += (n - 1) * sd**2 * clustered / (0.9 * 0.1 / n) / n
    assert compared(report)["difference"]["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
