"""`salon power` on a real log and warehouse: from a route's past, and for an experiment that runs."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from analytics.event_log import open_log
from analytics.events import Event, derived_id
from analytics.power.text import NAMES
from salon.cli import main

NOW = datetime.now(UTC)
START = NOW - timedelta(days=10)
CONFIG = """
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
window_hours = 24
[metrics.spend]
kind = "mean"
event = "convert"
[experiments.vivid-colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
secondary = ["spend"]
planned_units = 2000
guardrails = { latency_p95_ms = { margin = 0.20, direction = "down" } }
[experiments.empty]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
"""
UNITS = 300


def events() -> list[Event]:
    """300 units an arm, 60 of the base and 75 of the vivid one like something; everybody comes once, 60 a day."""
    rng = np.random.default_rng(4)
    found: list[Event] = []
    for arm, likes in (("base", 60), ("vivid", 75)):
        for i in range(UNITS):
            at = START + timedelta(days=10 * (i + 0.5) / UNITS, minutes=arm == "vivid")
            common: dict[str, Any] = {
                "route": "hero", "experiment": "vivid-colours", "arm": arm, "unit": f"{arm}{i}", "propensity": 0.5, "variant_digest": "d",
            }  # fmt: skip

            def add(kind: str, minutes: float, at: datetime = at, common: dict[str, Any] = common, **fields: Any) -> None:
                when = at + timedelta(minutes=minutes)
                event_id = derived_id(when, common["unit"], kind)
                found.append(Event(event_id=event_id, kind=kind, occurred_at=when, received_at=when, **common, **fields))

            add("exposure", 0)
            add("generation", 0.001, generation_id=derived_id(at, arm), status="ok", queue_ms=1.0, service_ms=float(rng.gamma(16, 25)))
            if i % 5 == 0 or (arm == "vivid" and i % 20 == 1):
                add("like", 1)
            add("convert", 2, value=float(rng.exponential(5)))
        assert sum(e.kind == "like" and e.arm == arm for e in found) == likes
    return found


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("salon")
    (home / "salon.toml").write_text(CONFIG)
    log = open_log(f"local:{home}/var/events")
    log.submit(events()).result()
    log.close()
    return home / "salon.toml"


def salon(config: Path, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(["power", *argv, "--config", str(config)])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_from_a_routes_past(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = salon(config, capsys, "--route", "hero", "--metric", "like_rate", "--mde", "20%", "--format", "json")
    assert code == 0, err
    plan = json.loads(out)
    # The last day of units is still within the metric's window of 24 hours: of 9 whole days, 8 are measured.
    assert plan["baseline"] == pytest.approx(135 / 600, abs=0.01) and plan["kind"] == "proportion"
    assert len(plan["arrivals"]["cumulative"]) == 9 and plan["arrivals"]["cumulative"][-1] == pytest.approx(540, abs=3)
    p, q = plan["baseline"], plan["baseline"] * 1.1
    z, zp = 1.959964, 0.841621
    top = z * math.sqrt(2 * q * (1 - q)) + zp * math.sqrt(p * (1 - p) + 1.2 * p * (1 - 1.2 * p))
    assert plan["designs"][0]["units_per_arm"]["control"] == math.ceil((top / (0.2 * p)) ** 2)
    # 60 new units a day, and a day more for the last one's window.
    assert plan["designs"][0]["days"] == pytest.approx(plan["designs"][0]["units"] / 60 + 1, rel=0.05)
    assert plan["designs"][0]["extrapolated"] and "like_rate" in plan["metric"]


def test_of_a_running_experiment(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = salon(config, capsys, "--experiment", "vivid-colours", "--mde", "20%", "--format", "json")
    assert code == 0, err
    plan = json.loads(out)
    ahead = plan["ahead"]
    assert (ahead["units"], ahead["pair_units"], plan["baseline"]) == (600, 600, pytest.approx(0.2))
    se = math.sqrt(0.2 * 0.8 / 300 + 0.25 * 0.75 / 300)
    assert ahead["se"] == pytest.approx(se, rel=1e-9) and ahead["difference"] == pytest.approx(0.05)
    # Notes: power = Φ((MDE - half)/se_f) + Φ(-(MDE + half)/se_f), se_f = se/√(1 + f), half = z se_f.
    growth = ahead["fixed"]["growth"]
    left = se / math.sqrt(1 + growth)
    assert norm.cdf((0.04 - 1.959964 * left) / left) + norm.cdf(-(0.04 + 1.959964 * left) / left) == pytest.approx(0.8, abs=1e-5)
    assert ahead["fixed"]["extra_units"] == math.ceil(600 * growth)
    assert ahead["fixed"]["extra_days"] == pytest.approx(600 * growth / 60, rel=0.05)
    assert ahead["always_valid"]["extra_units"] > ahead["fixed"]["extra_units"]
    assert ahead["always_valid"]["power_now"] < ahead["fixed"]["power_now"] < ahead["fixed"]["at_planned"]
    code, out, err = salon(config, capsys, "--experiment", "vivid-colours", "--metric", "latency_p95_ms")
    assert code == 0, err
    assert "no worse than 20.0% above it" in out and "So far 600 units in 10.0 days" in out and NAMES["always_valid"] in out
    code, _, err = salon(config, capsys, "--experiment", "vivid-colour")
    assert code == 2 and "did you mean 'vivid-colours'?" in err


def test_what_cannot_be_read(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        (("--route", "her", "--metric", "like_rate", "--mde", "5%"), "did you mean 'hero'?"),
        (("--route", "hero", "--metric", "like", "--mde", "5%"), "did you mean 'like_rate'?"),
        (("--route", "hero", "--mde", "5%"), "--metric is missing"),
        (("--route", "hero", "--metric", "like_rate", "--baseline", "0.1"), "--baseline comes from the warehouse"),
        (("--experiment", "vivid-colours", "--arms", "3"), "--arms is the experiment's own"),
        (("--experiment", "x", "--route", "hero"), "two sources"),
        (("--experiment", "empty", "--mde", "5%"), "0 units in the history"),
    ):
        code, _, err = salon(config, capsys, *argv)
        assert code == 2 and message in err, err
