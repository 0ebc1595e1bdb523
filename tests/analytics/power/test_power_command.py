"""`salon power` from numbers and files: answers by hand, what cannot be planned, and the page that explains it."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from analytics.power.arrivals import MOST_DAYS, fit, steady
from analytics.power.numbers import parse_effect, parse_number, parse_shares
from salon.cli import main

PAGE = Path(__file__).parents[3] / "docs" / "power.md"
Z, ZP = norm.ppf(0.975), norm.ppf(0.8)


def salon(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["power", *argv])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def plan(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    code, out, err = salon(capsys, *argv, "--format", "json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(f"JSON holds {name}"))
    return found


def test_sample_size_of_a_proportion(capsys: pytest.CaptureFixture[str]) -> None:
    """Pooled: 57,763 per arm, as the calculators of this test have it."""
    found = plan(capsys, "--baseline", "10%", "--mde", "5%")
    fixed, planned, best = found["designs"]
    assert fixed["units_per_arm"] == {"control": 57763, "arm 1": 57763} and fixed["units"] == 115526
    assert (fixed["design"], planned["design"], planned["planned_units"]) == ("fixed", "always_valid", 5000)
    assert found["effect"] == {"absolute": pytest.approx(0.005), "relative": pytest.approx(0.05)}
    assert fixed["mde"] == found["effect"] and fixed["days"] is None and fixed["power"] == pytest.approx(0.8, abs=1e-4)
    # Any look costs units; planned for it costs fewer, and a real effect stops it early.
    assert fixed["units"] < best["units"] < planned["units"]
    assert best["planned_units"] == pytest.approx(best["units"], abs=2)
    assert best["expected_units"] < 0.7 * best["units"] and best["power_over_looks"] > best["power"]
    same = plan(capsys, "--baseline", "0.1", "--mde", "0.5pp")
    assert [design["units"] for design in same["designs"]] == [design["units"] for design in found["designs"]]


def test_effect_and_power_for_given_units(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--baseline", "12.5", "--sd", "30", "--units", "40000")["designs"][0]
    se = math.sqrt(2 * 900 / 20_000)
    assert found["mde"]["absolute"] == pytest.approx((Z + ZP) * se) and found["power"] is None
    fall = plan(capsys, "--baseline", "12.5", "--sd", "30", "--units", "40000", "--lower")["designs"][0]
    assert fall["mde"]["absolute"] == pytest.approx(-(Z + ZP) * se)
    assert plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "-5%")["effect"]["absolute"] == pytest.approx(-0.625)
    both = plan(capsys, "--baseline", "12.5", "--sd", "30", "--units", "40000", "--mde", "0.5")["designs"][0]
    assert both["power"] == pytest.approx(norm.cdf(0.5 / se - Z) + norm.cdf(-0.5 / se - Z))
    assert both["mde"] == found["mde"]


def test_covariates_arms_and_weights(capsys: pytest.CaptureFixture[str]) -> None:
    plain = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1")["designs"][0]["units"]
    half = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--variance-reduction", "50%")
    assert half["designs"][0]["units"] == pytest.approx(plain / 2, abs=2) and half["variance_reduction"] == pytest.approx(0.5)
    correlated = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--correlation", "0.7")
    assert correlated["variance_reduction"] == pytest.approx(0.49)
    three = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--arms", "3")
    each = 2 * 900 * (norm.ppf(1 - 0.0125) + ZP) ** 2
    assert three["alpha_per_comparison"] == 0.025
    assert three["designs"][0]["units_per_arm"] == dict.fromkeys(("control", "arm 1", "arm 2"), math.ceil(each))
    skewed = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--weights", "new=0.1,base=0.9", "--control", "base")
    total = 900 * (1 / 0.9 + 1 / 0.1) * (Z + ZP) ** 2
    assert skewed["designs"][0]["units_per_arm"] == {"new": math.ceil(total * 0.1), "base": math.ceil(total * 0.9)}
    shared = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--comparisons", "10")
    assert shared["alpha_per_comparison"] == 0.005
    alone = plan(capsys, "--baseline", "12.5", "--sd", "30", "--mde", "1", "--comparisons", "10", "--correction", "none")
    assert alone["designs"][0]["units"] == plain


def test_a_margin(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--baseline", "900", "--sd", "400", "--margin", "2%", "--lower")
    n = 400**2 * (1 + 1.02**2) * (norm.ppf(0.95) + ZP) ** 2 / 18**2
    assert found["designs"][0]["units_per_arm"]["control"] == math.ceil(n)
    again = plan(capsys, "--baseline", "900", "--sd", "400", "--margin", "2%", "--lower", "--units", str(2 * math.ceil(n)))
    assert again["designs"][0]["power"] == pytest.approx(0.8, abs=1e-4)
    assert again["designs"][0]["mde"]["relative"] == pytest.approx(0.02, rel=1e-3)
    # Truly 1 % worse: half of the margin is left, so four times the units and a little.
    worse = plan(capsys, "--baseline", "900", "--sd", "400", "--margin", "2%", "--lower", "--mde", "1%")
    assert worse["designs"][0]["units_per_arm"]["control"] == pytest.approx(4 * n, rel=1e-3)
    beyond = plan(capsys, "--baseline", "900", "--sd", "400", "--margin", "2%", "--lower", "--mde", "3%")
    assert beyond["designs"][0]["units"] is None


def test_planned_looks(capsys: pytest.CaptureFixture[str]) -> None:
    design = plan(capsys, "--baseline", "10%", "--mde", "5%", "--looks", "5")["designs"][-1]
    assert design["design"] == "group_sequential" and design["looks"] == len(design["bounds"]) == 5
    assert sorted(design["bounds"], reverse=True) == design["bounds"]
    assert 115526 < design["units"] < 1.1 * 115526 and design["power"] == pytest.approx(0.8, abs=1e-4)
    assert design["expected_units"] < design["units"]


def test_days(capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, "--baseline", "10%", "--mde", "5%", "--units-per-day", "3000", "--window-days", "3")
    assert found["designs"][0]["days"] == pytest.approx(115526 / 3000 + 3, rel=1e-4)
    assert found["by_day"][-1]["units"] == 3000 * (56 - 3)
    half = plan(capsys, "--baseline", "10%", "--mde", "5%", "--units-per-day", "3000", "--traffic", "50%")
    assert half["designs"][0]["days"] == pytest.approx(2 * 115526 / 3000, rel=1e-4)
    by_then = plan(capsys, "--baseline", "10%", "--days", "14", "--units-per-day", "3000")["designs"][0]
    same = plan(capsys, "--baseline", "10%", "--units", "42000")["designs"][0]
    assert by_then["units"] == same["units"] == 42000 and by_then["mde"] == same["mde"]
    # Everybody has been seen: it never ends.
    never = plan(capsys, "--baseline", "10%", "--mde", "5%", "--units-per-day", "900,300,100,33,11,4,1,0,0,0")
    assert never["designs"][0]["days"] is None and never["designs"][0]["extrapolated"]


def test_arrivals() -> None:
    closed = fit([1000 * math.exp(-0.2 * d) for d in range(20)])
    assert closed.units(20) == pytest.approx(sum(1000 * math.exp(-0.2 * d) for d in range(20)))
    assert closed.units(40) == pytest.approx(sum(1000 * math.exp(-0.2 * d) for d in range(40)), rel=0.01)
    mixed = [200 + 800 * math.exp(-0.3 * d) for d in range(60)]
    assert fit(mixed[:25]).units(60) == pytest.approx(sum(mixed), rel=0.02)
    assert fit([50.0] * 10).units(100) == pytest.approx(5000)
    linear = steady(100)
    assert linear.days(1234) == pytest.approx(12.34) and linear.days(100 * MOST_DAYS * 2) is None
    assert linear.scaled(0.5).units(10) == pytest.approx(500)
    assert fit([10, 20]).units(0.5) == 5
    for arrivals in (closed, linear, fit([3, 0, 0, 0, 5])):
        seen = [arrivals.units(d) for d in np.linspace(0, 200, 500)]
        assert all(b >= a for a, b in itertools.pairwise(seen))
    with pytest.raises(ValueError, match="longer"):
        fit([0, 0])


@pytest.mark.parametrize("habits", [0.5, 1.0, 50.0])
@pytest.mark.parametrize("new_per_day", [0, 50, 400])
def test_twice_the_history_is_foretold(habits: float, new_per_day: int) -> None:
    """20,000 people who come by their own rates (gamma; 0.5: very different ones), and new ones every day."""
    rng = np.random.default_rng(int(habits * 10) + new_per_day)
    rates = rng.gamma(habits, 0.1 / habits, 20_000)
    first = np.floor(rng.exponential(1, 20_000) / np.maximum(rates, 1e-12))
    counts = np.bincount(first[first < 56].astype(np.int64), minlength=56) + rng.poisson(new_per_day, 56)
    foretold = fit(counts[:28].tolist())
    assert foretold.units(28) == counts[:28].sum()
    assert foretold.units(56) == pytest.approx(counts.sum(), rel=0.15)


def test_numbers_as_people_write_them() -> None:
    assert (parse_number("--x", "10%"), parse_number("--x", "1_000")) == (0.1, 1000)
    assert parse_effect("--x", "-5%").absolute(-2.0) == pytest.approx(-0.1)
    assert parse_effect("--x", "0.5pp").absolute(0.3) == pytest.approx(0.005)
    assert parse_shares("--x", "0.5,0.25,0.25") == {"control": 0.5, "arm 1": 0.25, "arm 2": 0.25}
    assert parse_shares("--x", "a=80%,b=20%") == {"a": 0.8, "b": 0.2}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--mde 5%", "no baseline"),
        ("--baseline 10%", "nothing to solve for"),
        ("--baseline 110% --mde 5%", "is no proportion"),
        ("--baseline 0 --mde 5%", "is no proportion"),
        ("--baseline 0 --sd 3 --mde 5%", "baseline of 0 is no change"),
        ("--baseline 0 --sd 3 --margin 5%", "the baseline is 0"),
        ("--baseline nan --sd 3 --mde 1", "is no number"),
        ("--baseline 5 --sd 0 --mde 1", "--sd is 0.0"),
        ("--baseline 5 --sd -1 --mde 1", "--sd is -1.0"),
        ("--baseline 5 --sd inf --mde 1", "--sd is inf"),
        ("--baseline 5 --sd 1e200 --mde 1", "--sd is 1e+200"),
        ("--baseline 0.5 --sd 3 --kind proportion --mde 1%", "--sd does not go with a proportion"),
        ("--baseline 5 --kind ratio --mde 1%", "standard error"),
        ("--baseline 90% --mde 20%", "it would be 1.08"),
        ("--baseline 10% --mde 0", "is no change"),
        ("--baseline 10% --mde x", "is no change"),
        ("--baseline 10% --mde 5% --power 100%", "--power is 1"),
        ("--baseline 10% --mde 5% --power 1%", "--power is 0.01"),
        ("--baseline 10% --mde 5% --alpha 0.7", "--alpha is 0.7"),
        ("--baseline 10% --mde 5% --arms 1", "--arms is 1"),
        ("--baseline 10% --mde 5% --arms 3 --weights 0.5,0.5", "give one"),
        ("--baseline 10% --mde 5% --weights 0.5,0.6", "sum to 1.1"),
        ("--baseline 10% --mde 5% --weights a=0.5,a=0.5", "twice"),
        ("--baseline 10% --mde 5% --weights a=1,b=0", "is no share"),
        ("--baseline 10% --mde 5% --weights a=0.5,b=0.5 --control c", "is no arm"),
        ("--baseline 10% --mde 5% --units 2", "--units is 2"),
        ("--baseline 10% --mde 5% --units nan", "--units is nan"),
        ("--baseline 10% --mde 5% --days 5", "says nothing without arrivals"),
        ("--baseline 10% --mde 5% --days 5 --units 500", "give one"),
        ("--baseline 10% --days 2 --units-per-day 100 --window-days 3", "within the metric's window"),
        ("--baseline 10% --mde 5% --traffic 50%", "says nothing without arrivals"),
        ("--baseline 10% --mde 5% --units-per-day 0", "0 new units a day"),
        ("--baseline 10% --mde 5% --units-per-day 5,-3", "negative"),
        ("--baseline 10% --mde 5% --looks 1", "--looks is 1"),
        ("--baseline 10% --mde 5% --planned-units 3", "--planned-units is 3"),
        ("--baseline 10% --mde 5% --variance-reduction 100%", "no covariate takes all"),
        ("--baseline 10% --mde 5% --correlation 1", "--correlation is 1"),
        ("--baseline 10% --margin 100%", "nothing falls by more than 100%"),
        ("--baseline 10% --mde 5% --metric x", "--metric needs a file"),
        ("missing.parquet --metric x --mde 5%", "missing.parquet"),
    ],
)
def test_what_cannot_be_planned_is_said(capsys: pytest.CaptureFixture[str], argv: str, message: str) -> None:
    code, out, err = salon(capsys, *argv.split())
    assert code in (1, 2) and not out
    assert message in err and "Traceback" not in err and len(err.splitlines()) == 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    baseline=st.one_of(st.floats(1e-9, 1 - 1e-9), st.floats(-1e12, 1e12)),
    sd=st.one_of(st.none(), st.floats(1e-9, 1e12)),
    change=st.floats(-2, 2).filter(lambda x: x != 0),
    units=st.one_of(st.none(), st.integers(4, 10**12)),
    extra=st.sampled_from([(), ("--lower",), ("--margin", "5%"), ("--arms", "4"), ("--looks", "3"), ("--units-per-day", "10,9,8,7,6")]),
)
def test_any_numbers_are_answered_in_words_and_json(
    capsys: pytest.CaptureFixture[str], baseline: float, sd: float | None, change: float, units: int | None, extra: tuple[str, ...]
) -> None:
    argv = [f"--baseline={baseline!r}", f"--mde={change * 100!r}%", *([] if sd is None else [f"--sd={sd!r}"]), *extra]
    argv += [] if units is None else [f"--units={units}"]
    code, out, err = salon(capsys, *argv)
    assert code in (0, 2), err
    if code:
        assert len(err.splitlines()) == 1
        return
    assert all(len(line) <= 100 for line in out.splitlines()), out
    for design in plan(capsys, *argv)["designs"]:
        assert design["power"] is None or 0 <= design["power"] <= 1
        assert design["expected_units"] is None or design["units"] is None or design["expected_units"] <= design["units"] + 4


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows of users over 20 days, as Parquet with dates and as CSV with text."""
    rng, rows = np.random.default_rng(12), 4000
    user, day = rng.integers(0, 900, rows), np.sort(rng.integers(0, 20, rows))
    before = rng.gamma(3, 4, 900)
    columns = {
        "user": np.array([f"u{i:04d}" for i in user]),
        "at": np.datetime64("2026-10-01") + day.astype("timedelta64[D]"),
        "spend": before[user] * rng.random(rows),
        "before": before[user],
        "liked": (rng.random(rows) < 0.05).astype(np.int64),
        "views": rng.poisson(2, rows) + 1,
    }
    folder = tmp_path_factory.mktemp("tables")
    arrow = pa.table(columns)
    pyarrow.parquet.write_table(arrow, folder / "past.parquet")
    pyarrow.csv.write_csv(arrow.set_column(1, "at", arrow["at"].cast(pa.string())), folder / "past.csv")
    return {"parquet": folder / "past.parquet", "csv": folder / "past.csv", "user": user, "day": day, **columns}


