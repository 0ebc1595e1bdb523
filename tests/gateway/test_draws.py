"""What requests are given in every design, and promise 4: the share of traffic is the propensity that is logged."""

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import combinations

import msgspec
import pytest

from analytics.designs import Bandit, Switchback
from analytics.experiment import Experiment
from gateway.assignment import Split, allocate, reweigh
from gateway.draws import NO_PART, assignments, draw
from gateway.erased import Erased
from gateway.ledger import Life
from gateway.plans import Plan
from gateway.sticky import Sticky

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
DRAWS = 100_000
UNEQUAL = {"a": 0.7, "b": 0.2, "c": 0.1}
DICE = random.Random(1)
ALIKE = {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}


def plan_of(design, arms, pairs=None, **settings):
    declared = Experiment(route="hero", arms=arms, control="a", primary="like_rate", design=design, **settings)
    life = Life(
        name="colours", declared=declared, allocation=allocate("salt", arms), state="running", pairs=pairs or {},
        started_at=BEGAN.isoformat(), weighed_at=BEGAN.isoformat(),
    )  # fmt: skip
    return Plan("hero", "a", life, Split(life.allocation))


def reweighed(plan, weights):
    life = msgspec.structs.replace(plan.life, allocation=reweigh(plan.life.allocation, weights))
    return Plan("hero", "a", life, Split(life.allocation))


@pytest.fixture
def sticky(tmp_path):
    made = Sticky(tmp_path / "sticky.sqlite", Erased(tmp_path / "erased.jsonl", bytes(range(32))).hash)
    yield made
    made.close()


def apart(found, told):
    """The largest |z| of what was found against the propensities that were logged with it: `told[key]` are those of every draw."""
    return max(abs(found[key] - sum(ps)) / math.sqrt(sum(p * (1 - p) for p in ps)) for key, ps in told.items())


