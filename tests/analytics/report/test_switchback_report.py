"""The report of a switchback, from facts whose truth is known: what is shown, what is decided, what is warned of."""

from typing import Any

import msgspec
import numpy as np
import pytest
from report_cases import METRICS, NOW, START, experiment, facts

from analytics.designs import Switchback, planned_units
from analytics.experiment import Experiment, Guardrail
from analytics.facts import ExperimentFacts, WeightPeriod
from analytics.facts_of_designs import BlockFacts, BlockTotals
from analytics.report.block_contrast import slots
from analytics.report.build import build_report, rebuild
from analytics.report.schema import Report

SETTINGS = Switchback(block_minutes=60.0)


def switchback(**changes: Any) -> Experiment:
    return experiment(**({"design": "switchback", "switchback": SETTINGS, "minimum_units": 30} | changes))


def blocks_of(arms: list[str], totals: dict[str, tuple[Any, Any]], weights: list[dict[str, float]], stretches: list[int]) -> BlockFacts:
    return BlockFacts(
        origin=START,
        block_minutes=60.0,
        numbers=list(range(len(arms))),
        arms=arms,
        propensities=[weights[stretch][arm] for arm, stretch in zip(arms, stretches, strict=True)],
        stretches=stretches,
        weights=weights,
        latency_ms=[None] * len(arms),
        totals={name: BlockTotals(numerators=list(map(float, y)), denominators=list(map(float, d))) for name, (y, d) in totals.items()},
    )


def drawn(
    lifts: dict[str, float], blocks: int = 200, weights: dict[str, float] | None = None, lasting: float = 0.0, harm: float = 0.0
) -> ExperimentFacts:
    """A season of ±50 % inside the day in the liking; `lasting`: what the block before adds, `harm`: to the reports."""
    rng = np.random.default_rng(11)
    held = weights or {arm: 1 / len(lifts) for arm in lifts}
    arms = rng.choice(list(held), size=blocks, p=list(held.values())).tolist()
    hour, size = np.arange(blocks), rng.poisson(200, blocks) + 1
    lift = np.array([lifts[arm] for arm in arms])
    rate = 0.1 * (1 + 0.5 * np.sin(2 * np.pi * hour / 24)) * (1 + lift + lasting * np.concatenate([[0.0], lift[:-1]]))
    reported = np.array([0.05 * (1 + harm * (arm != "base")) for arm in arms])
    totals = {"like_rate": (rng.binomial(size, rate), size), "report_rate": (rng.binomial(size, reported), size)}
    found = blocks_of(arms, totals, [held], [0] * blocks)
    periods = [WeightPeriod(started_at=START, weights=held, units={arm: arms.count(arm) for arm in held})]
    return facts({}, dict.fromkeys(held, 40), weights=held, periods=periods, blocks=found)


def report_of(given: ExperimentFacts, asked: Experiment | None = None) -> Report:
    arms = dict(given.periods[0].weights)
    return build_report("hours", asked or switchback(arms=arms), METRICS, given, NOW)


def test_a_season_inside_the_day_is_no_effect() -> None:
    report = report_of(drawn({"base": 0.0, "vivid": 0.0}))
    (comparison,) = report.metrics[0].comparisons
    assert report.decision.action == "keep_running" and comparison.p_value is not None and comparison.p_value > 0.05
    assert "of 200 planned blocks are in" not in report.decision.reason and "200 of 336 planned blocks are in" in report.decision.reason
    assert report.switchback is not None and report.switchback.effects[0].foretold > 0.5
    assert rebuild(report) == report and msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_a_better_arm_is_shipped_for_its_blocks() -> None:
    report = report_of(drawn({"base": 0.0, "vivid": 0.3}))
    assert report.decision.action == "ship" and report.decision.arm == "vivid"
    metric = report.metrics[0]
    low, high = metric.comparisons[0].difference.ci
    assert low is not None and high is not None and low < 0.03 < high
    by_arm = {arm.arm: arm for arm in metric.arms}
    assert sum(arm.n for arm in metric.arms) == 200 and by_arm["base"].mean == pytest.approx(0.1, abs=0.01)
    assert report.checks.srm.units == {name: arm.n for name, arm in by_arm.items()}
    # The variance of the arm's ratio is sd^2/n, the delta method's over blocks.
    base = [i for i, name in enumerate(report.sufficient_statistics.facts.blocks.arms) if name == "base"]  # type: ignore[union-attr]
    totals = report.sufficient_statistics.facts.blocks.totals["like_rate"]  # type: ignore[union-attr]
    y, d = np.array(totals.numerators)[base], np.array(totals.denominators)[base]
    residual = (y - y.sum() / d.sum() * d) / d.mean()
    assert by_arm["base"].sd == pytest.approx(residual.std(ddof=1), rel=1e-3)


def test_few_blocks_decide_nothing_whatever_people_there_are() -> None:
    report = report_of(drawn({"base": 0.0, "vivid": 3.0}, blocks=40))
    assert report.decision.action == "keep_running" and "blocks; nothing is judged before every arm has 30" in report.decision.reason