def test_a_mean_from_a_file(capsys: pytest.CaptureFixture[str], table: dict[str, Any]) -> None:
    argv = ("--metric", "spend", "--unit", "user", "--time", "at", "--mde", "5%", "--covariate", "before")
    found = plan(capsys, str(table["parquet"]), *argv)
    seen = np.unique(table["user"])
    totals = np.array([table["spend"][table["user"] == u].sum() for u in seen])
    before = np.array([table["before"][table["user"] == u][0] for u in seen])
    fitted = sm.OLS(totals, sm.add_constant(before)).fit()
    assert found["baseline"] == pytest.approx(totals.mean()) and found["variance"] == pytest.approx(totals.var(ddof=1))
    assert found["variance_reduction"] == pytest.approx(fitted.rsquared_adj)
    n = 2 * totals.var(ddof=1) * (1 - fitted.rsquared_adj) * (Z + ZP) ** 2 / (0.05 * totals.mean()) ** 2
    assert found["designs"][0]["units_per_arm"]["control"] == math.ceil(n)
    first = [table["day"][table["user"] == u].min() for u in seen]
    assert found["arrivals"]["cumulative"] == np.cumsum(np.bincount(first, minlength=20)).tolist()
    assert plan(capsys, str(table["csv"]), *argv)["designs"] == found["designs"]


