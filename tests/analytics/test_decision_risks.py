"""What checks say beside a decision, and where one of them holds it back."""

import msgspec
import pytest
from report_cases import METRICS, NOW, START, experiment, facts, proportion

from analytics.facts import Age, Joint, WeightPeriod
from analytics.report.build import build_report
from analytics.report.text import to_text


def report(likes=(240, 400), n=2000, primary="like_rate", **given):
    exp = experiment(primary=primary, **given.pop("experiment", {}))
    rows = {primary: {"base": proportion(likes[0], n), "vivid": proportion(likes[1], n)}}
    return build_report("vivid-colours", exp, METRICS, facts(rows, {"base": n, "vivid": n}, **given), NOW)


def risks(decision) -> str:
    return " ".join(decision.risks)


BEFORE = {"base": proportion(300, 2000), "vivid": proportion(420, 2000)}


def test_a_win_of_units_that_were_better_before_is_not_shipped():
    held = report(pre_period=BEFORE).decision
    assert held.action == "keep_running" and "did better already in the 14 days before exposure" in held.reason
    assert "differed already in the 14 days" in risks(held)
    # worse before and better now is no doubt, and a difference that chance makes is none either
    assert report(pre_period={"base": BEFORE["vivid"], "vivid": BEFORE["base"]}).decision.action == "ship"
    assert report(pre_period={"base": proportion(300, 2000), "vivid": proportion(330, 2000)}).decision.action == "ship"


def test_a_loss_of_units_that_were_worse_before_is_not_stopped():
    lost = report((400, 240), pre_period={"base": BEFORE["vivid"], "vivid": BEFORE["base"]}).decision
    assert lost.action == "keep_running" and "did worse already" in lost.reason
    assert report((400, 240), pre_period=BEFORE).decision.action == "stop"


def test_direction_down_turns_the_past_around():
    """Fewer reports are better: units that reported less before explain a win."""
    worse, better = BEFORE["vivid"], BEFORE["base"]
    assert report((400, 240), primary="report_rate", pre_period={"base": worse, "vivid": better}).decision.action == "keep_running"
    assert report((400, 240), primary="report_rate", pre_period={"base": better, "vivid": worse}).decision.action == "ship"


def test_checks_are_told_as_risks_and_change_nothing():
    fading = [
        Age(day=0, primary={"base": proportion(200, 2000), "vivid": proportion(600, 2000)}),
        Age(day=1, primary={"base": proportion(200, 2000), "vivid": proportion(210, 2000)}),
    ]
    shipped = report(ages=fading, excluded={"units": {"base": 0, "vivid": 80}}, training_units={"base": 3000, "vivid": 3000}).decision
    assert shipped.action == "ship"
    for said in (
        "The effect of 'vivid' changes with time",
        "The rule 'units' leaves out more of one arm",
        "6,000 units of 10,000 are left out",
    ):
        assert said in risks(shipped)
    assert risks(report().decision) == "The experiment has run 2.0 days, not a whole week: people of other weekdays may like other things."


def test_changed_weights_are_a_risk_where_stretches_are_pooled():
    """Compared within each stretch there is none; without what that takes, there is."""
    shares = [{"base": 0.9, "vivid": 0.1}, {"base": 0.5, "vivid": 0.5}]
    units = [{"base": 900, "vivid": 100}, {"base": 1100, "vivid": 1100}]
    periods = [WeightPeriod(started_at=START, weights=w, units=n) for w, n in zip(shares, units, strict=True)]
    apart = [{arm: Joint(n=n, means=(0.2,), products=((n * 0.16,),)) for arm, n in counts.items()} for counts in units]
    rows = {"like_rate": {"base": proportion(400, 2000), "vivid": proportion(240, 1200)}}
    told = [
        build_report("x", experiment(), METRICS, facts(rows, {"base": 2000, "vivid": 1200}, periods=periods, by_period=by), NOW).decision
        for by in ({}, {"like_rate": apart})
    ]
    assert "The weights changed 1 time, and like_rate is compared over all of it" in risks(told[0])
    assert "weights changed" not in risks(told[1])


def test_a_week_is_long_enough():
    late = report(started_at=START.replace(day=10)).decision
    assert late.action == "ship" and late.risks == []


@pytest.mark.parametrize(("arms", "action"), [({"base": 0.5, "vivid": 0.5, "warm": 0.0}, "invalid"), ({"base": 0.5, "vivid": 0.5}, "ship")])
def test_units_in_an_arm_that_never_had_a_weight(arms, action):
    n = {"base": 2000, "vivid": 2000, **({"warm": 3} if "warm" in arms else {})}
    rows = {"like_rate": {"base": proportion(240, 2000), "vivid": proportion(400, 2000), "warm": proportion(0, 3)}}
    made = build_report("x", experiment(arms=arms, minimum_units=0), METRICS, facts(rows, n, weights=arms), NOW).decision
    assert made.action == action
    if action == "invalid":
        assert "3 units got an arm of weight 0" in made.reason


def test_a_mismatch_beyond_what_a_double_holds_is_told_as_a_power_of_ten():
    decision = report(
        n=2000,
        periods=[msgspec.structs.replace(facts({}, {"base": 30_000, "vivid": 10_000}).periods[0], weights={"base": 0.5, "vivid": 0.5})],
    ).decision
    assert decision.action == "invalid" and "chi-square p = 10^-2174" in decision.reason


def test_a_planned_look_beyond_its_bound_informs_and_decides_nothing():
    """z = 2.64 at the third of four looks (bound about 2.6), and nothing at any look."""
    made = report((240, 297), experiment={"looks": 4, "planned_units": 5400})
    look = made.metrics[0].comparisons[0].group_sequential
    assert look is not None and (look.look, look.looks) == (2, 4)
    assert made.decision.action == "keep_running"
    told = "At planned look 2 of 4 'vivid' is beyond the bound on like_rate"
    assert (told in risks(made.decision)) == look.crossed
    crossed = report((240, 300), experiment={"looks": 2, "planned_units": 4000, "minimum_units": 0})
    assert crossed.metrics[0].comparisons[0].group_sequential.crossed
    assert "At planned look 2 of 2 'vivid' is beyond the bound" in risks(crossed.decision)


def test_the_report_in_words_has_every_risk():
    made = report(pre_period=BEFORE)
    assert "differed already" in " ".join(to_text(made).split())
