"""Whatever a client says: an event that fits the schema, within bounds, the same id at a retry; or a refusal that names a field."""

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from analytics.event_schema.files import read
from analytics.events import FEEDBACK_KINDS, Event, Flag, decode, derived_id, encode, time_of
from gateway.feedback_events import Feedback, feedback_event, replayed, same_content
from gateway.problems import Problem
from gateway.tokens import Claims, Shown

SHOWN_AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PICTURE = Shown(derived_id(SHOWN_AT, "picture"), 0, "sha256:a")
CLAIMS = Claims(derived_id(SHOWN_AT, "generation"), SHOWN_AT, "hero", "colours", "vivid", "ada", 0.5, (PICTURE,))
OFFSETS = st.builds(lambda minutes: timezone(timedelta(minutes=minutes)), st.integers(-14 * 60, 14 * 60))
TIMES = st.one_of(
    st.none(), st.datetimes(timezones=OFFSETS), st.datetimes(datetime(2026, 11, 20), datetime(2026, 11, 27), timezones=OFFSETS)
)
# RFC 4122 layouts of every version, and of any time for version 7.
IDS = st.one_of(
    st.builds(lambda number, version: UUID(int=number, version=version), st.integers(0, 2**128 - 1), st.integers(1, 5)),
    st.builds(lambda number: UUID(int=number & ~(0xF << 76) & ~(3 << 62) | 7 << 76 | 2 << 62), st.integers(0, 2**128 - 1)),
    st.builds(lambda hours: derived_id(SHOWN_AT + timedelta(hours=hours), "x"), st.integers(-100, 100)),
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["screen", "loser", "client_sent_at"]), st.text(max_size=5), max_size=2)
ITEMS = st.builds(
    Feedback,
    kind=st.sampled_from(["like", "view", "convert"]),
    generation_id=st.one_of(st.none(), st.just(CLAIMS.generation_id), IDS),
    image_id=st.one_of(st.none(), st.just(PICTURE.image_id), IDS),
    value=st.one_of(st.none(), st.floats()),
    event_id=st.one_of(st.none(), IDS),
    occurred_at=TIMES,
    sent_at=TIMES,
    attributes=st.one_of(st.none(), ATTRIBUTES),
)
VALIDATORS = {kind: jsonschema.Draft202012Validator(json.loads(read(kind))) for kind in ("like", "view", "convert")}


@settings(max_examples=300, deadline=None)
@given(ITEMS, st.booleans(), st.booleans(), st.integers(0, 60 * 24 * 60))
def test_an_event_in_bounds_or_a_refusal_by_name(item: Feedback, known: bool, bot: bool, minutes: int) -> None:
    now = SHOWN_AT + timedelta(minutes=minutes)

    def made() -> Event:
        return feedback_event(item, CLAIMS if known else None, now, FEEDBACK_KINDS, bot)

    try:
        event = made()
    except Problem as problem:
        assert problem.status == 400 and problem.field is not None
        return
    assert decode(encode(event)) == event and VALIDATORS[item.kind].is_valid(json.loads(encode(event)))
    minted = time_of(event.event_id)
    assert minted is not None and datetime(2020, 1, 1, tzinfo=UTC) <= minted
    assert minted <= now + timedelta(days=1) or item.event_id is None
    assert event.occurred_at <= event.received_at == now and (not known or event.occurred_at >= SHOWN_AT)
    assert (event.unit, event.arm) == (("ada", "vivid") if known else ("", ""))
    assert bool(event.flags & Flag.UNKNOWN_GENERATION) == (not known)
    said = {"occurred_at": item.occurred_at, "sent_at": item.sent_at, "event_id": item.event_id}
    for name, value in said.items():
        assert value is None or getattr(event, name) == value or f"client_{name}" in event.attributes
    if item.event_id is not None:
        again = made()
        assert again.event_id == event.event_id and same_content(event, again)
        assert replayed(event).event_id == replayed(again).event_id != event.event_id
