"""Messages: the same bytes give the same events, whoever wrote them; what cannot be read says why."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.events import Event, encode
from analytics.kafka.messages import Undecodable, message_key, message_value, read_message

AT = datetime(2026, 11, 23, 15, 30, 1, 250, UTC)
ONE = Event(event_id=UUID(int=7 << 76 | 2 << 62 | 1), kind="like", occurred_at=AT, received_at=AT, unit="ü 1", attributes={"a": "b"})
TWO = Event(event_id=UUID(int=7 << 76 | 2 << 62 | 2), kind="preference", occurred_at=AT, received_at=AT, value=0.5)


def test_one_event_is_the_plain_json_event() -> None:
    assert message_value([encode(ONE)]) == encode(ONE)
    assert json.loads(message_value([encode(ONE)]))["unit"] == "ü 1"
    assert read_message(message_value([encode(ONE)])) == [ONE]


def test_several_events_share_an_envelope_that_any_json_reader_understands() -> None:
    value = message_value([encode(ONE), encode(TWO)])
    assert [e["kind"] for e in json.loads(value)["events"]] == ["like", "preference"]
    assert read_message(value) == [ONE, TWO]


def test_a_key_is_the_unit() -> None:
    assert message_key("ü 1") == b"\xc3\xbc 1"
    assert message_key("") is None
    with pytest.raises(ValueError, match="at least one"):
        message_value([])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"hello", "malformed"),
        (b"\xff\xfe", "malformed|utf-8"),
        (b"[]", "Expected `object`"),
        (b"{}", "event_id"),
        (b'{"events":[]}', "no event"),
        (b'{"events":[1]}', "Expected `object`"),
        (b'{"events":[' + encode(ONE), "truncated"),
        (encode(ONE)[:-2], "truncated"),
        (encode(ONE).replace(b'"like"', b"4"), "kind"),
        (b"[" * 100_000, "."),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes | None, reason: str) -> None:
    with pytest.raises(Undecodable, match=reason):
        read_message(value)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_and_twice_alike(value: bytes) -> None:
    def read() -> object:
        try:
            return read_message(value)
        except Undecodable as error:
            return str(error)

    assert read() == read()


@given(st.lists(st.sampled_from([ONE, TWO]), min_size=1, max_size=5), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_message_never_raises_anything_else(events: list[Event], at: int, junk: bytes) -> None:
    value = message_value([encode(e) for e in events])
    damaged = value[: at % len(value)] + junk + value[at % len(value) + len(junk) :]
    try:
        assert all(isinstance(event, Event) for event in read_message(damaged))
    except Undecodable as error:
        assert str(error)
