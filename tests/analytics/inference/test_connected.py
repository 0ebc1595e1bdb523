"""Who can be put on one scale: against the definition, that a likelihood has a maximum, by linear programming; circles by hand."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from analytics.inference.connected import circles, groups, ties_told, why_apart

NAMES = {0: "a", 1: "b", 2: "c", 3: "d"}


def test_ford() -> None:
    assert groups(3, [(0, 1), (1, 2), (2, 0)], []) == [[0, 1, 2]]
    assert groups(3, [(0, 1), (1, 0), (0, 2)], []) == [[0, 1], [2]]
    assert groups(3, [(0, 1)], [(1, 2)]) == [[1, 2], [0]]
    assert groups(4, [(2, 3), (3, 2), (0, 1), (1, 0)], []) == [[0, 1], [2, 3]]


def test_why_an_arm_stands_apart() -> None:
    won = [(0, 1), (1, 2), (2, 1), (1, 3), (2, 3)]
    assert "won every vote" in why_apart(0, [1, 2], won, [], NAMES) and "no upper end" in why_apart(0, [1, 2], won, [], NAMES)
    assert "lost every vote" in why_apart(3, [1, 2], won, [], NAMES)
    assert why_apart(0, [1, 2], [(1, 2), (2, 1)], [], NAMES) == "no votes"
    chain = [why_apart(arm, [], [(0, 1), (1, 2)], [], NAMES) for arm in range(4)]
    assert ["no upper end" in why for why in chain] == [True, False, False, False] and chain[1].startswith(
        "won every vote that links it to some"
    )
    assert "no lower end" in chain[2] and chain[3] == "no votes"
    assert why_apart(0, [1, 2], [(1, 2), (2, 1), (0, 3), (3, 0)], [], NAMES) == "with d no votes link it to the others"


def grows_for_ever(arms: int, won: set[tuple[int, int]], tied: set[tuple[int, int]]) -> bool:
    """Is there a direction in (strengths, ln nu), not all alike, along which no vote gets less likely, and one gets likelier?

    Every vote's outcome has to keep up with the two others: (win, loss, tie) say s_i, s_j, (s_i + s_j)/2 + ln nu.
    """
    rows = []
    for i, j, outcome in [(i, j, 0) for i, j in won] + [(i, j, 2) for i, j in tied]:
        say = np.zeros((3, arms + 1))
        say[0, i] = say[1, j] = 1
        say[2, [i, j]], say[2, arms] = 0.5, 1
        rows += [say[outcome] - say[other] for other in range(3) if other != outcome]
    table = np.array(rows)
    found = linprog(-table.sum(axis=0), A_ub=-table, b_ub=np.zeros(len(table)), bounds=[(-1, 1)] * (arms + 1))
    return bool(found.fun < -1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.1, 0.9))
def test_davidson_has_a_maximum_exactly_where_it_is_said(seed: int, arms: int, share: float) -> None:
    chance = random.Random(seed)
    ordered = [(i, j) for i in range(arms) for j in range(arms) if i != j]
    won = {pair for pair in ordered if chance.random() < share}
    tied = {(i, j) for i, j in ordered if i < j and chance.random() < share}
    if not won or not tied or len(groups(arms, won, tied)) > 1:
        return
    assert ties_told(range(arms), won, tied) is not grows_for_ever(arms, won, tied)


def test_ties_that_are_told_and_ties_that_are_not() -> None:
    assert ties_told([0, 1], [(0, 1), (1, 0)], [(0, 1)])
    assert not ties_told([0, 1], [(0, 1)], [(0, 1)])
    assert not ties_told([0, 1], [(0, 1), (1, 0)], [])
    assert ties_told([0, 1, 2], [(0, 1), (1, 2)], [(0, 2)])  # two wins and one tie round the circle
    assert not ties_told([0, 1, 2], [(0, 1), (1, 2)], [(0, 1), (1, 2)])


def test_circles_are_shortest_and_the_surest_first() -> None:
    assert circles(3, {(0, 1): -0.1, (1, 2): -0.1, (0, 2): -0.1}) == []
    assert circles(3, {(1, 2): -0.01, (2, 0): -0.02, (0, 1): -0.03}) == [[0, 1, 2]]
    four = {(0, 1): -0.1, (1, 2): -0.1, (2, 3): -0.1, (3, 0): -0.1}
    assert circles(4, four) == [[0, 1, 2, 3]]
    two = {(0, 1): -0.04, (1, 2): -0.04, (2, 0): -0.04, (1, 3): -0.01, (3, 0): -0.01} | {(0, 1): -0.01}
    assert circles(4, two) == [[0, 1, 3], [0, 1, 2]]
    assert circles(4, two, most=1) == [[0, 1, 3]]
