"""What a report does by itself: ramps step by step, winners shipped, harm rolled back; and what somebody changed since wins."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from analytics.designs import Bandit, Ramp
from analytics.experiment import Experiment, Guardrail, Metric
from analytics.facts import ArmFacts, ExperimentFacts, Moments, WeightPeriod
from analytics.report.build import build_report
from analytics.settings import Document
from gateway import changes
from gateway.changes import Draft
from gateway.config import load
from gateway.ledger import Ledger
from gateway.ramps import first_weights, next_share, why_not_yet
from gateway.verdicts import carry_out, rolls_back, verdict

CONFIG = load(Document(None, '[variants.base]\nmodel = "salon/emoji-64"\n[routes.hero]\nserve = "base"\n', {}))
METRICS = {"like_rate": Metric(kind="proportion", event="like"), "report_rate": Metric(kind="proportion", event="report", direction="down")}
PLAIN = Experiment(
    route="hero", arms={"base": 0.5, "vivid": 0.5}, control="base", primary="like_rate",
    guardrails={"report_rate": Guardrail(margin=0.5, direction="down")}, planned_units=1_000_000,
)  # fmt: skip
RAMPED = msgspec.structs.replace(PLAIN, ramp=Ramp(shares=(0.05, 0.2, 0.5), step_hours=2, step_units=500))


def started(declared, origin="config"):
    """A running experiment in a draft of its own."""
    draft = Draft(Ledger())
    draft.record("colours", "hero", "create", "me", "", {"definition": declared, "origin": origin})
    changes.act(draft, CONFIG, "colours", "start", "me", "", None)
    return draft


def life_in(draft):
    return draft.ledger.lives["colours"]


def report_on(life, likes=None, reports=None, units=8000, hours=3.0):
    """The report `hours` after the last change: shares of units that liked and that reported, per arm; a control's are 0.12 and 0.02."""
    weights = life.allocation.weights
    at = datetime.fromisoformat(life.weighed_at) + timedelta(hours=hours)
    rows, total = {}, {}
    for arm, weight in weights.items():
        n = total[arm] = round(units * weight) if weight > 0 else round(units * 0.3)
        shares = {"like_rate": (likes or {}).get(arm, 0.12), "report_rate": (reports or {}).get(arm, 0.02)}
        for name, p in shares.items():
            rows.setdefault(name, {})[arm] = Moments(n=n, mean=p, m2=n * p * (1 - p))
    arms = [
        ArmFacts(
            arm=arm, units=total[arm], generations=total[arm], images=total[arm], failures=0, latency_p50_ms=None, latency_p95_ms=None,
            variant_digest="", mean_inverse_propensity=None,
        )
        for arm in weights
    ]  # fmt: skip
    periods = [WeightPeriod(started_at=at, weights=weights, units={arm: n if weights[arm] else 0 for arm, n in total.items()})]
    facts = ExperimentFacts(
        experiment="colours", started_at=datetime.fromisoformat(life.started_at), data_as_of=at, events_read=1, flagged_events=0,
        bot_units=0, late_events=0, multiple_exposure=0, generations_without_exposure=0, arms=arms, metrics=rows, latency={},
        periods=periods,
    )  # fmt: skip
    return build_report("colours", life.experiment, METRICS, facts, at)


def done(draft, report):
    """The control events that a report makes by itself, as (action, who), and the state after."""
    found = verdict(life_in(draft), report, report.as_of)
    before = len(draft.events)
    if found is not None:
        carry_out(draft, CONFIG, found)
    return [(event.attributes["action"], event.attributes["who"]) for event in draft.events[before:]], life_in(draft)


