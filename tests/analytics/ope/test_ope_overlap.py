"""When there is no estimate, and when it is not to be relied on."""

from pathlib import Path

import numpy as np
import pytest
from ope_cases import ASKED, PLACED, WANTED, drawn, ope, ope_json, policy, write


def without(log: dict[str, np.ndarray], wrong: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[~wrong] for name, values in log.items()}


def test_an_action_never_shown_has_no_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, wanted = drawn(), policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    kept = write(tmp_path / "log.csv", without(log, log["item"] == 2))
    found = ope_json(capsys, kept, *PLACED, "--policy", wanted)
    assert found["estimates"] == [] and found["overlap"]["ok"] is False
    assert found["overlap"]["missing"] == ["2"]
    assert found["overlap"]["reason"].startswith("no overlap: the policy wants item '2'")
    assert [cell["at"] for cell in found["overlap"]["cells"]] == [{"slot": "1"}, {"slot": "2"}, {"slot": "3"}]
    code, out, _ = ope(capsys, kept, *PLACED, "--policy", wanted)
    assert code == 0 and "No estimate: no overlap" in out and "--prediction" in out and "ips" not in out


def test_never_in_one_slot_is_never_shown_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, wanted = drawn(), policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    kept = without(log, (log["item"] == 3) & (log["slot"] == 2))
    found = ope_json(capsys, write(tmp_path / "log.csv", kept), *PLACED, "--policy", wanted)
    assert found["estimates"] == [] and found["overlap"]["missing"] == ["3"]
    assert found["overlap"]["cells"] == [{"action": "3", "at": {"slot": "2"}, "probability": 0.25}]
    # What the policy does not want may be missing.
    spared = without(log, (log["item"] == 0) & (log["slot"] == 2))
    assert ope_json(capsys, write(tmp_path / "log.csv", spared), *PLACED, "--policy", wanted)["estimates"]


def test_a_rare_pick_may_be_unseen_by_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rare` is shown 8 times in 4,000 rows and by chance never in the 500 rows of slot b: no proof that it could not be."""
    slot = np.repeat(["a", "b"], [3500, 500])
    item = np.where(np.arange(4000) % 500 == 0, "rare", "usual")
    item[slot == "b"] = "usual"
    log = {"item": item, "slot": slot, "click": np.arange(4000) % 2, "chance": np.where(item == "rare", 0.002, 0.998)}
    file = write(tmp_path / "log.csv", log)
    chances = {("rare", "a"): 0.002, ("usual", "a"): 0.998, ("rare", "b"): 0.04, ("usual", "b"): 0.96}
    found = ope_json(capsys, file, *PLACED, "--policy", policy(tmp_path / "p.csv", chances, ("item", "slot")))
    assert found["overlap"]["missing"] == [] and len(found["estimates"]) == 3
    assert found["overlap"]["unseen"] == pytest.approx(0.04 * 500 / 4000)
    assert any("may be by chance" in note for note in found["notes"])
    chances |= {("rare", "b"): 0.6, ("usual", "b"): 0.4}
    found = ope_json(capsys, file, *PLACED, "--policy", policy(tmp_path / "p.csv", chances, ("item", "slot")))
    assert found["overlap"]["missing"] == ["rare"] and not found["estimates"]


def test_a_position_of_which_the_log_has_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = policy(tmp_path / "p.csv", WANTED | {("1", "4"): 1.0}, ("item", "slot"))
    found = ope_json(capsys, write(tmp_path / "log.csv", drawn()), *PLACED, "--policy", wanted)
    assert found["overlap"]["cells"] == [{"action": "1", "at": {"slot": "4"}, "probability": 1.0}] and not found["estimates"]


def test_wrong_propensities_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1/n logged for a draw that was not uniform: the mean weight gives it away."""
    log = drawn()
    log["chance"] = np.full(len(log["item"]), 0.25)
    uneven = {(str(i),): p for i, p in enumerate((0.7, 0.1, 0.1, 0.1))}
    kept = without(log, log["slot"] == 1)
    found = ope_json(capsys, write(tmp_path / "log.csv", kept), *ASKED, "--policy", policy(tmp_path / "p.csv", uneven))
    assert found["overlap"]["ok"] is False and "do not add up" in found["overlap"]["reason"]
    assert len(found["estimates"]) == 3 and found["overlap"]["missing"] == []


def test_too_few_effective_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    item = np.where(rng.random(3000) < 0.05, "b", "a")
    log = {"item": item, "click": rng.integers(0, 2, 3000), "chance": np.where(item == "b", 0.05, 0.95)}
    asked = policy(tmp_path / "p.csv", {("b",): 1.0})
    found = ope_json(capsys, write(tmp_path / "log.csv", log), *ASKED, "--policy", asked)
    assert found["effective_samples"] == pytest.approx((item == "b").sum()) and found["effective_samples"] < 200
    assert found["overlap"]["ok"] is False and "too few" in found["overlap"]["reason"]
    _, out, _ = ope(capsys, tmp_path / "log.csv", *ASKED, "--policy", asked)
    assert "Not to be relied on: too few" in out
