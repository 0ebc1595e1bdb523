"""The crash test must be able to fail: its recount against figures worked out by hand, its verdict on a loss and on a double."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import crash
    import recount

    return crash, recount


def row(event_id: str, kind: str, unit: str, arm: str, second: int, **more: object) -> dict[str, object]:
    at = f"2026-11-23T12:00:{second:02d}Z"
    return {
        "event_id": event_id,
        "kind": kind,
        "unit": unit,
        "arm": arm,
        "experiment": "contest",
        "occurred_at": at,
        "received_at": at,
    } | more


ROWS = [
    row("x1", "exposure", "ada", "base", 1),
    row("x2", "exposure", "bob", "base", 1),
    row("x3", "exposure", "cyd", "vivid", 1),
    row("x4", "exposure", "dan", "base", 1),
    row("x5", "exposure", "dan", "vivid", 2),  # saw two arms: left out
    row("a1", "score", "ada", "base", 3, value=4),
    row("a2", "score", "ada", "base", 4, value=6),
    row("a3", "like", "ada", "base", 4),
    row("a4", "view", "ada", "base", 4),
    row("b1", "score", "bob", "base", 5, value=2, flags=1),  # a robot's: not counted
    row("b2", "view", "bob", "base", 0),  # before the exposure: not counted
    row("b3", "view", "bob", "base", 5),
    row("c1", "view", "cyd", "vivid", 5),
    row("d1", "like", "dan", "vivid", 5),
]


def test_the_recount_gives_what_a_hand_does(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, recount = scripts
    events, figures = recount.recount(ROWS, "contest")
    assert events == 14
    # points per unit of base: ada 10, bob 0, so mean 5 and deviation sqrt(50)
    assert figures["points", "base"] == recount.Figure(2, 5.0, pytest.approx(50**0.5))
    assert figures["like_rate", "base"] == recount.Figure(2, 0.5, None)
    assert figures["scores_per_view", "base"] == recount.Figure(2, 1.0, None)
    assert figures["points", "vivid"] == recount.Figure(1, 0.0, None)
    assert set(figures) == {(metric, arm) for metric in ("points", "like_rate", "scores_per_view") for arm in ("base", "vivid")}


def test_a_report_that_counts_one_event_twice_is_found(scripts: tuple[ModuleType, ModuleType]) -> None:
    _, recount = scripts
    events, figures = recount.recount(ROWS, "contest")
    metrics = [
        {"metric": metric, "arms": [{"arm": arm, "n": f.n, "mean": f.mean, "sd": f.sd} for (m, arm), f in figures.items() if m == metric]}
        for metric in ("points", "like_rate", "scores_per_view")
    ]
    assert recount.differences({"events_read": 14, "metrics": metrics}, events, figures) == []
    metrics[0]["arms"][0]["mean"] = 7.0
    wrong = recount.differences({"events_read": 15, "metrics": metrics[:2]}, events, figures)
    assert [text.split(" is")[0] for text in wrong] == [
        "events_read", "points of base: mean", "scores_per_view of base", "scores_per_view of vivid",
    ]  # fmt: skip


def test_the_verdict_finds_losses_doubles_strangers_and_changes(scripts: tuple[ModuleType, ModuleType], tmp_path: Path) -> None:
    crash, recount = scripts
    with sqlite3.connect(tmp_path / "events.sqlite") as db:
        db.execute("CREATE TABLE events (position INTEGER PRIMARY KEY, data BLOB)")
        db.executemany("INSERT INTO events (data) VALUES (?)", [(json.dumps(r).encode(),) for r in ROWS])
    rows = recount.raw_rows(tmp_path / "events.sqlite")
    acknowledged = {str(r["event_id"]): {"kind": r["kind"]} | ({"value": r["value"]} if "value" in r else {}) for r in ROWS[5:]}
    assert crash.compare(rows, acknowledged) == (0, 0, 0)
    assert crash.compare([r for r in rows if r["event_id"] != "a1"], acknowledged) == (1, 0, 0)
    assert crash.compare([*rows, rows[5]], acknowledged) == (0, 1, 0)
    assert crash.compare([*rows, rows[5] | {"event_id": "nobody's"}], acknowledged) == (0, 1, 0)
    assert crash.compare(rows, acknowledged | {"a1": {"kind": "score", "value": 5}}) == (0, 0, 1)


def test_without_cuda_the_gpu_script_measures_nothing_and_says_so() -> None:
    # an empty list of visible devices: the same on a machine that has a GPU
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py")], env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and not done.stdout
    assert "nothing was measured" in done.stderr


def test_results_are_kept_only_from_a_benchmark_that_ended_well(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "event_log", "--results", str(tmp_path)]
    assert subprocess.run([*command, "--seconds", "0.02"], capture_output=True, check=False).returncode == 0
    kept = (tmp_path / "event_log.txt").read_text()
    assert "UTC" in kept and kept.count("per CPU-second") == 4
    assert subprocess.run([*command, "--seconds", "soon"], capture_output=True, check=False).returncode == 1
    assert (tmp_path / "event_log.txt").read_text() == kept
