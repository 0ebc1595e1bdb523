"""The whole loop in small: real server, real model, real training, over HTTP (`salon demo` is the same at full size)."""

from pathlib import Path

import pytest

from salon.demo.story import Scale, Story


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, Story(folder, 3, True, Scale(people=70, first_looks=2, candidate_looks=2, training_seconds=8.0)).tell()


def test_two_contests_or_a_gate_that_said_no(told: tuple[Path, dict]) -> None:
    """The first contest read every unit; the second began by itself at the small weight and was ramped, unless the gate refused."""
    _, result = told
    first = result["experiments"][0]["report"]
    assert first["experiment"] == "first-contest"
    assert sum(arm["units"] for arm in first["arms"]) <= 140
    assert first["checks"]["srm"]["ok"]
    assert first["decision"]["action"] in {"keep_running", "ship", "stop"}
    if result["truth"]["candidate"] is None:
        assert len(result["experiments"]) == 1
    else:
        second = result["experiments"][1]["report"]
        assert {a["arm"] for a in second["arms"]} == {result["truth"]["champion"], result["truth"]["candidate"]}
        assert sum(a["units"] for a in second["arms"]) == 140


def test_the_truth_stands_beside_the_finding(told: tuple[Path, dict]) -> None:
    """Every arm has the utility of the pictures it showed, and vivid colours truly are what this audience likes."""
    _, result = told
    assert result["truth"]["arms"]["vivid"] > result["truth"]["arms"]["pale"]
    assert set(result["seconds"]) >= {"start", "ready", "first_contest", "round"}


def test_it_leaves_pages_and_data(told: tuple[Path, dict]) -> None:
    folder, _ = told
    page = (folder / "report-first-contest.html").read_text()
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (folder / "var/events").exists()
    assert list((folder / "var/rounds").glob("*/manifest.json"))
