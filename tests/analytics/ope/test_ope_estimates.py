"""IPS, SNIPS, DR and corrected predictions: by hand, against numpy on whole arrays, and what must hold for any log."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ope_cases import ASKED, PLACED, WANTED, drawn, ope_json, policy, write

from analytics.ope.answer import answer
from analytics.ope.file_log import folds
from analytics.ope.logged import Chunk, Log
from analytics.ope.policy_table import Policy
from analytics.ope.reward_model import FOLDS, RIDGE
from analytics.ope.running import Running

Z = 1.959963984540054


def by_name(found: dict) -> dict[str, dict]:
    return {each["estimator"]: each for each in found["estimates"]}


def memory(action: list[int], reward: list[float], chance: list[float], names: int) -> Log:
    rows = len(action)
    chunk = Chunk(
        action=np.array(action),
        keys=np.zeros((rows, 0), dtype=np.int64),
        propensity=np.array(chance),
        fold=folds(np.arange(rows)),
        rows=np.ones(rows),
        mean=np.array(reward, float),
        m2=np.zeros(rows),
        shown=np.ones(rows, dtype=bool),
        prediction=None,
    )
    return Log(action="item", actions=[str(i) for i in range(names)], keys=(), chunks=lambda: iter([chunk]))


def plain(*probability: float) -> Policy:
    return Policy(columns=(), actions=[str(i) for i in range(len(probability))], strata=[()], probability=np.array([probability]))


def test_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights .8/.5 = 1.6 for a and .2/.5 = .4 for b: w Y = 1.6, 0, .4, 0; weights sum to 4."""
    log = write(tmp_path / "log.csv", {"item": ["a", "a", "b", "b"], "click": [1, 0, 1, 0], "chance": [0.5] * 4})
    found = ope_json(capsys, log, *ASKED, "--policy", policy(tmp_path / "p.csv", {("a",): 0.8, ("b",): 0.2}))
    assert found["n"] == 4
    ips, snips = by_name(found)["ips"], by_name(found)["snips"]
    assert ips["value"] == pytest.approx(0.5)
    # deviations 1.1, -.5, -.1, -.5: squares sum to 1.72
    assert ips["se"] == pytest.approx(math.sqrt(1.72 / 3 / 4))
    assert ips["ci"] == pytest.approx([0.5 - Z * ips["se"], 0.5 + Z * ips["se"]])
    assert snips["value"] == pytest.approx(2.0 / 4.0)
    assert snips["se"] == pytest.approx(math.sqrt((2 * 1.6**2 + 2 * 0.4**2) * 0.25) / 4)
    assert found["effective_samples"] == pytest.approx(16 / (2 * 1.6**2 + 2 * 0.4**2))
    assert found["overlap"]["ok"] is False and "too few" in found["overlap"]["reason"]
    assert found["overlap"]["missing"] == []


def whole(log: dict[str, np.ndarray], clip: float | None = None) -> dict[str, tuple[float, float]]:
    """The same on whole arrays, the reward model by least squares on rows added for the penalty."""
    pi = np.zeros((4, 4))
    for (item, slot), p in WANTED.items():
        pi[int(slot), int(item)] = p
    n, y = len(log["item"]), log["click"].astype(float)
    w = pi[log["slot"], log["item"]] / log["chance"]
    w = w if clip is None else np.minimum(w, clip)

    def features(item: np.ndarray) -> np.ndarray:
        columns = [np.ones(n), *(item == i for i in range(4)), *(log["slot"] == s for s in (1, 2, 3))]
        return np.stack([*columns, log["country"] == "de", log["country"] == "fr"], axis=1).astype(float)

    fold, shown, asked = folds(np.arange(n)), np.zeros(n), np.zeros(n)
    for f in range(FOLDS):
        rest, mine = fold != f, fold == f
        x = features(log["item"])
        penalty = np.sqrt(np.diag([1e-9, *([RIDGE] * (x.shape[1] - 1))]))
        fitted = np.linalg.lstsq(np.vstack([x[rest], penalty]), np.concatenate([y[rest] - y.mean(), np.zeros(x.shape[1])]))[0]
        shown[mine] = (x @ fitted)[mine] + y.mean()
        for item in range(4):
            asked[mine] += (pi[log["slot"], item] * (features(np.full(n, item)) @ fitted + y.mean()))[mine]
    dr = asked + w * (y - shown)
    snips = (w @ y) / w.sum()
    return {
        "ips": ((w * y).mean(), (w * y).std(ddof=1) / n**0.5),
        "snips": (snips, math.sqrt(((w * (y - snips)) ** 2).sum()) / w.sum()),
        "dr": (dr.mean(), dr.std(ddof=1) / n**0.5),
    }