def test_a_ramp_starts_at_its_first_share_whatever_the_weights_say_and_goes_up_while_its_guardrails_hold():
    draft = started(RAMPED)
    assert life_in(draft).allocation.weights == {"base": 0.95, "vivid": 0.05}
    # Too few units for the guardrail to hold at any look, though nothing is wrong.
    small = report_on(life_in(draft), units=11_000)
    assert "guardrail report_rate is not yet shown to hold" in why_not_yet(life_in(draft), small, small.as_of)
    assert done(draft, small)[0] == []
    for share in (0.2, 0.5):
        early = report_on(life_in(draft), units=400_000, hours=1)
        assert "hours are left" in why_not_yet(life_in(draft), early, early.as_of) and done(draft, early)[0] == []
        events, life = done(draft, report_on(life_in(draft), reports={"vivid": 0.018}, units=400_000))
        assert events == [("weights", "policy")] and life.allocation.weights["vivid"] == pytest.approx(share)
        assert "every guardrail holds at any look" in life.why and f"{share:g} of the traffic" in life.why
    assert next_share(life) is None and done(draft, report_on(life, units=400_000))[0] == []


def test_a_step_waits_for_its_units():
    life = life_in(started(RAMPED))
    few = report_on(life, units=9_000)
    assert why_not_yet(life, few, few.as_of) == "arm 'vivid' has 450 of 500 units"


def test_challengers_ramp_by_their_declared_weights_and_alike_where_these_are_0():
    three = msgspec.structs.replace(RAMPED, arms={"base": 0.4, "vivid": 0.2, "pale": 0.4})
    assert first_weights(three) == pytest.approx({"base": 0.95, "vivid": 0.05 / 3, "pale": 0.1 / 3})
    assert first_weights(msgspec.structs.replace(three, arms={"base": 1.0, "vivid": 0.0, "pale": 0.0})) == pytest.approx(
        {"base": 0.95, "vivid": 0.025, "pale": 0.025}
    )
    assert first_weights(PLAIN) is None


def test_after_a_persons_change_the_ramp_goes_on_from_the_next_larger_share_and_not_from_nothing():
    draft = started(RAMPED)
    changes.reweigh(draft, "colours", {"base": 0.7, "vivid": 0.3}, "me", "bold")
    assert next_share(life_in(draft)) == 0.5
    changes.reweigh(draft, "colours", {"base": 1.0, "vivid": 0.0}, "me", "halt")
    assert next_share(life_in(draft)) is None


def test_a_breach_takes_the_only_challengers_experiment_away_at_once():
    draft = started(RAMPED)
    events, life = done(draft, report_on(life_in(draft), reports={"vivid": 0.2}, units=40_000, hours=0.1))
    assert events == [("stop", "policy")] and life.state == "stopped"
    assert life.why.startswith("Guardrail report_rate is worse than its margin for 'vivid'")


def test_one_harmful_arm_of_two_loses_its_weight_to_the_control_and_the_other_goes_on():
    draft = started(msgspec.structs.replace(RAMPED, arms={"base": 0.4, "vivid": 0.3, "pale": 0.3}))
    report = report_on(life_in(draft), reports={"vivid": 0.2}, units=400_000)
    events, life = done(draft, report)
    assert events == [("weights", "policy")] and life.allocation.weights == pytest.approx({"base": 0.975, "vivid": 0.0, "pale": 0.025})
    # The harm stays in the report, and is no reason to hold the others.
    later = report_on(life, reports={"vivid": 0.2, "pale": 0.018}, units=400_000)
    assert later.decision.action == "keep_running" and any("'vivid'" in risk for risk in later.decision.risks)
    events, life = done(draft, later)
    assert events == [("weights", "policy")] and life.allocation.weights == pytest.approx({"base": 0.95, "vivid": 0.0, "pale": 0.05})


def test_both_harmful_arms_end_it():
    draft = started(msgspec.structs.replace(RAMPED, arms={"base": 0.4, "vivid": 0.3, "pale": 0.3}))
    report = report_on(life_in(draft), reports={"vivid": 0.2, "pale": 0.15}, units=400_000)
    assert done(draft, report)[0] == [("stop", "policy")]


