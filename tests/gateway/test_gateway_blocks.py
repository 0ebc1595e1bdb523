"""Blocks of a switchback: which block a moment is in, its arm, its wash-out."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from scipy.stats import chisquare

from analytics.designs import Switchback
from gateway.assignment import Split, allocate, reweigh
from gateway.blocks import block_at

BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOURLY = Switchback(block_minutes=60, washout_minutes=10)
EVEN = allocate("salt", {"a": 0.5, "b": 0.5})


def at(minutes, *, allocation=EVEN, weighed=0.0, settings=HOURLY):
    return block_at(Split(allocation), settings, BEGAN, BEGAN + timedelta(minutes=weighed), BEGAN + timedelta(minutes=minutes))


@pytest.mark.parametrize(
    ("minutes", "number", "washout"),
    [(0, 0, True), (9.99, 0, True), (10, 0, False), (59.99, 0, False), (60, 1, True), (70, 1, False), (24 * 60 + 30, 24, False)],
)
def test_blocks_and_wash_outs_by_hand(minutes, number, washout):
    found = at(minutes)
    assert (found.number, found.washout) == (number, washout)


def test_a_clock_that_is_behind_the_start_is_in_the_first_block():
    assert at(-3).number == 0


def test_a_block_has_one_arm_and_arms_come_by_weight():
    split = Split(allocate("salt", {"a": 0.7, "b": 0.3}))
    arms = [block_at(split, HOURLY, BEGAN, BEGAN, BEGAN + timedelta(hours=hour, minutes=30)) for hour in range(20_000)]
    assert {(block.arm, block.propensity) for block in arms} == {("a", 0.7), ("b", 0.3)}
    counts = [sum(block.arm == arm for block in arms) for arm in "ab"]
    assert chisquare(counts, [14_000, 6_000]).pvalue > 0.001
    # Neighbours know nothing of each other: as many changes as independent draws have.
    changes = sum(one.arm != other.arm for one, other in pairwise(arms))
    assert chisquare([changes, 19_999 - changes], [0.42 * 19_999, 0.58 * 19_999]).pvalue > 0.001
    for hour in (0, 7, 19_999):
        within = {block_at(split, HOURLY, BEGAN, BEGAN, BEGAN + timedelta(hours=hour, minutes=minute)).arm for minute in range(60)}
        assert within == {arms[hour].arm}


def test_after_weights_change_in_the_middle_the_rest_of_the_block_is_wash_out():
    """A block that keeps its arm would tell weights that it was not drawn by; one that does not has two arms."""
    other = reweigh(EVEN, {"a": 0.1, "b": 0.9})
    assert not at(85, weighed=0.0).washout
    assert at(85, allocation=other, weighed=80).washout and at(119.9, allocation=other, weighed=80).washout
    assert not at(135, allocation=other, weighed=80).washout
    assert at(135, allocation=other, weighed=80).propensity in (0.1, 0.9)
    # Changed at the very beginning of a block: all of it is of the new weights.
    assert not at(75, allocation=other, weighed=60).washout
