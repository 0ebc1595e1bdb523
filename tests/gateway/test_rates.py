"""Feedback that comes faster than a person's: counted per unit and minute of the events' own time, in bounded memory."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.rates import Rates

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_only_what_is_beyond_the_bound_of_its_minute() -> None:
    rates = Rates(3)
    assert [rates.over("ada", NOON + timedelta(seconds=i)) for i in (0, 10, 59, 20, 59)] == [False, False, False, True, True]
    assert not rates.over("ada", NOON + timedelta(seconds=60))
    assert not rates.over("bob", NOON)


def test_what_a_phone_held_back_is_judged_by_when_it_happened() -> None:
    rates = Rates(2)
    assert not any(rates.over("ada", NOON - timedelta(minutes=i)) for i in range(100))


def test_a_repetition_does_not_bring_a_unit_nearer_to_the_bound() -> None:
    rates = Rates(2)
    for _ in range(50):
        rates.over("ada", NOON)
        rates.take_back("ada", NOON)
    assert [rates.over("ada", NOON) for _ in range(3)] == [False, False, True]


def test_nobody_and_a_bound_of_0_are_not_counted() -> None:
    assert not any(Rates(1).over("", NOON) for _ in range(5))
    off = Rates(0)
    assert not any(off.over("ada", NOON) for _ in range(1000))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6), st.booleans()), max_size=200), st.integers(1, 4))
def test_like_a_plain_count(moves: list[tuple[str, int, bool]], bound: int) -> None:
    rates, counts = Rates(bound), dict[tuple[str, int], int]()
    for unit, minute, back in moves:
        at = NOON + timedelta(minutes=minute)
        if back:
            rates.take_back(unit, at)
            counts[unit, minute] = max(0, counts.get((unit, minute), 0) - 1)
        else:
            counts[unit, minute] = counts.get((unit, minute), 0) + 1
            assert rates.over(unit, at) == (counts[unit, minute] > bound)


def test_memory_is_bounded_and_the_oldest_minutes_go_first() -> None:
    rates = Rates(1, kept=10)
    for i in range(1000):
        rates.over("ada", NOON + timedelta(minutes=i))
    assert len(rates._counts) == 10
    assert rates.over("ada", NOON + timedelta(minutes=999)) and not rates.over("ada", NOON)