def test_planned_blocks_that_show_nothing_end_it() -> None:
    report = report_of(drawn({"base": 0.0, "vivid": 0.0}), switchback(planned_units=150))
    assert report.decision.action == "stop" and "All 150 planned blocks are in (200)" in report.decision.reason


def test_harm_is_rolled_back() -> None:
    asked = switchback(guardrails={"report_rate": Guardrail(margin=0.2)})
    report = report_of(drawn({"base": 0.0, "vivid": 0.0}, harm=1.0), asked)
    assert report.decision.action == "rollback" and report.decision.arm == "vivid"
    assert report_of(drawn({"base": 0.0, "vivid": 0.0}), asked).decision.action != "rollback"


def test_an_arm_that_acts_on_is_a_risk() -> None:
    warned = report_of(drawn({"base": 0.0, "vivid": 0.4}, blocks=300, lasting=0.7))
    assert any("Blocks after a switch differ" in risk for risk in warned.decision.risks)
    quiet = report_of(drawn({"base": 0.0, "vivid": 0.4}, blocks=300))
    assert not any("Blocks after a switch" in risk for risk in quiet.decision.risks)


def test_three_arms_of_unlike_weights_are_each_held_against_the_control() -> None:
    weights = {"base": 0.5, "vivid": 0.3, "bleak": 0.2}
    report = report_of(drawn({"base": 0.0, "vivid": 0.4, "bleak": -0.4}, blocks=400, weights=weights))
    vivid, bleak = report.metrics[0].comparisons
    for comparison, truth in ((vivid, 0.04), (bleak, -0.04)):
        low, high = comparison.difference.ci
        assert low is not None and high is not None and low < truth < high and 0 not in (low, high) and (low > 0) == (truth > 0)
    assert report.decision.action == "ship" and report.decision.arm == "vivid"


def test_blocks_in_which_an_arm_could_not_be_drawn_are_left_out() -> None:
    """The first 100 blocks are all the control's, in better days: taken along they would hide the gain."""
    rng = np.random.default_rng(2)
    arms = ["base"] * 100 + rng.choice(["base", "vivid"], size=100).tolist()
    rate = np.where(np.arange(200) < 100, 0.5, [0.1 if arm == "base" else 0.14 for arm in arms])
    size = np.full(200, 300)
    stretches = [0] * 100 + [1] * 100
    weights = [{"base": 1.0, "vivid": 0.0}, {"base": 0.5, "vivid": 0.5}]
    found = blocks_of(arms, {"like_rate": (rng.binomial(size, rate), size)}, weights, stretches)
    counts = [{arm: arms[i : i + 100].count(arm) for arm in ("base", "vivid")} for i in (0, 100)]
    periods = [WeightPeriod(started_at=START, weights=held, units=n) for held, n in zip(weights, counts, strict=True)]
    report = report_of(facts({}, {"base": 1, "vivid": 1}, periods=periods, blocks=found), switchback())
    (comparison,) = report.metrics[0].comparisons
    assert comparison.difference.value == pytest.approx(0.04, abs=0.01) and "100 blocks" in comparison.method
    assert report.checks.srm.ok and any("propensity that it was drawn with" in note for note in report.method_notes)


def test_without_a_block_nothing_is_told_and_nothing_breaks() -> None:
    report = report_of(facts({}, {"base": 10, "vivid": 10}), switchback())
    assert report.switchback is None and report.decision.action == "keep_running"
    assert report.metrics[0].comparisons[0].p_value is None


def test_numbers_too_large_to_square_are_told_as_such() -> None:
    given = drawn({"base": 0.0, "vivid": 0.0}, blocks=80)
    assert given.blocks is not None
    totals = given.blocks.totals["like_rate"]
    huge = msgspec.structs.replace(totals, numerators=[1e200 * y for y in totals.numerators])
    blocks = msgspec.structs.replace(given.blocks, totals={"like_rate": huge})
    report = report_of(msgspec.structs.replace(given, blocks=blocks))
    (comparison,) = report.metrics[0].comparisons
    assert comparison.p_value is None and "no inference" in comparison.method
    assert report.switchback is not None and report.switchback.effects == []
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_what_is_planned_is_at_most_two_weeks() -> None:
    assert planned_units(switchback()) == 336
    assert planned_units(switchback(planned_units=60)) == 60
    assert planned_units(switchback(switchback=Switchback(block_minutes=1440))) == 100
    assert planned_units(switchback(switchback=Switchback(block_minutes=0.025))) == 5000
    assert planned_units(experiment()) == 5000


def test_hours_of_the_day_are_alike_and_long_blocks_are_their_own() -> None:
    given = drawn({"base": 0.0, "vivid": 0.0}, blocks=50).blocks
    assert given is not None and slots(given)[:2] == [8, 9] and slots(given)[24] == 8
    assert slots(msgspec.structs.replace(given, block_minutes=10.0))[:7] == [8] * 6 + [9]
    assert slots(msgspec.structs.replace(given, block_minutes=480.0))[:4] == [1, 2, 0, 1]
