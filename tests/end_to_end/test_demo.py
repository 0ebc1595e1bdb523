"""The whole loop in small: real server, real model, real training, over HTTP (`salon demo` is the same at full size)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from analytics.event_log import open_log
from salon.demo.story import Scale, Story

# A gate that looks at few pictures, as eight seconds of training make it say no half the time at its full size.
SMALL_GATE = {"SEEDS": "2", "ROLE_SEEDS": "2", "SCALES": "[1.0]"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL_GATE.items():
            patch.setenv(f"SALON_FINETUNE__GATE__{name}", value)
        yield folder, Story(folder, 3, True, Scale(people=50, first_looks=2, candidate_looks=2, training_seconds=8.0)).tell()


def test_two_contests_or_a_gate_that_said_no(told: tuple[Path, dict]) -> None:
    """The first contest read every unit; the second began by itself at the small weight and was ramped, unless the gate refused."""
    _, result = told
    first = result["experiments"][0]["report"]
    assert first["experiment"] == "first-contest"
    assert sum(arm["units"] for arm in first["arms"]) <= 100
    assert first["checks"]["srm"]["ok"]
    assert first["decision"]["action"] in {"keep_running", "ship", "stop"}
    if result["truth"]["candidate"] is None:
        assert len(result["experiments"]) == 1
    else:
        second = result["experiments"][1]["report"]
        assert {a["arm"] for a in second["arms"]} == {result["truth"]["champion"], result["truth"]["candidate"]}
        assert sum(a["units"] for a in second["arms"]) == 100


def test_the_round_told_whom_it_learnt_from(told: tuple[Path, dict]) -> None:
    """People of the first contest, under the digest that the candidate was then served by; those of the second are newcomers."""
    folder, result = told
    log = open_log(f"local:{folder / 'var/events'}")
    events = [event for _, event in log.read(0, 1_000_000)]
    log.close()
    trained = [event for event in events if event.kind == "trained"]
    if result["truth"]["candidate"] is None:
        assert trained == []
        return
    second = result["experiments"][1]["report"]
    served = {arm["arm"]: arm["variant"] for arm in second["arms"]}
    assert {event.variant_digest for event in trained} == {served[result["truth"]["candidate"]]}
    assert {event.unit for event in trained} == {event.unit for event in events if event.experiment == "first-contest" and event.unit}
    assert second["checks"]["left_out"]["training"] is None


def test_the_truth_stands_beside_the_finding(told: tuple[Path, dict]) -> None:
    """Every arm has the utility of the pictures it showed, and vivid colours truly are what this audience likes."""
    _, result = told
    assert result["truth"]["arms"]["vivid"] > result["truth"]["arms"]["pale"]
    assert set(result["seconds"]) >= {"start", "ready", "first_contest", "round"}


def test_it_leaves_pages_and_data(told: tuple[Path, dict]) -> None:
    folder, result = told
    page = (folder / "report-first-contest.html").read_text()
    assert "data:image/png;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (folder / "var/events").exists()
    assert list((folder / "var/rounds").glob("*/outcome.json"))
    # A candidate that the gate refused is not published.
    assert bool(list((folder / "var/rounds").glob("*/manifest.json"))) == (result["truth"]["candidate"] is not None)
