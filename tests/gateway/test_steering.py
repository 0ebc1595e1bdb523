"""Policies of a gateway: when they look, what they change, what keeps them; and a bandit over HTTP that moves and remembers."""

import asyncio
import time
from datetime import timedelta

import msgspec
import pytest

from analytics.designs import Bandit, Duel
from analytics.event_log import open_log
from analytics.events import utc_now
from analytics.experiment import Experiment, Metric
from analytics.inference.adaptive import AllocationPeriod, ArmState
from gateway import steering
from gateway.changes import Draft, reweigh
from gateway.ledger import Ledger
from gateway.metrics import Metrics
from gateway.policies import due_at, move
from gateway.problems import Unavailable
from gateway.steering import Steering

METRICS = {"like_rate": Metric(kind="proportion", event="like"), "report_rate": Metric(kind="proportion", event="report", direction="down")}
BANDIT = Experiment(
    route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate", design="bandit", bandit=Bandit(maturity_hours=2)
)
DUEL = Experiment(
    route="hero", arms={"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}, control="a", primary="like_rate", design="duel",
    duel=Duel(pairs="active", every_minutes=5),
)  # fmt: skip


def started(declared, minutes_ago=120.0):
    """A running experiment, last weighed some minutes ago, in a draft of its own."""
    draft = Draft(Ledger())
    draft.record("colours", "hero", "create", "me", "", {"definition": declared, "origin": "config"})
    draft.record("colours", "hero", "start", "me", "", {"weights": declared.arms, "variants": {}})
    life = msgspec.structs.replace(draft.ledger.lives["colours"], weighed_at=(utc_now() - timedelta(minutes=minutes_ago)).isoformat())
    draft.ledger = msgspec.structs.replace(draft.ledger, lives={"colours": life})
    draft.events.clear()
    return draft


class Known:
    """Reports that know these outcomes: `likes` of 1,000 units in each arm, or these votes."""

    def __init__(self, likes=(100, 170), votes=None) -> None:
        self.likes, self.votes, self.asked, self.away = likes, votes, [], False

    def mature(self, name, experiment, metrics, exposed_before):
        self.asked.append(exposed_before)
        if self.away:
            raise Unavailable("there are no reports now: the warehouse is being opened")
        arms = {arm: ArmState(n=1000, s1=n, s2=n, propensity=0.5) for arm, n in zip(("base", "vivid"), self.likes, strict=True)}
        return [AllocationPeriod(units=2000, arms=arms)]

    def duels(self, name, experiment, metrics):
        return self.votes


class Host:
    """The experiments and decisions that steering needs, over one draft."""

    def __init__(self, draft) -> None:
        self.draft, self.judged, self.heard = draft, 0, None

    @property
    def lives(self):
        return self.draft.ledger.lives

    async def steer(self, decide):
        once = Draft(self.draft.ledger)
        decide(once)
        self.draft.ledger = once.ledger
        self.draft.events += once.events
        return once

    def judge(self, lives, metrics):
        self.judged += 1


class Told:
    """The part of a configuration that steering reads."""

    metrics = METRICS

    class gateway:
        judge_every_minutes = 60.0


def test_a_bandit_is_due_so_long_after_its_weights_were_set_and_not_while_it_is_paused():
    life = started(BANDIT, minutes_ago=59).ledger.lives["colours"]
    assert utc_now() < due_at(life) < utc_now() + timedelta(minutes=1.5)
    assert due_at(msgspec.structs.replace(life, state="paused")) is None
    assert due_at(started(msgspec.structs.replace(BANDIT, design="ab", bandit=None)).ledger.lives["colours"]) is None
    assert due_at(started(msgspec.structs.replace(DUEL, duel=None)).ledger.lives["colours"]) is None
    assert due_at(started(DUEL).ledger.lives["colours"]) is not None


def test_weights_move_by_the_policy_with_why_and_mature_units_alone_are_read():
    draft, known, now = started(BANDIT), Known(), utc_now()
    decide = move(draft.ledger.lives["colours"], known, METRICS, now)
    assert known.asked == [now - timedelta(hours=2)]
    decide(draft)
    (event,) = draft.events
    assert (event.attributes["action"], event.attributes["who"]) == ("weights", "policy")
    assert event.attributes["why"].startswith("P(best): vivid 1.00, base 0.00")
    assert draft.ledger.lives["colours"].allocation.weights["vivid"] == pytest.approx(0.95, abs=1e-4)


def test_of_two_gateways_one_moves_the_weights_and_a_persons_change_wins():
    draft = started(BANDIT)
    life = draft.ledger.lives["colours"]
    first, second = (move(life, Known(), METRICS, utc_now()) for _ in range(2))
    first(draft)
    second(draft)
    assert len(draft.events) == 1
    draft = started(BANDIT)
    late = move(draft.ledger.lives["colours"], Known(), METRICS, utc_now())
    reweigh(draft, "colours", {"base": 0.6, "vivid": 0.4}, "me", "by hand")
    late(draft)
    assert draft.ledger.lives["colours"].allocation.weights == {"base": 0.6, "vivid": 0.4}


def test_a_duel_asks_more_often_about_the_open_pair_and_a_change_of_weights_forgets_it(monkeypatch):
    draft = started(DUEL)
    pairs = {"a|b": 0.5, "a|c": 0.1, "a|d": 0.1, "b|c": 0.1, "b|d": 0.1, "c|d": 0.1}
    monkeypatch.setattr(
        "analytics.policy.pairs.next_pairs", lambda votes, arms, floor: pairs if (arms, floor) == (["a", "b", "c", "d"], 0.2) else None
    )
    move(draft.ledger.lives["colours"], Known(votes="votes"), METRICS, utc_now())(draft)
    life = draft.ledger.lives["colours"]
    assert life.pairs == pairs and life.who == "policy" and "a|b 0.5" in life.why
    assert move(life, Known(votes="votes"), METRICS, utc_now()) is None
    assert move(life, Known(votes=None), METRICS, utc_now()) is None
    reweigh(draft, "colours", {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}, "me", "")
    assert draft.ledger.lives["colours"].pairs == {}


def test_a_look_moves_what_is_due_waits_after_no_news_and_says_what_keeps_it(monkeypatch):
    draft, known, metrics = started(BANDIT), Known(likes=(100, 100)), Metrics()
    host = Host(draft)
    watch = Steering(host, known, host, metrics, Told)
    asyncio.run(watch.look())
    asyncio.run(watch.look())
    assert len(known.asked) == 1 and not draft.events and not watch.problems
    monkeypatch.setattr(watch, "_again", {})
    known.away = True
    asyncio.run(watch.look())
    assert "the warehouse is being opened" in watch.problems["colours"] and not draft.events
    assert b'salon_policy_held{experiment="colours"} 1.0' in metrics.text()
    assert 0 < watch._again["colours"] - time.monotonic() <= steering.SOONEST_SECONDS
    monkeypatch.setattr(watch, "_again", {})
    known.away, known.likes = False, (100, 170)
    asyncio.run(watch.look())
    assert not watch.problems and len(draft.events) == 1
    shown = metrics.text().decode()
    assert 'salon_policy_changes_total{experiment="colours",what="weights"} 1.0' in shown
    assert 'salon_arm_weight{arm="vivid",experiment="colours"} 0.9' in shown and 'salon_policy_held{experiment="colours"} 0.0' in shown


def test_only_experiments_that_a_report_may_change_are_judged_every_minute(monkeypatch):
    for declared, judged in ((BANDIT, 0), (msgspec.structs.replace(BANDIT, on_harm="rollback"), 1)):
        host = Host(started(declared, minutes_ago=1))
        watch = Steering(host, Known(), host, Metrics(), Told)
        for _ in range(3):
            asyncio.run(watch.look())
        assert host.judged == judged


def test_one_experiment_that_fails_does_not_keep_the_others(monkeypatch):
    draft = started(BANDIT)
    broken = msgspec.structs.replace(draft.ledger.lives["colours"], name="broken", declared=msgspec.structs.replace(BANDIT, primary="gone"))
    draft.ledger = msgspec.structs.replace(draft.ledger, lives={"broken": broken, **draft.ledger.lives})
    host = Host(draft)
    watch = Steering(host, Known(), host, Metrics(), Told)
    asyncio.run(watch.look())
    assert "KeyError" in watch.problems["broken"] and len(draft.events) == 1


BANDIT_FILE = """
design = "bandit"
minimum_units = 20
bandit = { every_minutes = 0.1, floor = 0.1 }
"""


def test_a_bandit_over_http_moves_to_the_arm_that_is_liked_and_remembers_after_a_restart(make_server):
    server = make_server()
    text = server.config.read_text()
    server.config.write_text(text.replace("autostart = true\n", f"autostart = true\n{BANDIT_FILE}", 1))
    server.start()

    def until(client, check, seconds=40.0):
        limit = time.monotonic() + seconds
        while not check(weights := client.get("/v1/experiments/colours").json()["weights"]) and time.monotonic() < limit:
            time.sleep(0.1)
        assert check(weights), (weights, client.get("/health/ready").json(), (server.folder / "server.log").read_text()[-2000:])
        return weights

    with server.client() as client:
        events = []
        for number in range(80):
            made = client.post("/v1/images/generations", json={"model": "hero", "prompt": "a cat", "user": f"u{number}"})
            if made.headers["salon-arm"] == "vivid" and number % 2:
                events.append(
                    {"generation_id": made.json()["generation_id"], "image_id": made.json()["data"][0]["image_id"], "kind": "like"}
                )
        assert client.post("/v1/feedback", json={"events": events}).status_code == 202
        weights = until(client, lambda weights: weights["vivid"] > 0.85)
        assert weights["base"] >= 0.1 and "policy" not in str(client.get("/health/ready").json()["details"])
        shown = client.get("/metrics").text
        assert f'salon_arm_weight{{arm="vivid",experiment="colours"}} {weights["vivid"]}' in shown
    server.stop()
    server.start()
    with server.client() as client:
        assert client.get("/v1/experiments/colours").json()["weights"] == weights
    server.stop()
    log = open_log(f"local:{server.folder / 'var/events'}")
    controls = [event.attributes for _, event in log.read(0, 10_000) if event.kind == "control" and event.experiment == "colours"]
    log.close()
    moved = [control for control in controls if control["action"] == "weights"]
    assert moved and all(control["who"] == "policy" and control["why"].startswith("P(best): vivid ") for control in moved)


BREACH_FILE = """
minimum_units = 10
planned_units = 100
on_harm = "rollback"
guardrails = { zoom_rate = { margin = 0.1, direction = "down" } }
"""


def test_a_breached_guardrail_is_rolled_back_as_soon_as_a_report_says_so(make_server):
    """Everybody zooms in vivid and nobody in base; the first report after it stops the experiment, with the breach as why."""
    server = make_server()
    text = server.config.read_text()
    server.config.write_text(text.replace("autostart = true\n", f"autostart = true\n{BREACH_FILE}", 1))
    server.start()
    with server.client() as client:
        for number in range(110):
            made = client.post("/v1/images/generations", json={"model": "hero", "prompt": "a cat", "user": f"u{number}"})
            arm = made.headers.get("salon-arm")
            if arm == "vivid" or number % 10 == 0:
                client.post("/v1/feedback", json={"generation_id": made.json()["generation_id"], "kind": "zoom"})
        assert client.get("/v1/experiments/colours/report").json()["decision"]["action"] == "rollback"
        limit = time.monotonic() + 10
        while (life := client.get("/v1/experiments/colours").json())["state"] == "running" and time.monotonic() < limit:
            time.sleep(0.1)
        assert (life["state"], life["changed_by"]) == ("stopped", "policy")
        assert life["why"].startswith("Guardrail zoom_rate is worse than its margin for 'vivid'")
        assert 'salon_policy_changes_total{experiment="colours",what="rollback"} 1.0' in client.get("/metrics").text
    server.stop()
