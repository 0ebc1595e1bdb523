"""Split by weight, stickiness, the fewest moves, and propensities that are those of the draw."""

import hashlib
import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gateway.assignment import TICKS, Span, Split, allocate, point, reweigh

UNITS = [f"user-{number}" for number in range(20_000)]


def arms_of(allocation, units=UNITS):
    split = Split(allocation)
    return [split.assign(unit).arm for unit in units]


@st.composite
def weight_histories(draw):
    """Some weight vectors over the same 2 to 5 arms; zeros and tiny weights among them."""
    arms = [f"arm{number}" for number in range(draw(st.integers(2, 5)))]
    history = []
    for _ in range(draw(st.integers(1, 6))):
        parts = [draw(st.one_of(st.just(0), st.integers(1, 1000))) for _ in arms]
        parts[0] += 1 if not any(parts) else 0
        history.append({arm: part / sum(parts) for arm, part in zip(arms, parts, strict=True)})
    return history


@pytest.mark.parametrize(
    "weights", [{"a": 0.5, "b": 0.5}, {"a": 0.9, "b": 0.1}, {"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}]
)
def test_the_split_matches_the_weights_on_20000_units(weights):
    arms = arms_of(allocate("salt", weights))
    counts = [arms.count(arm) for arm in weights]
    assert chisquare(counts, [20_000 * weight for weight in weights.values()]).pvalue > 0.001


def test_the_point_of_a_unit_is_the_first_53_bits_of_sha256():
    """Golden value by hand: SHA-256 over the salt's length in 4 bytes, salt, unit."""
    digest = hashlib.sha256(b"\x00\x00\x00\x04salt" + "käthe".encode()).hexdigest()
    assert point("salt", "käthe") == int(digest[:16], 16) >> 11


def test_salts_make_independent_splits():
    first, second = arms_of(allocate("one", {"a": 0.5, "b": 0.5})), arms_of(allocate("two", {"a": 0.5, "b": 0.5}))
    agreement = sum(x == y for x, y in zip(first, second, strict=True)) / len(UNITS)
    assert abs(agreement - 0.5) < 4 * math.sqrt(0.25 / len(UNITS))


def test_salt_and_unit_do_not_run_into_each_other():
    assert point("ab", "c") != point("a", "bc")


@given(weight_histories())
@settings(max_examples=150, deadline=None)
def test_spans_always_cover_the_line_once_and_each_arm_owns_its_weight(history):
    allocation = allocate("salt", history[0])
    for weights in history[1:]:
        allocation = reweigh(allocation, weights)
    spans = sorted(span for owned in allocation.spans.values() for span in owned)
    assert spans[0].start == 0 and spans[-1].end == TICKS
    assert all(left.end == right.start for left, right in pairwise(spans))
    for arm, weight in history[-1].items():
        owned = sum(span.end - span.start for span in allocation.spans[arm])
        assert abs(owned - weight * TICKS) <= 2
        assert weight > 0 or owned == 0


@given(weight_histories())
@settings(max_examples=150, deadline=None)
def test_a_change_moves_exactly_the_least_share(history):
    """The share of the line that changes its owner is half the sum of |new - old|."""
    before = allocate("salt", history[0])
    for weights in history[1:]:
        after = reweigh(before, weights)
        least = sum(abs(weights[arm] - before.weights[arm]) for arm in weights) / 2
        assert abs(moved(before.spans, after.spans) / TICKS - least) < 1e-12
        before = after


def moved(before, after):
    kept = 0
    for arm, spans in before.items():
        for span in spans:
            for other in after[arm]:
                kept += max(0, min(span.end, other.end) - max(span.start, other.start))
    return TICKS - kept


@given(weight_histories())
@settings(max_examples=60, deadline=None)
def test_only_growing_arms_gain_units(history):
    before = allocate("salt", history[0])
    units = UNITS[:400]
    for weights in history[1:]:
        after = reweigh(before, weights)
        for old, new in zip(arms_of(before, units), arms_of(after, units), strict=True):
            assert old == new or (weights[new] > before.weights[new] and weights[old] < before.weights[old])
        before = after


def test_a_ramp_that_is_taken_back_gives_every_unit_its_arm_again():
    start = allocate("salt", {"a": 0.5, "b": 0.5})
    there = reweigh(reweigh(start, {"a": 0.7, "b": 0.3}), {"a": 0.9, "b": 0.1})
    back = reweigh(reweigh(there, {"a": 0.7, "b": 0.3}), {"a": 0.5, "b": 0.5})
    assert arms_of(back) == arms_of(start)


def test_the_propensity_is_the_weight_in_force():
    allocation = reweigh(allocate("salt", {"a": 0.5, "b": 0.5}), {"a": 0.8, "b": 0.2})
    split = Split(allocation)
    assert {split.assign(unit) for unit in UNITS[:200]} == {("a", 0.8), ("b", 0.2)}


def test_an_arm_of_weight_zero_gets_nobody_and_can_come_back():
    allocation = allocate("salt", {"a": 1.0, "b": 0.0})
    assert set(arms_of(allocation)) == {"a"}
    assert allocation.spans["b"] == ()
    assert set(arms_of(reweigh(allocation, {"a": 0.0, "b": 1.0}))) == {"b"}


@pytest.mark.parametrize("weights", [{"a": 0.7, "b": 0.7}, {"a": -0.5, "b": 1.5}, {"a": math.nan, "b": 1.0}])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError):
        allocate("salt", weights)


def test_other_arms_are_refused():
    with pytest.raises(ValueError, match="give one for each of"):
        reweigh(allocate("salt", {"a": 0.5, "b": 0.5}), {"a": 0.5, "c": 0.5})


def test_the_first_allocation_by_hand():
    assert allocate("s", {"b": 0.25, "a": 0.75}).spans == {"a": (Span(0, 3 * TICKS // 4),), "b": (Span(3 * TICKS // 4, TICKS),)}
