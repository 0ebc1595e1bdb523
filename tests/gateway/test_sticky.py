"""What a bandit's units were given first: kept over changes of weights, restarts and gateways' errors, and forgotten with the unit."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from scipy.stats import chisquare

from gateway.assignment import Split, allocate, reweigh
from gateway.erased import Erased
from gateway.sticky import Sticky

START = allocate("salt", {"a": 0.5, "b": 0.3, "c": 0.2})
LATER = reweigh(START, {"a": 0.1, "b": 0.3, "c": 0.6})
RETIRED = reweigh(LATER, {"a": 0.4, "b": 0.6, "c": 0.0})
UNITS = [f"unit-{number}" for number in range(400)]


@pytest.fixture
def sticky(tmp_path: Path) -> Iterator[Sticky]:
    made = open_in(tmp_path)
    yield made
    made.close()


def open_in(folder: Path) -> Sticky:
    return Sticky(folder / "sticky.sqlite", Erased(folder / "erased.jsonl", bytes(range(32))).hash)


async def given(sticky, allocation, units=UNITS, experiment="colours"):
    split = Split(allocation)
    return {unit: await sticky.assign(experiment, unit, split, allocation.weights) for unit in units}


async def test_the_first_draw_decides_with_its_own_propensity_also_after_a_restart(tmp_path, sticky):
    first = await given(sticky, START)
    assert first == {unit: Split(START).assign(unit) for unit in UNITS}
    assert any(Split(LATER).assign(unit).arm != first[unit].arm for unit in UNITS)
    assert await given(sticky, LATER) == first
    sticky.close()
    again = open_in(tmp_path)
    assert await given(again, LATER) == first
    # Who comes later is drawn by the weights of then.
    assert (await given(again, LATER, ["late"]))["late"] == Split(LATER).assign("late")
    again.close()


async def test_who_had_a_retired_arm_is_drawn_anew_by_the_weights_of_today(sticky):
    """A thousand units of one arm, which all stand in its spans: drawn anew they meet today's weights all the same."""
    split = Split(START)
    units = [unit for number in range(6000) if split.assign(unit := f"u{number}").arm == "c"][:1000]
    await given(sticky, START, units)
    now = await given(sticky, RETIRED, units)
    counts = Counter(now.values())
    assert set(counts) == {("a", 0.4), ("b", 0.6)}
    assert chisquare([counts["a", 0.4], counts["b", 0.6]], [400, 600]).pvalue > 0.001
    # Remembered from then on, also when the arm comes back.
    assert await given(sticky, reweigh(RETIRED, {"a": 0.3, "b": 0.2, "c": 0.5}), units) == now


async def test_told_is_what_would_be_given_and_remembers_nothing(tmp_path, sticky):
    first = await given(sticky, START, UNITS[:100])
    told = await sticky.told("colours", UNITS, Split(LATER), LATER.weights)
    assert told[:100] == list(first.values()) and told[100:] == [Split(LATER).assign(unit) for unit in UNITS[100:]]
    assert await given(sticky, START, UNITS[100:]) == {unit: Split(START).assign(unit) for unit in UNITS[100:]}


async def test_experiments_do_not_mix_and_are_dropped_at_their_end(tmp_path, sticky, monkeypatch):
    monkeypatch.setattr("gateway.sticky.ROWS_AT_ONCE", 30)
    await sticky.drop(["old"])
    assert not (tmp_path / "sticky.sqlite").exists()
    first = await given(sticky, START)
    other = await given(sticky, LATER, experiment="other")
    assert other != first
    await sticky.drop(["colours"])
    assert await given(sticky, LATER) == {unit: Split(LATER).assign(unit) for unit in UNITS}
    assert await given(sticky, START, experiment="other") == other


async def test_a_forgotten_unit_leaves_no_trace(tmp_path, sticky):
    assert await sticky.erase("nobody") == 0
    await given(sticky, START, ["ada", "bob"])
    await given(sticky, START, ["ada"], experiment="other")
    assert b"ada" not in (tmp_path / "sticky.sqlite").read_bytes() + (tmp_path / "sticky.sqlite-wal").read_bytes()
    assert await sticky.erase("ada") == 2 and await sticky.erase("ada") == 0
    assert (await sticky.told("colours", ["ada", "bob"], Split(LATER), LATER.weights)) == [
        Split(LATER).assign("ada"),
        Split(START).assign("bob"),
    ]


async def test_a_file_that_cannot_be_written_fails_no_request_and_is_told(tmp_path, sticky, caplog):
    first = await given(sticky, START, UNITS[:10])
    with sqlite3.connect(tmp_path / "sticky.sqlite") as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON draws BEGIN SELECT RAISE(FAIL, 'no room'); END")
        other.commit()
    assert await given(sticky, LATER, UNITS[:20]) == first | {unit: Split(LATER).assign(unit) for unit in UNITS[10:20]}
    assert "no room" in sticky.problem and caplog.text.count("no room") == 1
    with sqlite3.connect(tmp_path / "sticky.sqlite") as other:
        other.execute("DROP TRIGGER full")
        other.commit()
    await given(sticky, START, UNITS[10:20])
    assert sticky.problem == ""
