"""Changes of mind of a real gateway: logged once each, by whoever asks and by itself, shown with the experiment."""

import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from analytics.decision_event import past_decision
from analytics.event_log import LogFull, open_log
from analytics.events import Event
from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, WeightPeriod
from analytics.report.build import build_report
from gateway.assignment import allocate
from gateway.decisions import Decisions
from gateway.ledger import Life

METRICS = {"like_rate": Metric(kind="proportion", event="like")}
EXPERIMENT = Experiment(route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate")
LIFE = Life(name="colours", declared=EXPERIMENT, allocation=allocate("colours", EXPERIMENT.arms), state="running")


def decisions_in(folder) -> list[Event]:
    log = open_log(f"local:{folder}")
    try:
        return [event for _, event in log.read(0, 100_000) if event.kind == "decision"]
    finally:
        log.close()


class Readings:
    """Reports as a warehouse would give them over time: `likes` in each arm, `logged` so far, at an hour."""

    def __init__(self, start) -> None:
        self.start, self.hours, self.likes, self.logged = start, 1.0, (240, 250), []

    def report(self, name, experiment, metrics, as_of=None, flagged=False):
        arms = [
            ArmFacts(
                arm=arm, units=2000, generations=2000, images=2000, failures=0, latency_p50_ms=None, latency_p95_ms=None,
                variant_digest="", mean_inverse_propensity=2.0,
            )
            for arm in EXPERIMENT.arms
        ]  # fmt: skip
        shares = [likes / 2000 for likes in self.likes]
        rows = {a: Moments(n=2000, mean=p, m2=2000 * p * (1 - p)) for a, p in zip(EXPERIMENT.arms, shares, strict=True)}
        facts = ExperimentFacts(
            experiment=name, started_at=self.start, data_as_of=self.start, events_read=1, flagged_events=0, bot_units=0, late_events=0,
            multiple_exposure=0, generations_without_exposure=0, arms=arms, metrics={"like_rate": rows}, latency={},
            periods=[WeightPeriod(started_at=self.start, weights=EXPERIMENT.arms, units={"base": 2000, "vivid": 2000})],
        )  # fmt: skip
        past = [past_decision(e.event_id, e.occurred_at, e.attributes) for e in self.logged]
        at = as_of or self.start + timedelta(hours=self.hours)
        return build_report(name, experiment, metrics, msgspec.structs.replace(facts, decisions=past), at)


@pytest.fixture
def readings():
    return Readings(datetime(2026, 11, 20, 8, tzinfo=UTC))


def test_each_change_is_logged_once_before_the_warehouse_has_it_and_after(tmp_path, readings):
    log = open_log(f"local:{tmp_path}")
    decisions = Decisions(readings, log)
    assert decisions.last("colours") is None
    for hours, likes in ((1, (240, 250)), (2, (240, 251)), (3, (240, 400)), (4, (240, 401)), (5, (240, 252)), (6, (240, 400))):
        readings.hours, readings.likes = hours, likes
        decisions.report("colours", LIFE, METRICS)
        if hours >= 4:
            readings.logged = decisions_in(tmp_path)[:2]
    found = decisions_in(tmp_path)
    assert [e.attributes["action"] for e in found] == ["keep_running", "ship", "keep_running", "ship"]
    assert [e.attributes["previous"] for e in found] == ["", "keep_running", "ship vivid", "keep_running"]
    assert decisions.last("colours").told == "ship vivid"
    log.close()


def test_what_is_asked_about_the_past_or_with_flagged_events_decides_nothing(tmp_path, readings):
    log = open_log(f"local:{tmp_path}")
    decisions = Decisions(readings, log)
    decisions.report("colours", LIFE, METRICS, readings.start + timedelta(hours=1))
    decisions.report("colours", LIFE, METRICS, flagged=True)
    assert decisions_in(tmp_path) == [] and decisions.last("colours") is None
    log.close()


def test_several_gateways_tell_one_change_once(tmp_path, readings):
    """Each with its own memory, one log; the second sees it a minute later. A third that starts anew learns it from the warehouse."""
    log = open_log(f"local:{tmp_path}")
    gateways = [Decisions(readings, log) for _ in range(2)]
    for hours, likes in ((1.0, (240, 250)), (3.0, (240, 400))):
        for i, gateway in enumerate(gateways):
            readings.hours, readings.likes = hours + i / 60, likes
            gateway.report("colours", LIFE, METRICS)
    assert [e.attributes["action"] for e in decisions_in(tmp_path)] == ["keep_running", "ship"]
    readings.hours, readings.logged = 4.0, decisions_in(tmp_path)
    newcomer = Decisions(readings, log)
    newcomer.report("colours", LIFE, METRICS)
    assert len(decisions_in(tmp_path)) == 2 and newcomer.last("colours").told == "ship vivid"
    log.close()


def test_a_full_log_keeps_no_report_back_and_the_next_report_tells(tmp_path, readings):
    log = open_log(f"local:{tmp_path}")

    class Full:
        def submit(self, events, **options):
            raise LogFull(1.0, "the log is full")

    decisions = Decisions(readings, Full())
    assert decisions.report("colours", LIFE, METRICS).decision.action == "keep_running"
    assert decisions.last("colours") is None
    decisions._log = log
    decisions.report("colours", LIFE, METRICS)
    assert len(decisions_in(tmp_path)) == 1
    log.close()


def test_judging_goes_on_past_an_experiment_that_cannot_be_read(tmp_path, readings):
    log = open_log(f"local:{tmp_path}")
    decisions = Decisions(readings, log)
    broken = msgspec.structs.replace(LIFE, name="broken", declared=msgspec.structs.replace(EXPERIMENT, primary="gone"))
    done = msgspec.structs.replace(LIFE, name="done", state="stopped")
    decisions.judge([broken, done, LIFE], METRICS)
    assert [e.experiment for e in decisions_in(tmp_path)] == ["colours"]
    log.close()


def test_a_gateway_judges_by_itself_and_shows_it(make_server):
    server = make_server()
    server.config.write_text(server.config.read_text().replace("[variants.base]", "judge_every_minutes = 0.03\n[variants.base]", 1))
    server.start()
    with server.client() as client:
        assert client.post("/v1/images/generations", json={"model": "hero", "prompt": "a cat", "user": "u"}).status_code == 200
        limit = time.monotonic() + 30
        while (decision := client.get("/v1/experiments/colours").json()["decision"]) is None and time.monotonic() < limit:
            time.sleep(0.2)
        assert decision["action"] == "keep_running" and "nothing is judged before" in decision["reason"] and decision["at"]
        listed = {each["name"]: each["decision"] for each in client.get("/v1/experiments").json()["experiments"]}
        assert listed == {"colours": decision, "colours-two": None}
        for _ in range(2):
            report = client.get("/v1/experiments/colours/report").json()
        assert [past["action"] for past in report["decision"]["history"]] == ["keep_running"]
    server.stop()
    assert [e.experiment for e in decisions_in(server.folder / "var/events")] == ["colours"]