@pytest.mark.parametrize(("design", "settings"), [("ab", {}), ("bandit", {"bandit": Bandit(sticky=False)})])
async def test_shares_of_single_arms_are_the_logged_propensities(sticky, design, settings):
    """Weights move after half of the draws, as a bandit's do."""
    first = plan_of(design, UNEQUAL, **settings)
    later = reweighed(first, {"a": 0.3, "b": 0.3, "c": 0.4})
    found, logged = Counter(), Counter()
    for number in range(DRAWS):
        given = await draw(first if number < DRAWS // 2 else later, f"unit-{number}", 1, BEGAN, sticky, DICE)
        found[given.arm] += 1
        logged[given.arm] += 1 / given.propensity
    # Counts weighted by 1 / propensity: each arm stands for all of the traffic.
    for arm in UNEQUAL:
        ps = (first.life.allocation.weights[arm], later.life.allocation.weights[arm])
        assert abs(logged[arm] - DRAWS) < 4.5 * math.sqrt(sum(DRAWS / 2 * (1 - p) / p for p in ps))
        assert abs(found[arm] - DRAWS / 2 * sum(ps)) < 4.5 * math.sqrt(sum(DRAWS / 2 * p * (1 - p) for p in ps))


async def test_shares_of_places_are_the_logged_propensities(sticky):
    plan, dice = plan_of("interleave", {**ALIKE, "e": 0.0}), random.Random(4)
    found: Counter[tuple[int, str]] = Counter()
    for _ in range(DRAWS // 4):
        given = await draw(plan, "ada", 4, BEGAN, sticky, dice)
        assert given.place_propensity == 0.25 and given.propensity is None and given.arm == "" and given.pair == ""
        found.update(enumerate(given.arms))
    assert apart(found, {(place, arm): [0.25] * (DRAWS // 4) for place in range(4) for arm in ALIKE}) < 4.5


async def test_shares_of_pairs_are_the_logged_propensities(sticky):
    wanted = dict(zip(("|".join(pair) for pair in combinations("abcd", 2)), (0.4, 0.25, 0.15, 0.1, 0.06, 0.04), strict=True))
    plan, dice = plan_of("duel", ALIKE, pairs=wanted), random.Random(5)
    found, sides, logged = Counter(), Counter(), {}
    for _ in range(DRAWS):
        given = await draw(plan, "ada", 2, BEGAN, sticky, dice)
        found[given.pair] += 1
        sides[given.pair, given.arms[0]] += 1
        assert given.propensity == given.place_propensity == pytest.approx(wanted[given.pair])
        logged[given.pair] = given.propensity
    assert apart(found, {pair: [p] * DRAWS for pair, p in logged.items()}) < 4.5
    assert apart(sides, {(pair, arm): [0.5] * found[pair] for pair in wanted for arm in pair.split("|")}) < 4.5


async def test_shares_of_blocks_are_the_logged_propensities(sticky):
    plan = plan_of("switchback", UNEQUAL, switchback=Switchback(block_minutes=1, washout_minutes=0.5))
    found, logged = Counter(), Counter()
    for number in range(DRAWS):
        given = await draw(plan, "ada", 1, BEGAN + timedelta(minutes=number, seconds=40), sticky, DICE)
        found[given.arm] += 1
        logged[given.arm, given.propensity] += 1
        assert given.facts == {"block": str(number)}
    assert set(logged) == set(UNEQUAL.items())
    assert apart(found, {arm: [weight] * DRAWS for arm, weight in UNEQUAL.items()}) < 4.5
    assert (await draw(plan, "ada", 1, BEGAN + timedelta(minutes=7), sticky, DICE)).facts == {"block": "7", "washout": "true"}


async def test_a_sticky_bandits_shares_are_the_logged_propensities_of_the_first_draws(sticky):
    plan, told, found = plan_of("bandit", UNEQUAL), {arm: [] for arm in UNEQUAL}, Counter()
    for step in range(10):
        for number in range(200):
            weights = plan.life.allocation.weights
            given = await draw(plan, f"unit-{step}-{number}", 1, BEGAN, sticky, DICE)
            assert given.propensity == weights[given.arm]
            found[given.arm] += 1
            for arm in UNEQUAL:
                told[arm].append(weights[arm])
        again = await draw(plan, f"unit-0-{step}", 1, BEGAN, sticky, DICE)
        assert again.propensity == UNEQUAL[again.arm]
        plan = reweighed(plan, {"a": 0.65 - 0.05 * step, "b": 0.2, "c": 0.15 + 0.05 * step})
    assert apart(found, told) < 4.5


@pytest.mark.parametrize(
    ("design", "places", "takes_part"),
    [("interleave", 1, False), ("interleave", 2, True), ("duel", 1, False), ("duel", 3, False), ("duel", 2, True)],
)
async def test_grids_that_are_too_small_or_no_pair_take_no_part(sticky, design, places, takes_part):
    given = await draw(plan_of(design, ALIKE), "ada", places, BEGAN, sticky, DICE)
    assert (given is not NO_PART) == takes_part and len(given.arms) == (places if takes_part else 0)


async def test_one_arm_that_is_left_mixes_with_nobody(sticky):
    plan = plan_of("interleave", {"a": 0.5, "b": 0.5})
    assert await draw(reweighed(plan, {"a": 1.0, "b": 0.0}), "ada", 4, BEGAN, sticky, DICE) is NO_PART


async def test_assignments_are_told_by_design(sticky):
    units = ["ada", "bob"]

    async def told(plan, at=BEGAN):
        return await assignments(plan, units, at, sticky)

    ab = plan_of("ab", UNEQUAL)
    assert await told(ab) == [ab.split.assign(unit) for unit in units]
    for nobody in (plan_of("duel", ALIKE), plan_of("interleave", ALIKE), Plan("hero", "a", None, None)):
        assert await told(nobody) == [None, None]
    switchback = plan_of("switchback", UNEQUAL)
    block = await draw(switchback, "eve", 1, BEGAN + timedelta(hours=5), sticky, DICE)
    assert await told(switchback, BEGAN + timedelta(hours=5)) == [(block.arm, block.propensity)] * 2
    bandit = plan_of("bandit", UNEQUAL)
    await draw(bandit, "ada", 1, BEGAN, sticky, DICE)
    moved = reweighed(bandit, {"a": 0.1, "b": 0.1, "c": 0.8})
    assert await told(moved) == [bandit.split.assign("ada"), moved.split.assign("bob")]
