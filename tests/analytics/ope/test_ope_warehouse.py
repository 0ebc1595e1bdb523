"""`salon ope EXPERIMENT` against plain Python over the same events: a bandit's units by arm, logged propensity and context."""

import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ope_cases import ope, ope_json, policy

from analytics.event_log import open_log
from analytics.events import Event, control_event, derived_id

START = datetime.now(UTC) - timedelta(days=3)
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
cap = "p95"
covariate_days = 5
[metrics.ctr]
kind = "ratio"
event = "click"
denominator = "view"
[experiments.moving]
route = "hero"
design = "bandit"
arms = { base = 0.5, vivid = 0.3, calm = 0.2 }
control = "base"
primary = "like_rate"
secondary = ["spend", "ctr"]
[experiments.grown]
route = "hero"
design = "bandit"
arms = { base = 0.5, vivid = 0.5, late = 0.0 }
control = "base"
primary = "like_rate"
[experiments.grid]
route = "hero"
design = "interleave"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
[experiments.empty]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
"""
STAGES = ({"base": 0.5, "vivid": 0.3, "calm": 0.2}, {"base": 0.2, "vivid": 0.7, "calm": 0.1}, {"base": 0.05, "vivid": 0.9, "calm": 0.05})
RATES = {"base": 0.2, "vivid": 0.4, "calm": 0.3}


def made() -> tuple[list[dict[str, Any]], list[Event]]:
    """900 people over three stages of weights; 9 of them without a propensity."""
    chance = random.Random(8)
    people, found = [], []
    for number in range(900):
        weights = STAGES[number * 3 // 900]
        arm = chance.choices(list(weights), list(weights.values()))[0]
        at = START + timedelta(minutes=number)
        country = chance.choice(["de", "fr", ""])
        likes = chance.random() < RATES[arm] * (1.5 if country == "fr" else 1.0)
        spent = chance.expovariate(1 / 10) if likes else 0.0
        propensity = None if number % 100 == 50 else weights[arm]
        people.append({"arm": arm, "chance": propensity, "country": country, "likes": float(likes), "spent": spent})
        common: dict[str, Any] = {"route": "hero", "experiment": "moving", "arm": arm, "unit": f"u{number}", "variant_digest": "d"}

        def add(kind: str, minutes: float, at: datetime = at, common: dict[str, Any] = common, **fields: Any) -> None:
            when = at + timedelta(minutes=minutes)
            identity = derived_id(when, common["unit"], kind)
            found.append(Event(event_id=identity, kind=kind, occurred_at=when, received_at=when, **common, **fields))

        add("exposure", 0, propensity=propensity, attributes={"country": country} if country else {})
        if likes:
            add("like", 1)
            add("convert", 2, value=spent)
    return people, found


def grown() -> list[Event]:
    """400 people over base and vivid, then 400 over three arms; everybody who gets `late` likes it, of the others every fourth."""
    chance, at, found = random.Random(4), START, []
    for action, when, weights in (("start", START, EARLIER), ("weights", START + timedelta(minutes=400.5), LATER)):
        event = control_event("grown", "hero", action, "ada", "", {"weights": weights})
        found.append(msgspec.structs.replace(event, event_id=derived_id(when, action), occurred_at=when, received_at=when))
    for number in range(800):
        weights = EARLIER if number <= 400 else LATER
        arm = chance.choices(list(weights), list(weights.values()))[0]
        at = START + timedelta(minutes=number)
        common: dict[str, Any] = {"route": "hero", "experiment": "grown", "arm": arm, "unit": f"g{number}", "propensity": weights[arm]}
        for kind in ("exposure", "like") if arm == "late" or number % 4 == 0 else ("exposure",):
            identity = derived_id(at, f"g{number}", kind)
            found.append(Event(event_id=identity, kind=kind, occurred_at=at, received_at=at, variant_digest="d", **common))
    return found


EARLIER = {"base": 0.5, "vivid": 0.5, "late": 0.0}
LATER = {"base": 0.3, "vivid": 0.2, "late": 0.5}
PEOPLE, EVENTS = made()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("salon")
    (home / "salon.toml").write_text(CONFIG)
    log = open_log(f"local:{home}/var/events")
    log.submit([*EVENTS, *grown()]).result()
    log.close()
    return home / "salon.toml"


def by_hand(
    reward: str, wanted: dict[tuple[str, ...], float], by_country: bool, cap: float = math.inf
) -> tuple[float, float, float, float]:
    counted = [p for p in PEOPLE if p["chance"] is not None]
    w = np.array([wanted.get((p["arm"], p["country"] or "(none)") if by_country else (p["arm"],), 0.0) / p["chance"] for p in counted])
    y = np.minimum([p[reward] for p in counted], cap)
    snips = (w @ y) / w.sum()
    return (w * y).mean(), (w * y).std(ddof=1) / len(y) ** 0.5, snips, math.sqrt(((w * (y - snips)) ** 2).sum()) / w.sum()


def test_the_primary_metric_of_a_bandit(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {("base",): 0.1, ("vivid",): 0.6, ("calm",): 0.3}
    found = ope_json(capsys, "moving", "--policy", policy(tmp_path / "p.csv", wanted, ("arm",)), "--config", config)
    ips, ips_se, snips, snips_se = by_hand("likes", wanted, by_country=False)
    values = {each["estimator"]: each for each in found["estimates"]}
    assert values["ips"]["value"] == pytest.approx(ips, rel=1e-9) and values["ips"]["se"] == pytest.approx(ips_se, rel=1e-9)
    assert values["snips"]["value"] == pytest.approx(snips, rel=1e-9) and values["snips"]["se"] == pytest.approx(snips_se, rel=1e-9)
    assert abs(values["dr"]["value"] - ips) < 2 * ips_se
    assert found["n"] == 891 and found["rows"] == "units" and found["overlap"]["ok"]
    assert any("9 units without a logged propensity" in note for note in found["notes"])


def test_another_metric_with_its_cap_by_a_context(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {("vivid", "fr"): 1.0, ("calm", "de"): 0.5, ("base", "de"): 0.5, ("vivid", "(none)"): 0.5, ("calm", "(none)"): 0.5}
    table = policy(tmp_path / "p.csv", wanted, ("action", "country"))
    found = ope_json(capsys, "moving", "--metric", "spend", "--policy", table, "--config", config)
    cap = float(np.quantile([p["spent"] for p in PEOPLE], 0.95))
    ips, ips_se, snips, _ = by_hand("spent", wanted, by_country=True, cap=cap)
    values = {each["estimator"]: each for each in found["estimates"]}
    assert values["ips"]["value"] == pytest.approx(ips, rel=1e-9) and values["ips"]["se"] == pytest.approx(ips_se, rel=1e-9)
    assert values["snips"]["value"] == pytest.approx(snips, rel=1e-9)


def test_an_arm_added_in_the_middle(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who came before it tells nothing of a policy that wants it, and all of one that does not."""
    wanted = policy(tmp_path / "p.csv", {("late",): 0.9, ("base",): 0.1}, ("arm",))
    found = ope_json(capsys, "grown", "--policy", wanted, "--config", config)
    assert found["n"] == 399 and found["overlap"]["ok"] is True
    assert any("401 units that came while not every arm" in note for note in found["notes"])
    snips = found["estimates"][1]
    assert abs(snips["value"] - (0.9 + 0.1 * 0.25)) < 3 * snips["se"]
    spared = policy(tmp_path / "q.csv", {("vivid",): 0.5, ("base",): 0.5}, ("arm",))
    assert ope_json(capsys, "grown", "--policy", spared, "--config", config)["n"] == 800


def test_a_variant_never_served_and_what_cannot_be_asked(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = policy(tmp_path / "new.csv", {("vivid",): 0.5, ("brand-new",): 0.5}, ("arm",))
    found = ope_json(capsys, "moving", "--policy", new, "--config", config)
    assert found["overlap"]["missing"] == ["brand-new"] and found["estimates"] == []

    def said(*argv: object) -> str:
        code, out, err = ope(capsys, *argv, "--policy", new, "--config", config)
        assert code == 2 and not out
        return err

    assert 'of design = "interleave": one grid holds pictures of several arms' in said("grid")
    assert "no unit of 'empty' has been exposed yet" in said("empty")
    assert "'ctr' is a ratio" in said("moving", "--metric", "ctr")
    assert "did you mean 'like_rate'?" in said("moving", "--metric", "like_rat")
    assert "did you mean 'moving'?" in said("movin")
    strange = policy(tmp_path / "s.csv", {("vivid", "x"): 1.0}, ("arm", "planet"))
    assert "no exposure of 'moving' has in its context" in ope(capsys, "moving", "--policy", strange, "--config", config)[2]
