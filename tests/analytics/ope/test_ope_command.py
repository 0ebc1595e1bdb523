"""`salon ope` on files: what is said about wrong logs and options, and the real log of a shop under two policies."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from ope_cases import ASKED, PLACED, WANTED, drawn, ope, ope_json, policy, write

SHOP = Path(__file__).parents[4] / "shared" / "data" / "open-bandit"
UNIFORM = {(str(i),): 0.25 for i in range(4)}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("chance", 0, "row 5 of column 'chance' is 0; give the chance that the draw had"),
        ("chance", 1.2, "row 5 of column 'chance' is 1.2"),
        ("chance", "", "row 5 of column 'chance' is empty"),
        ("click", "", "row 5 of column 'click' is empty; give the reward, or leave the row out"),
        ("click", "yes", "row 5 of column 'click' is 'yes', which is no number"),
        ("item", "", "row 5 of column 'item' is empty"),
    ],
)
def test_wrong_values(column: str, value: object, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = {name: list(values) for name, values in drawn(20).items()}
    log[column][3] = value
    code, out, err = ope(capsys, write(tmp_path / "log.csv", log), *ASKED, "--policy", policy(tmp_path / "p.csv", UNIFORM))
    assert code == 2 and not out and said in err


def test_wrong_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, asked = write(tmp_path / "log.csv", drawn(50)), policy(tmp_path / "p.csv", UNIFORM)

    def said(*argv: object) -> str:
        code, out, err = ope(capsys, *argv, "--policy", asked)
        assert code == 2 and not out
        return err

    assert "--reward is missing: name the column" in said(log, "--action", "item")
    assert "--clip is -1; give a weight above 0" in said(log, *ASKED, "--clip", "-1")
    assert "--metric goes with an experiment" in said(log, *ASKED, "--metric", "like_rate")
    assert "has no column 'clicks'; did you mean 'click'?" in said(log, "--action", "item", "--reward", "clicks", "--propensity", "chance")
    single = write(tmp_path / "single.csv", drawn(50) | {"who": ["ada"] * 50})
    assert "column 'who' has one unit alone" in said(single, *ASKED, "--unit", "who")
    assert "column 'item' is named for two things" in said(log, *ASKED, "--context", "item")
    # Several at once, or one after the other.
    for several in (("--context", "country", "item"), ("--context", "country", "--context", "item")):
        assert "column 'item' is named for two things" in said(log, *ASKED, *several)
    assert "--reward names a column of a file, and 'vivid-colours' is none" in said("vivid-colours", "--reward", "click")
    assert ope(capsys, tmp_path / "none.csv", *ASKED, "--policy", asked)[0] == 1


def test_text_says_what_and_how_sure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = policy(tmp_path / "p.csv", WANTED, ("item", "slot"))
    code, out, _ = ope(capsys, write(tmp_path / "log.csv", drawn()), *PLACED, "--policy", wanted)
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    for word in ("3,000 rows", "ips, inverse propensity", "snips", "dr, doubly robust", "the log's own mean", "Overlap: the log shows"):
        assert word in out


def shares(file: Path) -> tuple[dict[tuple[str, str], float], float, int]:
    """A policy's item shares per position, its click rate and rows."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    slots, cells = Counter(r["position"] for r in rows), Counter((r["item_id"], r["position"]) for r in rows)
    return {cell: count / slots[cell[1]] for cell, count in cells.items()}, sum(int(r["click"]) for r in rows) / len(rows), len(rows)


@pytest.mark.skipif(not SHOP.is_dir(), reason=f"{SHOP} is not here")
@pytest.mark.parametrize(("log", "other"), [("random_men.csv", "bts_men.csv"), ("bts_men.csv", "random_men.csv")])
def test_a_shops_policies_from_each_others_logs(log: str, other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both ran at once on the same people: the other log's click rate is what the estimate should be, both noisy."""
    table, rate, n = shares(SHOP / other)
    wanted = policy(tmp_path / "p.csv", table, ("item_id", "position"))
    argv = ("--action", "item_id", "--reward", "click", "--propensity", "propensity", "--position", "position", "--policy", wanted)
    found = ope_json(capsys, SHOP / log, *argv)
    assert found["overlap"]["ok"] is True, found["overlap"]
    for each in found["estimates"]:
        assert abs(each["value"] - rate) < 1.96 * (each["se"] ** 2 + rate * (1 - rate) / n) ** 0.5, each
    lines = (SHOP / log).read_text().splitlines()
    (tmp_path / "without.csv").write_text("\n".join(line for line in lines if ",7," not in line[32:38]) + "\n")
    refused = ope_json(capsys, tmp_path / "without.csv", *argv)
    assert refused["overlap"]["missing"] == ["7"] and refused["estimates"] == []
