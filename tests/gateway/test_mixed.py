"""Team drafts and pairs: shares against an enumeration and against the chances that are logged."""

import random
from collections import Counter
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from gateway.mixed import draw_pair, pair_chances, team_draft

ARMS = ("a", "b", "c", "d", "e")


@given(st.integers(2, 5), st.integers(2, 10), st.integers(0, 1 << 30))
@settings(max_examples=100, deadline=None)
def test_no_arm_has_more_than_one_picture_over_another(arms, places, seed):
    counts = Counter(team_draft(ARMS[:arms], places, random.Random(seed)))
    held = [counts[arm] for arm in ARMS[:arms]]
    assert sum(held) == places and max(held) - min(held) <= 1


def test_orders_of_two_arms_in_four_places_are_all_alike():
    """By brute force: the six orders of a, a, b, b, each with probability 1/6."""
    dice = random.Random(1)
    found = Counter(team_draft("ab", 4, dice) for _ in range(12_000))
    assert set(found) == set(permutations("aabb"))
    assert chisquare(list(found.values())).pvalue > 0.001


def test_each_arm_holds_each_place_as_often_as_the_propensity_says():
    """Three arms in four places, so that one arm has two: still 1/3 at each place."""
    dice, draws = random.Random(2), 30_000
    found = Counter((place, arm) for _ in range(draws) for place, arm in enumerate(team_draft("abc", 4, dice)))
    for place in range(4):
        assert chisquare([found[place, arm] for arm in "abc"]).pvalue > 0.001


@pytest.mark.parametrize(
    ("arms", "wanted", "chances"),
    [
        ("ab", {}, {"a|b": 1.0}),
        ("bca", {}, {"a|b": 1 / 3, "a|c": 1 / 3, "b|c": 1 / 3}),
        ("abc", {"a|b": 0.5, "a|c": 0.3, "b|c": 0.2}, {"a|b": 0.5, "a|c": 0.3, "b|c": 0.2}),
        # c was retired: what is left in proportion.
        ("abd", {"a|b": 0.2, "a|c": 0.3, "b|c": 0.2, "a|d": 0.2, "b|d": 0.1, "c|d": 0.0}, {"a|b": 0.4, "a|d": 0.4, "b|d": 0.2}),
        # c is new: its pairs as if all met alike, 1/3 each of 5/3.
        ("abc", {"a|b": 1.0}, {"a|b": 0.6, "a|c": 0.2, "b|c": 0.2}),
        ("abc", {"a|b": 0.0, "a|c": 0.0, "b|c": 0.0}, {"a|b": 1 / 3, "a|c": 1 / 3, "b|c": 1 / 3}),
    ],
)
def test_chances_of_pairs_by_hand(arms, wanted, chances):
    found = pair_chances(arms, wanted)
    assert found == pytest.approx(chances) and sum(found.values()) == pytest.approx(1)


def test_pairs_meet_as_often_as_their_chance_and_stand_on_both_sides():
    dice, draws, wanted = random.Random(3), 30_000, {"a|b": 0.6, "a|c": 0.3, "b|c": 0.1}
    drawn = [draw_pair("abc", wanted, dice) for _ in range(draws)]
    found = Counter((sides, round(chance, 9)) for sides, chance in drawn)
    expected = {(sides, wanted[name]): wanted[name] / 2 * draws for name in wanted for sides in permutations(name.split("|"))}
    assert set(found) == set(expected)
    assert chisquare([found[key] for key in expected], list(expected.values())).pvalue > 0.001