def test_other_kinds_from_a_file(capsys: pytest.CaptureFixture[str], table: dict[str, Any]) -> None:
    file = str(table["parquet"])
    share = plan(capsys, file, "--metric", "liked", "--unit", "user", "--mde", "20%")
    seen = np.unique(table["user"])
    assert share["kind"] == "proportion"
    assert share["baseline"] == pytest.approx(np.mean([table["liked"][table["user"] == u].any() for u in seen]))
    ratio = plan(capsys, file, "--metric", "liked:ratio:views", "--unit", "user", "--mde", "20%")
    y, d = (np.array([table[c][table["user"] == u].sum() for u in seen]) for c in ("liked", "views"))
    assert ratio["variance"] == pytest.approx(np.var((y - y.sum() / d.sum() * d) / d.mean(), ddof=1))
    quantile = plan(capsys, file, "--metric", "spend:quantile:0.9", "--unit", "user", "--mde", "5%")
    assert quantile["baseline"] == np.quantile(table["spend"], 0.9, method="inverted_cdf")
    # The arms' quantiles vary as the variance per unit says: drawn anew, by users.
    rng, of_user = np.random.default_rng(1), [table["spend"][table["user"] == u] for u in seen]
    drawn = [np.quantile(np.concatenate([of_user[i] for i in rng.integers(0, len(seen), len(seen))]), 0.9) for _ in range(250)]
    assert math.sqrt(quantile["variance"] / len(seen)) == pytest.approx(np.std(drawn), rel=0.25)
    capped = plan(capsys, file, "--metric", "spend", "--unit", "user", "--mde", "5%", "--cap", "p90")
    assert capped["variance"] < plan(capsys, file, "--metric", "spend", "--unit", "user", "--mde", "5%")["variance"]


