"""Ranges are cut and finished exactly; where a partition goes on is decided without a surprise."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.kafka.intents import Committed, Note, read_note, starting_point, write_note
from analytics.kafka.ranges import InHand, Range, log_name, token


class Record(NamedTuple):
    offset: int
    value: bytes | None = b"0123456789"


def hand(*offsets: int, at: int = 0, pending: Range | None = None, bound: int = -1) -> InHand:
    made = InHand(3, at, pending, bound)
    made.add([Record(offset) for offset in offsets], 1.0)
    return made


def test_a_token_names_topic_id_partition_and_both_offsets() -> None:
    assert token("Ab1-x", Range(3, 10, 19)) == "Ab1-x:3:10-19"
    assert log_name("salon.events", "Ab1-x") == "kafka:salon.events:Ab1-x"


def test_a_range_begins_where_the_group_stands_and_ends_with_a_record() -> None:
    # 12 to 14 are markers of a transaction, and so is 10.
    held = hand(11, 15, 16, at=10)
    assert held.cut(2) == Range(3, 10, 15)
    assert [r.offset for r in held.of(Range(3, 10, 15))] == [11, 15]
    held.begin(held.cut(2))
    assert held.done() == 16 == held.next
    assert held.cut(9) == Range(3, 16, 16) and held.bytes == 10


def test_bytes_bound_a_range_too_but_never_to_nothing() -> None:
    assert hand(0, 1, 2, 3).cut(100, most_bytes=25) == Range(3, 0, 1)
    assert hand(0, 1, 2, 3).cut(100, most_bytes=1) == Range(3, 0, 0)


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 7), st.integers(1, 60))
def test_ranges_follow_each_other_and_hold_every_record_once(offsets: set[int], most: int, most_bytes: int) -> None:
    held, seen, before = hand(*sorted(offsets)), [], 0
    while held.records:
        chosen = held.cut(most, most_bytes)
        assert chosen.start == before and chosen.end >= chosen.start
        held.begin(chosen)
        assert held.complete(position=0)
        seen += [record.offset for record in held.of(chosen)]
        before = held.done()
        assert before == chosen.end + 1
    assert seen == sorted(offsets) and held.bytes == 0


def test_a_pending_range_is_complete_with_its_last_record_or_past_it() -> None:
    pending = Range(3, 4, 8)
    assert not hand(4, 5, 7, at=4, pending=pending, bound=8).complete(position=8)
    assert hand(4, 5, 7, 8, at=4, pending=pending, bound=8).complete(position=8)
    assert hand(4, 5, 9, at=4, pending=pending, bound=8).complete(position=10)
    # Compaction or an abort left nothing at 8.
    assert hand(4, 5, 7, at=4, pending=pending, bound=8).complete(position=9)


NOTE = Note(topic_id="T")


def test_a_partition_without_a_commit_begins_at_its_beginning_and_says_so_to_the_group() -> None:
    start = starting_point(3, None, "T", 40, 90)
    assert (start.fetch, start.commit, start.lost, start.pending) == (40, True, 0, None)


def test_a_done_goes_on_and_an_intent_is_repeated() -> None:
    start = starting_point(3, Committed(50, NOTE), "T", 40, 90)
    assert (start.fetch, start.commit, start.pending, start.why) == (50, False, None, "")
    start = starting_point(3, Committed(50, Note("T", 60, 1)), "T", 40, 90)
    assert (start.fetch, start.commit, start.pending, start.bound, start.lost) == (50, False, Range(3, 50, 60), 60, 0)


def test_what_retention_took_is_counted_and_said() -> None:
    start = starting_point(3, Committed(50, NOTE), "T", 75, 90)
    assert (start.fetch, start.commit, start.lost) == (75, True, 25)
    assert "25 offsets (50 to 74)" in start.why and "retention_hours" in start.why
    start = starting_point(3, Committed(50, Note("T", 60, 1)), "T", 55, 90)
    assert (start.fetch, start.pending, start.bound, start.lost) == (55, Range(3, 50, 60), 60, 5)
    # All of the begun range is gone: nothing to insert, and the group goes to where the log begins.
    start = starting_point(3, Committed(50, Note("T", 60, 1)), "T", 70, 90)
    held = InHand(3, start.fetch, start.pending, start.bound)
    assert held.complete(position=70) and held.done() == 70


def test_a_topic_made_again_and_a_truncated_one_are_read_from_their_beginning() -> None:
    for committed in (Committed(50, Note("OTHER")), Committed(50, Note("OTHER", 60, 1)), Committed(95, NOTE)):
        start = starting_point(3, committed, "T", 0, 90)
        assert (start.fetch, start.commit, start.pending) == (0, True, None) and start.why
    start = starting_point(3, Committed(50, Note("T", 95, 1)), "T", 0, 90)
    held = InHand(3, start.fetch, start.pending, start.bound)
    held.add([Record(offset) for offset in range(50, 90)], 1.0)
    assert held.pending == Range(3, 50, 95) and held.complete(90) and held.done() == 90


def test_notes_survive_the_trip_and_foreign_metadata_is_no_intent() -> None:
    for note in (Note(), NOTE, Note("T", 0, 5), Note("x" * 30, 2**62, 2**45)):
        assert read_note(write_note(note)) == note
    for foreign in (None, "", "by hand", '{"end":"x"}', "[]"):
        assert read_note(foreign) == Note()
    with pytest.raises(ValueError, match="4096"):
        write_note(Note("x" * 4096))