@pytest.mark.parametrize("clip", [None, 1.5])
def test_against_whole_arrays(clip: float | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("analytics.analyze.table.CHUNK", 997)
    log = drawn()
    wanted = policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    argv = [*PLACED, "--context", "country", "--policy", wanted, *(() if clip is None else ("--clip", clip))]
    found = ope_json(capsys, write(tmp_path / "log.csv", log), *argv)
    for name, (value, se) in whole(log, clip).items():
        assert by_name(found)[name]["value"] == pytest.approx(value, abs=1e-9), name
        assert by_name(found)[name]["se"] == pytest.approx(se, rel=1e-6), name
    assert found["overlap"]["ok"] is True
    assert (found["weights"]["clipped"] > 0) == (clip is not None)
    assert any("were cut" in note for note in found["notes"]) == (clip is not None)
    again = ope_json(capsys, write(tmp_path / "log.parquet", log), *argv)
    for name, each in by_name(found).items():
        assert by_name(again)[name]["value"] == pytest.approx(each["value"], rel=1e-12)


rewards = st.lists(st.tuples(st.integers(0, 2), st.floats(-5, 5)), min_size=6, max_size=60).filter(lambda r: {a for a, _ in r} == {0, 1, 2})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(rewards, st.floats(-1000, 1000))
def test_the_logging_policy_replays_its_own_mean_and_snips_moves_with_the_reward(rows: list[tuple[int, float]], shift: float) -> None:
    chances = (0.2, 0.3, 0.5)
    action, y = [a for a, _ in rows], np.array([v for _, v in rows])
    found = answer(memory(action, list(y), [chances[a] for a in action], 3), plain(*chances))
    values = {each.estimator: each.value for each in found.estimates}
    assert values["ips"] == pytest.approx(y.mean(), abs=1e-9) and values["snips"] == pytest.approx(y.mean(), abs=1e-9)
    other = answer(memory(action, list(y), [chances[a] for a in action], 3), plain(0.5, 0.3, 0.2)).estimates[1]
    moved = answer(memory(action, list(y + shift), [chances[a] for a in action], 3), plain(0.5, 0.3, 0.2)).estimates[1]
    assert moved.value == pytest.approx(other.value + shift, abs=1e-7) and moved.se == pytest.approx(other.se, abs=1e-7)


def test_large_means_lose_no_digits() -> None:
    rng = np.random.default_rng(1)
    action, y = rng.integers(0, 2, 4000), rng.normal(0, 1, 4000)
    near, far = (answer(memory(list(action), list(y + at), [0.5] * 4000, 2), plain(0.7, 0.3)) for at in (0.0, 1e9))
    assert far.estimates[1].se == pytest.approx(near.estimates[1].se, rel=1e-4)
    assert far.logged.se == pytest.approx(near.logged.se, rel=1e-6)


def test_groups_are_as_good_as_rows() -> None:
    """Chan's merge against numpy, in chunks of groups of several sizes."""
    rng = np.random.default_rng(3)
    groups = [rng.normal(50, 3, size) for size in (1, 5, 2, 30, 7)]
    running = Running()
    for chunk in (groups[:2], groups[2:], []):
        means, within = np.array([g.mean() for g in chunk]), np.array([g.var() * len(g) for g in chunk])
        running.add(means, within, np.array([len(g) for g in chunk], float))
    together = np.concatenate(groups)
    assert running.mean == pytest.approx(together.mean(), rel=1e-14)
    assert running.se == pytest.approx(together.std(ddof=1) / len(together) ** 0.5, rel=1e-12)


def test_a_model_that_fits_leaves_dr_little_noise() -> None:
    """Rewards that are exact per action: DR knows the value, IPS only its mean over weights."""
    rng = np.random.default_rng(5)
    action = rng.choice(3, 6000, p=[0.6, 0.3, 0.1])
    rates, chances = np.array([1.0, 2.0, 5.0]), np.array([0.6, 0.3, 0.1])
    found = answer(memory(list(action), list(rates[action]), list(chances[action]), 3), plain(0.1, 0.1, 0.8))
    ips, _, dr = found.estimates
    assert dr.value == pytest.approx(4.3, abs=0.01) and dr.se < ips.se / 20
    assert abs(ips.value - 4.3) < 4 * ips.se


def test_predictions_are_corrected_by_what_was_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new variant on a tenth of the rows; its predictions are 0.1 too high, and the correction finds that."""
    rng = np.random.default_rng(11)
    n = 8000
    taste, shown = rng.normal(0, 1, n), rng.random(n) < 0.1
    reward = 0.5 + 0.8 * taste + rng.normal(0, 0.3, n)
    columns = {
        "item": ["new"] * n,
        "click": ["" if not s else f"{y:.6f}" for s, y in zip(shown, reward, strict=True)],
        "chance": ["0.1" if s else "" for s in shown],
        "predicted": 0.6 + 0.8 * taste,
    }
    log, asked = write(tmp_path / "log.csv", columns), policy(tmp_path / "p.csv", {("new",): 1.0})
    found = ope_json(capsys, log, *ASKED, "--prediction", "predicted", "--policy", asked)
    corrected, ips = by_name(found)["corrected"], by_name(found)["ips"]
    y = np.where(shown, np.round(reward, 6), 0.0)
    score = columns["predicted"] + shown / 0.1 * (y - columns["predicted"])
    assert corrected["value"] == pytest.approx(score.mean(), rel=1e-9)
    assert corrected["se"] == pytest.approx(score.std(ddof=1) / n**0.5, rel=1e-9)
    assert abs(corrected["value"] - reward.mean()) < 3 * corrected["se"] < abs(0.6 - 0.5)
    assert corrected["se"] < ips["se"] and found["n"] == n and found["overlap"]["ok"]
    assert any("have no reward" in note for note in found["notes"])


def test_errors_are_clustered_by_unit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IPS and SNIPS as (weighted) regressions on a constant: statsmodels' cluster covariance is the same error."""
    import statsmodels.api as sm

    log = drawn(1500)
    unit = np.repeat(np.arange(300), 5)
    log["click"] = (log["click"] + (unit % 7 == 0) > 0).astype(int)
    file, wanted = write(tmp_path / "log.csv", log | {"who": unit}), policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    found = ope_json(capsys, file, *PLACED, "--unit", "who", "--policy", wanted)
    apart = ope_json(capsys, file, *PLACED, "--policy", wanted)
    pi = np.array([WANTED[str(i), str(s)] for i, s in zip(log["item"], log["slot"], strict=True)])
    w, y = pi / log["chance"], log["click"].astype(float)
    clustered = {"groups": unit, "use_correction": False}
    plainly = sm.OLS(w * y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds=clustered)
    weighted = sm.WLS(y, np.ones(len(y)), weights=w).fit(cov_type="cluster", cov_kwds=clustered)
    assert by_name(found)["ips"]["se"] == pytest.approx(float(plainly.bse[0]) * math.sqrt(300 / 299), rel=1e-9)
    assert by_name(found)["snips"]["se"] == pytest.approx(float(weighted.bse[0]), rel=1e-9)
    assert (
        by_name(found)["ips"]["value"] == by_name(apart)["ips"]["value"] and by_name(found)["dr"]["se"] > 1.2 * by_name(apart)["dr"]["se"]
    )
    assert found["units"] == 300 and apart["units"] is None
    assert any("--unit" in note for note in apart["notes"]) and not any("--unit" in note for note in found["notes"])
    alone = ope_json(capsys, write(tmp_path / "own.csv", log | {"who": np.arange(1500)}), *PLACED, "--unit", "who", "--policy", wanted)
    assert by_name(alone)["ips"]["se"] == pytest.approx(by_name(apart)["ips"]["se"], rel=1e-9)
    assert by_name(alone)["snips"]["se"] == pytest.approx(by_name(apart)["snips"]["se"], rel=1e-9)