def test_files_that_cannot_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path, table: dict[str, Any]) -> None:
    code, _, err = salon(capsys, str(table["csv"]), "--metric", "spend", "--covariate", "spend", "--mde", "5%")
    assert code == 2 and "from before the exposure" in err
    file = tmp_path / "bad.csv"
    file.write_text("user,x,flat,gap,none,at,word\na,1,5,1,0,soon,q\nb,2,5,,0,later,r\nc,4,5,3,0,never,s\n")
    for argv, message in (
        ("--metric y", "has no column 'y'"),
        ("--metric word", "which is no number"),
        ("--metric gap", "is empty"),
        ("--metric flat", "nothing varies"),
        ("--metric none", "no unit of 3 did it"),
        ("--metric x:ratio:none", "denominator is 0"),
        ("--metric x:quantile:0.99", "too few"),
        ("--metric x --time at", "holds no times"),
        ("--metric x --baseline 3", "comes from the file"),
        ("--metric x --time at --units-per-day 3", "give one"),
        ("--mde 3%", "--metric is missing"),
    ):
        code, _, err = salon(capsys, str(file), "--mde", "5%", *argv.split())
        assert code == 2 and message in err, (argv, err)
    assert plan(capsys, str(file), "--metric", "gap", "--empty", "zero", "--mde", "50%")["baseline"] == pytest.approx(4 / 3)


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text("utf-8")
    lines = [shlex.split(line, comments=True)[2:] for line in re.findall(r"^salon power --base.*$", text, re.MULTILINE)]
    assert len(lines) == 8
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    for number, argv in enumerate(lines):
        code, out, err = salon(capsys, *argv)
        assert code == 0, err
        assert number or out.startswith(shown[1])
    options = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--format"}
    code, out, _ = salon(capsys, "--help")
    assert code == 0 and options <= set(re.findall(r"--[a-z][a-z-]+", out))
