"""`salon report` on a real log and warehouse: caught up first, locked, launched by a round, unknown."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from report_cases import experiment

from analytics.event_log import open_log
from analytics.events import Event, Flag, control_event, new_id
from analytics.report.command import parse_time
from analytics.warehouse.client import Warehouse
from salon.cli import main

START = datetime.now(UTC) - timedelta(hours=30)
CONFIG = """
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.vivid-colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
guardrails = { latency_p95_ms = { margin = 0.10, direction = "down" } }
"""


def events(name: str, likes: dict[str, int], units: int) -> Iterator[Event]:
    """`units` per arm, one generation each, the first `likes[arm]` of whom like it."""
    rng = np.random.default_rng(2)
    for arm, count in likes.items():
        for i in range(units):
            at = START + timedelta(seconds=10 * i)
            common = {
                "route": "hero", "experiment": name, "arm": arm, "unit": f"{name}-{arm}-{i}", "propensity": 0.5,
                "occurred_at": at, "received_at": at, "variant_digest": "sha256:" + "0" * 64,
            }  # fmt: skip
            yield Event(event_id=new_id(), kind="exposure", **common)
            generation = {"generation_id": new_id(), "grid": 1, "status": "ok", "queue_ms": 1.0, "service_ms": float(rng.gamma(16, 25))}
            yield Event(event_id=new_id(), kind="generation", **common, **generation)
            if i < count:
                yield Event(event_id=new_id(), kind="like", **common, generation_id=generation["generation_id"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A configuration and a log that no sink has read yet, with one configured and one launched experiment."""
    home = tmp_path_factory.mktemp("salon")
    (home / "salon.toml").write_text(CONFIG)
    launched = experiment(arms={"vivid": 0.5, "round-1": 0.5}, control="vivid")
    log = open_log(f"local:{home}/var/events")
    log.submit(
        [control_event("round-1-check", "hero", "create", "finetune", "a candidate", {"definition": msgspec.to_builtins(launched)})]
    ).result()
    log.submit(list(events("vivid-colours", {"base": 60, "vivid": 130}, 600))).result()
    log.submit(list(events("round-1-check", {"vivid": 40, "round-1": 41}, 200))).result()
    log.close()
    return home


def salon(folder: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["report", *argv, "--config", str(folder / "salon.toml")])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_catches_up_then_reports(folder, capsys):
    code, out, err = salon(folder, capsys, "vivid-colours", "--format", "json")
    assert code == 0, err
    assert "waiting events" in err
    report = json.loads(out)
    assert {arm["arm"]: arm["units"] for arm in report["arms"]} == {"base": 600, "vivid": 600}
    assert {arm["arm"]: arm["mean"] for arm in report["metrics"][0]["arms"]} == {
        "base": pytest.approx(0.1),
        "vivid": pytest.approx(130 / 600),
    }
    assert report["metrics"][1]["kind"] == "quantile" and report["metrics"][1]["comparisons"][0]["p_value"] is not None
    assert (report["decision"]["action"], report["decision"]["arm"]) == ("ship", "vivid")
    assert report["checks"]["srm"]["ok"] and report["checks"]["exposure"]["propensity_balance"]["base"] == pytest.approx(1)


def test_a_running_gateway_holds_the_warehouse(folder):
    """Another process reads the log instead; and an experiment that only a control event defines."""
    code = "import sys; from salon.cli import main; sys.exit(main(sys.argv[1:]))"
    out = folder / "report.html"
    argv = ["report", "round-1-check", "--format", "html", "--out", str(out), "--config", str(folder / "salon.toml")]
    held = Warehouse.open(f"chdb://{folder}/var/warehouse")
    held.query("SELECT 1")
    try:
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=300, check=False)
    finally:
        held.close()
    assert done.returncode == 0, done.stderr
    assert "held by a running gateway" in done.stderr
    assert "round-1" in out.read_text()


def test_unknown_name_and_wrong_time(folder, capsys):
    code, _, err = salon(folder, capsys, "vivid-colour")
    assert code == 2 and "did you mean 'vivid-colours'?" in err
    with pytest.raises(ValueError, match="ISO 8601"):
        parse_time("yesterday")
    assert parse_time("2026-11-23T12:00").tzinfo is UTC


def alone(metric: dict[str, object]) -> dict[str, object]:
    """Without what depends on the rest of a report (e-BH is over all of its comparisons), and without the SQL."""
    return metric | {"sql": "", "comparisons": [c | {"e_bh": None} for c in metric["comparisons"]]}


def test_flagged_events_are_left_out_unless_asked_for(folder, capsys):
    """90 more of the base's units like something, at a rate that no person has: with them the arms are hardly told apart."""
    likers = [event for event in events("vivid-colours", {"base": 150}, 600) if event.kind == "like"][60:]
    log = open_log(f"local:{folder}/var/events")
    log.submit([msgspec.structs.replace(event, flags=int(Flag.RATE)) for event in likers]).result()
    log.close()
    code, out, err = salon(folder, capsys, "vivid-colours", "--format", "json")
    assert code == 0, err
    plain = json.loads(out)
    code, out, err = salon(folder, capsys, "vivid-colours", "--format", "json", "--with-flagged")
    assert code == 0, err
    counted = json.loads(out)
    assert [round(report["metrics"][0]["arms"][0]["mean"] * 600) for report in (plain, counted)] == [60, 150]
    flagged = plain["checks"]["flagged"]
    assert flagged["by_flag"] == {"rate": 90} and alone(flagged["primary_with"]) == alone(counted["metrics"][0])
    assert plain["decision"]["action"] == "ship" and counted["decision"]["action"] != "ship"
    assert plain["decision"]["risks"][0].startswith("Flagged events change the answer") and counted["flagged"] == "included"
