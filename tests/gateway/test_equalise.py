"""Holding faster arms: quantile coupling by hand, its bounds, and the gap that is left in simulated queues."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.equalise import FEWEST, LARGEST_HOLD, Equaliser, coupled_hold, hold


def arrays(**arms):
    return {arm: np.array(values, float) for arm, values in arms.items()}


def test_a_latency_is_held_to_the_same_quantile_of_the_slowest_arm():
    """20 is the 2nd of 4: level 3/8, which is the 2nd of the other four and, among two, 40 + 1/4 of the way from 40 to 80."""
    assert coupled_hold(20, "fast", arrays(fast=[10, 20, 30, 40], slow=[33, 22, 11, 44])) == pytest.approx(2)
    assert coupled_hold(20, "fast", arrays(fast=[10, 20, 30, 40], slow=[40, 80])) == pytest.approx(30)
    assert coupled_hold(20, "fast", arrays(fast=[10, 20, 30, 40], slow=[33, 22, 11, 44], slower=[15, 25, 31, 50])) == pytest.approx(5)
    assert coupled_hold(33, "slow", arrays(fast=[10, 20, 30, 40], slow=[33, 22, 11, 44])) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.data())
def test_quantiles_are_numpys_hazen(own, other, data):
    latency = data.draw(st.sampled_from(own))
    level = (sum(x < latency for x in own) + own.count(latency) / 2) / len(own)
    expected = min(max(0.0, float(np.quantile(other, level, method="hazen")) - latency), LARGEST_HOLD * latency)
    assert coupled_hold(latency, "own", arrays(own=own, other=other)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_hold_has_a_bound():
    assert coupled_hold(10, "fast", arrays(fast=[10] * 3, stuck=[1e6] * 3)) == LARGEST_HOLD * 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.data())
def test_holds_are_never_negative_and_bounded(own, other, data):
    latency = data.draw(st.sampled_from(own))
    held = coupled_hold(latency, "own", arrays(own=own, other=other))
    assert 0 <= held <= LARGEST_HOLD * latency


def answered(equaliser, clock, draws, weights, n, rng):
    """Latencies with holds, per arm; `draws[arm](t)` is what a request that comes at second t takes, in ms."""
    found = {arm: [] for arm in draws}
    for i in range(n):
        clock[0] = float(i)
        arm = str(rng.choice(list(draws), p=weights))
        took = float(draws[arm](clock[0]))
        found[arm].append(took + equaliser.hold_ms("x", list(draws), arm, took))
    return {arm: np.array(values) for arm, values in found.items()}


def test_arms_of_2_and_6_steps_are_answered_alike_in_mean_and_in_shape():
    """Without a hold the gap is 260 ms. With it: the mean within 3 %, and each decile within 6 %, at 80/20."""
    rng, clock = np.random.default_rng(2), [0.0]
    draws = {"two": lambda t: 160 * rng.lognormal(0, 0.3), "six": lambda t: 420 * rng.lognormal(0, 0.25)}
    found = answered(Equaliser(lambda: clock[0]), clock, draws, [0.8, 0.2], 4000, rng)
    two, six = found["two"][600:], found["six"][150:]
    assert abs(two.mean() / six.mean() - 1) < 0.03
    levels = np.linspace(0.1, 0.9, 9)
    assert np.abs(np.quantile(two, levels) / np.quantile(six, levels) - 1).max() < 0.06


def test_a_load_that_doubles_leaves_no_gap_at_90_10():
    """A rare arm's window reaches far back; what is compared is of one time."""
    rng, clock = np.random.default_rng(3), [0.0]
    load = lambda t: 1.0 if t < 1500 else 2.0  # noqa: E731
    draws = {"two": lambda t: 100 * load(t) * rng.lognormal(0, 0.2), "three": lambda t: 150 * load(t) * rng.lognormal(0, 0.2)}
    equaliser = Equaliser(lambda: clock[0])
    answered(equaliser, clock, draws, [0.9, 0.1], 1500, rng)
    later = {"two": [], "three": []}
    for i in range(1500, 4500):
        clock[0] = float(i)
        arm = "two" if rng.random() < 0.9 else "three"
        took = float(draws[arm](clock[0]))
        later[arm].append(took + equaliser.hold_ms("x", ["two", "three"], arm, took))
    assert np.mean(later["two"][600:]) == pytest.approx(np.mean(later["three"][60:]), rel=0.04)


def test_nothing_is_held_before_30_requests_and_for_arms_that_get_nobody():
    clock = [0.0]
    equaliser = Equaliser(lambda: clock[0])
    for i in range(FEWEST):
        assert equaliser.hold_ms("x", ["a", "b"], "a", 100) == 0
        assert equaliser.hold_ms("x", ["a", "b"], "b", 150) == 0 or i == FEWEST - 1
    assert equaliser.hold_ms("x", ["a", "b"], "a", 100) == pytest.approx(50)
    assert equaliser.hold_ms("x", ["a"], "a", 100) == 0 and equaliser.hold_ms("y", ["a", "b"], "a", 100) == 0
    equaliser.keep(["y"])
    assert equaliser.hold_ms("x", ["a", "b"], "a", 100) == 0


def test_arms_that_are_alike_stay_alike_and_hardly_wait():
    """A/A at 90/10: no gap beyond its noise (3 standard errors are 2.3 %), and 4 % longer at most for what sampling tells apart."""
    rng, clock = np.random.default_rng(7), [0.0]
    draws = {arm: lambda t: 300 * rng.lognormal(0, 0.15) for arm in ("base", "vivid")}
    found = answered(Equaliser(lambda: clock[0]), clock, draws, [0.9, 0.1], 5000, rng)
    base, vivid = found["base"][600:].mean(), found["vivid"][60:].mean()
    assert base == pytest.approx(vivid, rel=0.025)
    assert max(base, vivid) < 1.04 * 300 * np.exp(0.15**2 / 2)


async def test_a_hold_ends_when_nobody_waits_any_more():
    gone = asyncio.Event()
    assert await hold(0.0, gone) == 0 and await hold(-1.0, gone) == 0
    assert 10 <= await hold(0.01, gone) < 5000
    asyncio.get_running_loop().call_later(0.01, gone.set)
    began = time.perf_counter()
    told = await hold(30, gone)
    assert told == pytest.approx(1000 * (time.perf_counter() - began), abs=50) and told < 20_000
