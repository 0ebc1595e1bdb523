"""What a policy may look like, and what is said about one that is wrong."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from ope_cases import ASKED, PLACED, WANTED, drawn, ope, ope_json, policy, write

UNIFORM = {(str(i),): 0.25 for i in range(4)}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "log.csv", drawn())


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    code, out, err = ope(capsys, *argv)
    assert code == 2 and not out
    return re.sub(r"\S*/", "", err)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("0", "0.5"), ("1", "0.3")], "the probabilities sum to 0.8; they must sum to 1"),
        ([("0", "0.5"), ("1", "0.3"), ("0", "0.2")], "rows 2 and 4 give a probability for the same item; keep one of them"),
        ([("0", "1.5"), ("1", "-0.5")], "row 2 of column 'probability' is 1.5; give a number from 0 to 1"),
        ([("0", "0.5"), ("1", "")], "row 3 of column 'probability' is empty"),
        ([("0", "0.5"), ("1", "nan")], "row 3 of column 'probability'"),
        ([("0", "0.5"), ("1", "half")], "row 3 of column 'probability' is 'half'"),
        ([("0", "0.5"), ("", "0.5")], "row 3 of column 'item' is empty"),
    ],
)
def test_wrong_rows(rows: list[tuple[str, str]], said: str, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"item": [r[0] for r in rows], "probability": [r[1] for r in rows]}
    assert said in refused(capsys, log, *ASKED, "--policy", write(tmp_path / "p.csv", columns))


def test_wrong_columns(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    assert "column 'slot' is nothing that the log was asked for" in refused(capsys, log, *ASKED, "--policy", wanted)
    named = policy(tmp_path / "q.csv", UNIFORM, ("itme",))
    assert "has no column 'item'; did you mean 'itme'?" in refused(capsys, log, *ASKED, "--policy", named)
    short = write(tmp_path / "r.csv", {"item": ["0"], "prob": [1.0]})
    assert "has no column 'probability'" in refused(capsys, log, *ASKED, "--policy", short)
    part = policy(tmp_path / "s.csv", {key: p for key, p in WANTED.items() if key[1] != "3"}, ("item", "slot"))
    assert "rows with slot '3', for which the policy has no probabilities" in refused(capsys, log, *PLACED, "--policy", part)


def test_sums_by_position_or_in_all(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    by_slot = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "p.csv", WANTED, ("item", "slot")))
    joint = {key: p * {"1": 0.5, "2": 0.3, "3": 0.2}[key[1]] for key, p in WANTED.items()}
    in_all = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "q.csv", joint, ("item", "slot")))
    for one, other in zip(by_slot["estimates"], in_all["estimates"], strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-12)
    assert not any("sums to 1 over all positions" in note for note in by_slot["notes"])
    assert any("sums to 1 over all positions" in note for note in in_all["notes"])
    joint[("0", "1")] += 0.1
    wrong = policy(tmp_path / "r.csv", joint, ("item", "slot"))
    assert "the probabilities at slot '1' sum to 0.6" in refused(capsys, log, *PLACED, "--policy", wrong)


def test_rounded_tables_are_divided_by_their_sum(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounded = {("0",): 0.3333, ("1",): 0.3333, ("2",): 0.3333, ("3",): 0.0}
    found = ope_json(capsys, log, *ASKED, "--policy", policy(tmp_path / "p.csv", rounded))
    exact = ope_json(capsys, log, *ASKED, "--policy", policy(tmp_path / "q.csv", {k: 1 / 3 if p else 0.0 for k, p in rounded.items()}))
    assert found["estimates"][0]["value"] == pytest.approx(exact["estimates"][0]["value"], rel=1e-12)
    assert any("divided by it" in note for note in found["notes"]) and not any("divided" in note for note in exact["notes"])


def test_columns_may_have_their_plain_names(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "p.csv", WANTED, ("item", "slot")))
    plainly = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "q.csv", WANTED, ("action", "position")))
    assert plainly == named


def test_one_policy_for_all_positions_and_one_by_context(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --position and a table without it; by country, against plain numpy."""
    found = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "p.csv", UNIFORM))
    assert any("the same at every position" in note for note in found["notes"])
    data = drawn()
    assert found["estimates"][0]["value"] == pytest.approx((0.25 / data["chance"] * data["click"]).mean(), rel=1e-12)
    by_country = {(str(i), "de"): 0.25 for i in range(4)} | {("3", "fr"): 1.0}
    asked = policy(tmp_path / "q.csv", by_country, ("item", "country"))
    found = ope_json(capsys, log, *PLACED, "--context", "country", "--policy", asked)
    pi = np.where(data["country"] == "de", 0.25, data["item"] == 3)
    assert found["estimates"][0]["value"] == pytest.approx((pi / data["chance"] * data["click"]).mean(), rel=1e-12)


def test_parquet_with_numbers_is_the_same_policy(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items and slots kept as integers or floats name the same things as the log's text."""
    text = ope_json(capsys, log, *PLACED, "--policy", policy(tmp_path / "p.csv", WANTED, ("item", "slot")))
    for kind in (int, float):
        columns = {"item": [kind(k[0]) for k in WANTED], "slot": [kind(k[1]) for k in WANTED], "probability": list(WANTED.values())}
        found = ope_json(capsys, log, *PLACED, "--policy", write(tmp_path / f"{kind.__name__}.parquet", columns))
        assert found["estimates"] == text["estimates"] and math.isfinite(found["estimates"][2]["value"])