def test_harm_is_rolled_back_by_itself_where_asked_or_where_the_experiment_moves_by_itself_or_judges_a_candidate():
    said = {
        "ramp": RAMPED,
        "ship": msgspec.structs.replace(PLAIN, on_win="ship"),
        "asked": msgspec.structs.replace(PLAIN, on_harm="rollback"),
    }
    assert all(rolls_back(life_in(started(declared))) for declared in said.values())
    assert rolls_back(life_in(started(PLAIN, origin="round"))) and not rolls_back(life_in(started(PLAIN)))
    assert not rolls_back(life_in(started(msgspec.structs.replace(RAMPED, on_harm="ask"))))
    draft = started(PLAIN)
    assert done(draft, report_on(life_in(draft), reports={"vivid": 0.2}))[0] == []


def test_a_winner_is_shipped_where_asked_with_the_reports_reason():
    draft = started(msgspec.structs.replace(PLAIN, on_win="ship"))
    events, life = done(draft, report_on(life_in(draft), likes={"vivid": 0.3}))
    assert events == [("ship", "policy")] and life.state == "shipped" and life.arm == "vivid"
    assert "'vivid' is better than 'base'" in life.why
    ask = started(PLAIN)
    assert done(ask, report_on(life_in(ask), likes={"vivid": 0.3}))[0] == []


def test_a_ramp_ships_only_once_its_guardrails_hold():
    draft = started(msgspec.structs.replace(RAMPED, on_win="ship"))
    unknown = report_on(life_in(draft), likes={"vivid": 0.3}, units=20_000, hours=1)
    assert unknown.decision.action == "ship" and done(draft, unknown)[0] == []
    assert done(draft, report_on(life_in(draft), likes={"vivid": 0.3}, reports={"vivid": 0.018}, units=400_000, hours=1))[0] == [
        ("ship", "policy")
    ]


def test_what_changed_since_the_report_wins():
    for change in ("weights", "stop", "pause"):
        draft = started(msgspec.structs.replace(PLAIN, on_win="ship"))
        report = report_on(life_in(draft), likes={"vivid": 0.3})
        found = verdict(life_in(draft), report, report.as_of)
        if change == "weights":
            changes.reweigh(draft, "colours", {"base": 0.4, "vivid": 0.6}, "me", "")
        else:
            changes.act(draft, CONFIG, "colours", change, "me", "", None)
        before = len(draft.events)
        carry_out(draft, CONFIG, found)
        assert len(draft.events) == before, change
    # Harm is rolled back from whatever the weights are now, once.
    draft = started(RAMPED)
    report = report_on(life_in(draft), reports={"vivid": 0.2}, units=40_000)
    found = verdict(life_in(draft), report, report.as_of)
    changes.reweigh(draft, "colours", {"base": 0.5, "vivid": 0.5}, "me", "")
    carry_out(draft, CONFIG, found)
    carry_out(draft, CONFIG, found)
    assert life_in(draft).state == "stopped" and sum(event.attributes["who"] == "policy" for event in draft.events) == 1


def test_a_bandit_whose_caps_leave_no_room_without_the_harmful_arm_stops():
    arms = {"base": 0.4, "vivid": 0.3, "pale": 0.3}
    bandit = msgspec.structs.replace(PLAIN, design="bandit", arms=arms, on_harm="rollback", bandit=Bandit(caps={"base": 0.5, "pale": 0.4}))
    draft = started(bandit)
    found = verdict(
        life_in(draft),
        report_on(life_in(started(msgspec.structs.replace(PLAIN, arms=arms, on_harm="rollback"))), reports={"vivid": 0.2}),
        datetime.now(UTC),
    )
    assert found is not None and found.arms == ("vivid",)
    carry_out(draft, CONFIG, found)
    assert life_in(draft).state == "stopped"


def test_weights_of_now_sum_to_one_at_every_step():
    draft = started(msgspec.structs.replace(RAMPED, arms={"base": 0.1, "a": 0.3, "b": 0.3, "c": 0.3}, guardrails={}))
    while next_share(life_in(draft)) is not None:
        assert done(draft, report_on(life_in(draft), units=400_000))[0] == [("weights", "policy")]
        assert math.fsum(life_in(draft).allocation.weights.values()) == pytest.approx(1, abs=1e-12)
