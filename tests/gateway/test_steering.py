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
minimum_units = 12
bandit = { every_minutes = 0.05, floor = 0.1 }
"""
BREACH_FILE = """
[experiments.breach]
route = "side"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
autostart = true
planned_units = 100
on_harm = "rollback"
guardrails = { zoom_rate = { margin = 0.1, direction = "down" } }
[routes.third]
serve = "base"
[experiments.climb]
route = "third"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
autostart = true
ramp = { shares = [0.1, 0.4, 0.8], step_hours = 0 }
"""


def _until(read, check, server, seconds=40.0):
    limit = time.monotonic() + seconds
    while not check(found := read()) and time.monotonic() < limit:
        time.sleep(0.1)
    assert check(found), (found, (server.folder / "server.log").read_text()[-2000:])
    return found


def _shown(client, route, count):
    """Units that were each shown a picture: (arm, generation)."""
    found = []
    for number in range(count):
        made = client.post("/v1/images/generations", json={"model": route, "prompt": "a cat", "user": f"u{number}"})
        found.append((made.headers["salon-arm"], made.json()["generation_id"]))
    return found


def test_over_http_a_bandit_moves_to_the_liked_arm_and_remembers_and_a_breached_guardrail_is_rolled_back(make_server):
    """Half of vivid's units like it and none of base's; everybody zooms in vivid, few in base."""
    server = make_server()
    text = server.config.read_text().replace("autostart = true\n", f"autostart = true\n{BANDIT_FILE}", 1)
    server.config.write_text(text + BREACH_FILE)
    server.start()
    with server.client() as client:
        state = lambda name: client.get(f"/v1/experiments/{name}").json()  # noqa: E731
        liked = [generation for number, (arm, generation) in enumerate(_shown(client, "hero", 30)) if arm == "vivid" and number % 2]
        zoomed = [generation for number, (arm, generation) in enumerate(_shown(client, "side", 66)) if arm == "vivid" or number % 9 == 0]
        events = [{"generation_id": g, "kind": kind} for kind, found in (("like", liked), ("zoom", zoomed)) for g in found]
        assert client.post("/v1/feedback", json={"events": events}).status_code == 202
        assert client.get("/v1/experiments/breach/report").json()["decision"]["action"] == "rollback"
        life = _until(lambda: state("breach"), lambda life: life["state"] == "stopped", server)
        assert life["changed_by"] == "policy" and life["why"].startswith("Guardrail zoom_rate is worse than its margin for 'vivid'")

        def climb():
            client.get("/v1/experiments/climb/report")
            return state("climb")["ramp"]

        assert _until(climb, lambda ramp: ramp["next_share"] is None, server) == {"share": 0.8, "next_share": None, "waits": ""}
        assert state("climb")["weights"] == pytest.approx({"base": 0.2, "vivid": 0.8}) and state("climb")["changed_by"] == "policy"
        weights = _until(lambda: state("colours")["weights"], lambda weights: weights["vivid"] > 0.8, server)
        assert weights["base"] >= 0.1 and "policy" not in str(client.get("/health/ready").json()["details"])
        shown = client.get("/metrics").text
        assert f'salon_arm_weight{{arm="vivid",experiment="colours"}} {weights["vivid"]}' in shown
        assert 'salon_policy_changes_total{experiment="breach",what="rollback"} 1.0' in shown
    server.stop()
    server.start()
    with server.client() as client:
        assert client.get("/v1/experiments/colours").json()["weights"] == weights
    server.stop()
    log = open_log(f"local:{server.folder / 'var/events'}")
    controls = [event for _, event in log.read(0, 10_000) if event.kind == "control"]
    log.close()
    told = [(e.experiment, e.attributes["action"], e.attributes["why"][:14]) for e in controls if e.attributes["who"] == "policy"]
    assert ("breach", "stop", "Guardrail zoom") in told and ("colours", "weights", "P(best): vivid") in told
