"""A client's clock must not move feedback before the exposure, where no metric would count it (pure, and on a real gateway)."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from analytics.event_log import open_log
from analytics.events import FEEDBACK_KINDS, Flag, new_id
from gateway.feedback_events import Feedback, feedback_event
from gateway.tokens import Claims

SHOWN_AT = datetime(2026, 11, 23, 12, 0, 0, 123456, UTC)
NOW = SHOWN_AT + timedelta(minutes=10)
CLAIMS = Claims(new_id(), SHOWN_AT, "hero", "colours", "vivid", "ada", 0.5, ())


@pytest.mark.parametrize(
    ("said", "kept", "flags"),
    [
        (SHOWN_AT - timedelta(microseconds=1), SHOWN_AT, 0),
        (SHOWN_AT - timedelta(seconds=3), SHOWN_AT, 0),
        (SHOWN_AT - timedelta(days=400), SHOWN_AT, 0),
        (SHOWN_AT, SHOWN_AT, 0),
        (SHOWN_AT + timedelta(seconds=3), SHOWN_AT + timedelta(seconds=3), 0),
        (NOW + timedelta(minutes=4), NOW, 0),
        (NOW + timedelta(minutes=6), NOW, int(Flag.CLOCK_AHEAD)),
    ],
)
def test_a_time_is_held_between_the_generation_and_now(said, kept, flags) -> None:
    event = feedback_event(Feedback(kind="like", occurred_at=said), CLAIMS, NOW, FEEDBACK_KINDS, False)
    assert (event.occurred_at, event.received_at, event.flags) == (kept, NOW, flags)
    assert event.attributes == ({} if said == kept else {"client_occurred_at": said.isoformat()})


def test_a_slow_clock_does_not_lose_a_like(running, http) -> None:
    """By token and by generation id, the like stands at the exposure or after it: there the warehouse counts it."""
    shown = http.post("/v1/images/generations", json={"model": "hero", "prompt": "a cat", "user": "slow-clock"}).json()
    said = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    for name, value in (("feedback_token", shown["feedback_token"]), ("generation_id", shown["generation_id"])):
        assert http.post("/v1/feedback", json={"kind": "like", "occurred_at": said, name: value}).status_code == 202
    log = open_log(f"local:{running.folder / 'var/events'}")
    events = [event for _, event in log.read(0, 100_000) if event.unit == "slow-clock"]
    log.close()
    (exposure,) = (event for event in events if event.kind == "exposure")
    likes = [event for event in events if event.kind == "like"]
    assert [(e.occurred_at, e.flags, e.attributes["client_occurred_at"]) for e in likes] == [(exposure.occurred_at, 0, said)] * 2
    assert {event.generation_id for event in likes} == {UUID(shown["generation_id"])}
