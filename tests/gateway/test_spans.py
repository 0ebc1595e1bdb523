"""Thousands of changes of weights: spans stay few, the fewest units move each time, and every unit keeps one owner."""

import random
from itertools import pairwise

import pytest

from gateway.assignment import TICKS, Split, allocate, reweigh, with_arms
from gateway.spans import MOST_SPANS, Span, shift


def _owners(allocation):
    return sorted((span.start, span.end, arm) for arm, spans in allocation.spans.items() for span in spans)


def _moved(before, after):
    """Ticks whose owner is another one: both lines walked together."""
    ends = sorted({end for line in (before, after) for _, end, _ in line})
    total = at = i = j = 0
    for end in ends:
        total += (end - at) * (before[i][2] != after[j][2])
        i, j, at = i + (before[i][1] == end), j + (after[j][1] == end), end
    return total


@pytest.mark.parametrize(("arms", "steps"), [(2, 500), (3, 5000), (6, 500)])
def test_spans_stay_few_and_the_fewest_units_move_over_thousands_of_changes(arms, steps):
    chance = random.Random(arms)
    names = [f"arm{number}" for number in range(arms)]
    allocation = allocate("salt", dict.fromkeys(names, 1 / arms))
    line = _owners(allocation)
    for step in range(steps):
        parts = {name: max(0.01, allocation.weights[name] + chance.gauss(0, 0.1)) for name in names}
        if step % 97 == 0:
            parts[chance.choice(names)] = 0.0
        weights = {name: part / sum(parts.values()) for name, part in parts.items()}
        after = reweigh(allocation, weights)
        now = _owners(after)
        assert len(now) <= MOST_SPANS + 2 * arms
        least = sum(abs(weights[name] - allocation.weights[name]) for name in names) / 2
        assert abs(_moved(line, now) / TICKS - least) < 1e-9
        allocation, line = after, now
    assert line[0][0] == 0 and line[-1][1] == TICKS and all(a[1] == b[0] for a, b in pairwise(line))
    for name in names:
        assert abs(sum(end - start for start, end, arm in line if arm == name) - allocation.weights[name] * TICKS) <= 2


def test_a_border_moves_and_a_small_piece_goes_first_by_hand():
    spans = {"a": (Span(0, 50), Span(60, 70)), "b": (Span(50, 60), Span(70, 100))}
    assert shift(spans, {"a": 55, "b": 45}) == {"a": (Span(0, 50), Span(60, 65)), "b": (Span(50, 60), Span(65, 100))}
    assert shift(spans, {"a": 45, "b": 55}) == {"a": (Span(0, 45),), "b": (Span(45, 100),)}


def test_arms_that_do_not_border_need_a_cut():
    spans = {"a": (Span(0, 40),), "b": (Span(40, 60),), "c": (Span(60, 100),)}
    assert shift(spans, {"a": 30, "b": 20, "c": 50}) == {"a": (Span(0, 30),), "b": (Span(40, 60),), "c": (Span(30, 40), Span(60, 100))}


def test_a_new_arm_gets_nobody_until_it_has_a_weight():
    before = allocate("salt", {"a": 0.5, "b": 0.5})
    wider = with_arms(before, ["a", "b", "c"])
    units = [f"user-{number}" for number in range(5000)]
    assert wider.weights == {"a": 0.5, "b": 0.5, "c": 0.0} and with_arms(wider, ["c"]) == wider
    old = [Split(before).assign(unit).arm for unit in units]
    assert [Split(wider).assign(unit).arm for unit in units] == old
    new = [Split(reweigh(wider, {"a": 0.45, "b": 0.45, "c": 0.1})).assign(unit).arm for unit in units]
    assert {(x, y) for x, y in zip(old, new, strict=True) if x != y} == {("a", "c"), ("b", "c")}
