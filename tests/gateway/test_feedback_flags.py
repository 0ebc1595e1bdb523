"""Suspicious feedback is taken, flagged, and said to be so: pure, and on a real gateway down to the log and the report."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest

from analytics.event_log import open_log
from analytics.events import FEEDBACK_KINDS, Flag, derived_id, flag_names, new_id, time_of
from gateway.feedback_events import Feedback, Preference, feedback_event, preference_event, replayed, same_content
from gateway.tokens import Claims, Shown

SHOWN_AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOW = SHOWN_AT + timedelta(minutes=10)
PICTURE, OTHER = Shown(new_id(), 0, "sha256:a"), Shown(new_id(), 1, "sha256:a")
CLAIMS = Claims(new_id(), SHOWN_AT, "hero", "colours", "vivid", "ada", 0.5, (PICTURE, OTHER))
FEEDBACK, IMAGES = "/v1/feedback", "/v1/images/generations"


def made(claims: Claims | None = CLAIMS, bot: bool = False, **said: object):
    return feedback_event(Feedback(kind="like", **said), claims, NOW, FEEDBACK_KINDS, bot)  # type: ignore[arg-type]


def test_flags_keep_their_numbers() -> None:
    """As released: stored events are read by these."""
    numbers = {
        "BOT_USER_AGENT": 1,
        "CLOCK_AHEAD": 2,
        "UNKNOWN_GENERATION": 4,
        "TOKEN_EXPIRED": 8,
        "TOKEN_MISMATCH": 16,
        "RATE": 32,
        "REPLAYED_ID": 64,
        "SELF_CLICK": 128,
    }
    assert {flag.name: flag.value for flag in Flag} == numbers
    assert flag_names(0) == [] and flag_names(1 + 32 + 2**20) == ["bot_user_agent", "rate", "bit_1048576"]


def test_what_contradicts_the_token_is_kept_beside_the_tokens_facts() -> None:
    foreign_generation, foreign_image = new_id(), new_id()
    event = made(generation_id=foreign_generation, image_id=foreign_image)
    assert event.flags == Flag.TOKEN_MISMATCH
    assert (event.generation_id, event.image_id, event.unit, event.arm) == (CLAIMS.generation_id, None, "ada", "vivid")
    assert event.attributes == {"client_generation_id": str(foreign_generation), "client_image_id": str(foreign_image)}
    plain = made(generation_id=CLAIMS.generation_id, image_id=PICTURE.image_id)
    assert (plain.flags, plain.image_id, plain.attributes) == (0, PICTURE.image_id, {})


def test_an_unknown_generation_has_no_arm_and_no_unit() -> None:
    generation_id, image_id = derived_id(SHOWN_AT, "x"), new_id()
    event = made(None, generation_id=generation_id, image_id=image_id, occurred_at=SHOWN_AT - timedelta(days=3))
    assert (event.flags, event.generation_id, event.image_id) == (Flag.UNKNOWN_GENERATION, generation_id, image_id)
    assert (event.unit, event.arm, event.experiment, event.route, event.propensity) == ("", "", "", "", None)
    assert event.occurred_at == SHOWN_AT and event.grid is None
    assert made(None, bot=True, generation_id=generation_id).flags == Flag.UNKNOWN_GENERATION | Flag.BOT_USER_AGENT


@pytest.mark.parametrize("version_4", ["7c9e6679-7425-40de-944b-e07fc1f90ae7", "ffffffff-ffff-7fff-bfff-ffffffffffff"])
def test_an_unknown_generation_of_no_time_gets_the_same_id_at_a_retry(version_4) -> None:
    first, again = (made(None, generation_id=UUID(version_4), event_id=UUID(version_4)) for _ in range(2))
    assert first.event_id == again.event_id and time_of(first.event_id) == datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minted", "kept", "flags"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), False, 0),
        (datetime(2019, 12, 31, 23, 59, tzinfo=UTC), False, 0),
        (datetime(2020, 1, 1, tzinfo=UTC), True, 0),
        (NOW + timedelta(hours=23), True, 0),
        (NOW + timedelta(hours=25), False, Flag.CLOCK_AHEAD),
        (datetime(2105, 1, 1, tzinfo=UTC), False, Flag.CLOCK_AHEAD),
    ],
)
def test_an_id_minted_at_an_impossible_time_is_mapped(minted, kept, flags) -> None:
    said = derived_id(minted, "id")
    first, again = (made(event_id=said) for _ in range(2))
    assert first.flags == flags and first.event_id == again.event_id and (first.event_id == said) == kept
    assert first.attributes == ({} if kept else {"client_event_id": str(said)})
    assert kept or time_of(first.event_id) == SHOWN_AT


def test_the_last_uuid_there_is() -> None:
    """A UUIDv7 of the year 10889, which no datetime can hold."""
    said = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
    assert made(event_id=said).flags == Flag.CLOCK_AHEAD


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (NOW - timedelta(seconds=2), True),
        (NOW + timedelta(hours=2), True),
        (NOW + timedelta(days=2), False),
        (datetime(1, 1, 1, tzinfo=UTC), False),
        (datetime(9999, 12, 31, tzinfo=UTC), False),
    ],
)
def test_sent_at_is_kept_and_changes_nothing_else(said, kept) -> None:
    event, plain = made(sent_at=said, occurred_at=NOW), made(occurred_at=NOW)
    assert event.sent_at == (said if kept else None)
    assert event.attributes == ({} if kept else {"client_sent_at": said.isoformat()})
    assert (event.occurred_at, event.received_at, event.flags) == (plain.occurred_at, plain.received_at, plain.flags)
    batch = feedback_event(Feedback(kind="like"), CLAIMS, NOW, FEEDBACK_KINDS, False, sent_at=NOW)
    own = feedback_event(Feedback(kind="like", sent_at=SHOWN_AT), CLAIMS, NOW, FEEDBACK_KINDS, False, sent_at=NOW)
    assert (batch.sent_at, own.sent_at) == (NOW, SHOWN_AT)


def claims_of(unit: str, picture: Shown) -> Claims:
    return Claims(new_id(), SHOWN_AT, "hero", "colours", "vivid", unit, 0.5, (picture,))


@pytest.mark.parametrize(
    ("winner", "loser", "rater", "flags"),
    [
        ("ada", "bob", "ada", Flag.SELF_CLICK),
        ("ada", "bob", "bob", Flag.SELF_CLICK),
        ("ada", "ada", "ada", 0),
        ("ada", "bob", "eve", 0),
        ("ada", "bob", None, 0),
    ],
)
def test_a_vote_on_ones_own_picture(winner, loser, rater, flags) -> None:
    choice = Preference(winner=PICTURE.image_id, loser=OTHER.image_id, rater=rater)
    event = preference_event(choice, claims_of(winner, PICTURE), claims_of(loser, OTHER), NOW, False)
    assert event.flags == flags


def test_what_is_a_repetition_and_what_is_another_event() -> None:
    event = made(event_id=new_id(), image_id=PICTURE.image_id)
    later = feedback_event(
        Feedback(kind="like", event_id=event.event_id, image_id=PICTURE.image_id, value=3), CLAIMS, NOW + timedelta(hours=1),
        FEEDBACK_KINDS, False,
    )  # fmt: skip
    assert same_content(event, later)
    other = feedback_event(Feedback(kind="share", event_id=event.event_id), CLAIMS, NOW, FEEDBACK_KINDS, False)
    assert not same_content(event, other) and not same_content(event, made(event_id=event.event_id, image_id=OTHER.image_id))
    assert replayed(other).event_id == replayed(other).event_id != event.event_id
    assert replayed(other).event_id != replayed(made(event_id=event.event_id)).event_id
    assert replayed(other).flags == Flag.REPLAYED_ID and replayed(other).attributes == {"client_event_id": str(event.event_id)}
    unknown = made(None, event_id=event.event_id, generation_id=CLAIMS.generation_id, image_id=PICTURE.image_id)
    assert same_content(unknown, event) and same_content(event, unknown)


@pytest.fixture
def nobody(running):
    with httpx.Client(base_url=running.url) as client:
        yield client


def logged(running, unit: str) -> list:
    log = open_log(f"local:{running.folder / 'var/events'}")
    try:
        return [event for _, event in log.read(0, 100_000) if event.unit == unit]
    finally:
        log.close()


def flags_counted(http) -> dict[str, float]:
    lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith("salon_feedback_flags_total{")]
    return {line.split('"')[1]: float(line.rsplit(" ", 1)[1]) for line in lines}


def test_a_reused_id_is_stored_beside_the_first_once(running, http, nobody) -> None:
    answer = http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "n": 2, "user": "replayer"}).json()
    first, second = (item["image_id"] for item in answer["data"])
    event_id, token = str(new_id()), answer["feedback_token"]
    before = flags_counted(http).get("replayed_id", 0)

    def send(**said: object) -> dict:
        result = nobody.post(FEEDBACK, json={"kind": "like", "event_id": event_id, "feedback_token": token, **said}).json()["results"][0]
        assert result.pop("event_id") == event_id
        return result

    assert send(image_id=first) == {"status": "accepted"}
    assert send(image_id=first, value=2) == {"status": "duplicate"}
    for status in ("accepted", "duplicate"):
        assert send(image_id=second) == {"status": status, "flags": ["replayed_id"]}
        assert send(kind="share") == {"status": status, "flags": ["replayed_id"]}
    assert flags_counted(http)["replayed_id"] == before + 2
    stored = [event for event in logged(running, "replayer") if event.kind in ("like", "share")]
    assert sorted((e.kind, str(e.image_id), e.flags) for e in stored) == sorted(
        [("like", first, 0), ("like", second, 64), ("share", "None", 64)]
    )
    assert len({event.event_id for event in stored}) == 3
    body = {
        "feedback_token": token,
        "events": [{"kind": kind, "event_id": str(derived_id(NOW, "batch"))} for kind in ("view", "click") * 2],
    }
    results = nobody.post(FEEDBACK, json=body).json()["results"]
    assert [(r["status"], r.get("flags")) for r in results] == [
        ("accepted", None), ("accepted", ["replayed_id"]), ("duplicate", None), ("duplicate", ["replayed_id"]),
    ]  # fmt: skip


def test_unknown_generations_and_contradictions_are_taken_and_told(running, http, nobody) -> None:
    answer = http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "contrary"}).json()
    event_id = new_id()
    unknown = {"kind": "like", "generation_id": str(new_id()), "event_id": str(event_id)}
    result = http.post(FEEDBACK, json=unknown).json()["results"][0]
    assert result == {"event_id": str(event_id), "status": "accepted", "flags": ["unknown_generation"]}
    assert http.post(FEEDBACK, json=unknown).json()["results"][0]["status"] == "duplicate"
    (stored,) = (event for event in logged(running, "") if event.event_id == event_id)
    assert str(stored.generation_id) == unknown["generation_id"] and stored.arm == stored.experiment == ""
    item = {"kind": "like", "feedback_token": answer["feedback_token"], "generation_id": str(new_id())}
    results = nobody.post(FEEDBACK, json={"events": [item, {"kind": "like"}], "feedback_token": answer["feedback_token"]}).json()["results"]
    assert [result.get("flags") for result in results] == [["token_mismatch"], None]
    sent_at = "2026-11-23T10:00:00+02:00"
    nobody.post(FEEDBACK, json={"events": [{"kind": "share"}], "feedback_token": answer["feedback_token"], "sent_at": sent_at})
    (share,) = (event for event in logged(running, "contrary") if event.kind == "share")
    assert share.sent_at == datetime(2026, 11, 23, 8, tzinfo=UTC)


def test_more_than_a_person_can_do_is_flagged_from_there_on(running, http, nobody) -> None:
    """600 a minute are a person's, by default; the minute is that of the events, so it does not matter when this test runs."""
    token = http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "hasty"}).json()["feedback_token"]
    occurred_at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    events = [{"kind": "click", "event_id": str(new_id()), "occurred_at": occurred_at} for _ in range(700)]
    results = nobody.post(FEEDBACK, json={"events": events, "feedback_token": token}).json()["results"]
    assert [result.get("flags") for result in results] == [None] * 600 + [["rate"]] * 100
    again = nobody.post(FEEDBACK, json={"events": events[:50], "feedback_token": token}).json()["results"]
    assert [(result["status"], result.get("flags")) for result in again] == [("duplicate", None)] * 50


def test_late_feedback_on_an_erased_generation_stays_refused_by_id(running, http) -> None:
    """With the record gone, its id must not come back as one of an unknown generation."""
    answer = http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "gone-soon", "response_format": "url"}).json()
    assert http.delete("/v1/units/gone-soon").status_code == 200
    for said in ({"generation_id": answer["generation_id"]}, {"feedback_token": answer["feedback_token"]}):
        refused = http.post(FEEDBACK, json={"kind": "like", **said})
        assert refused.status_code == 404 and "erased" in refused.json()["detail"]


def test_the_report_with_and_without_flagged_events(make_server) -> None:
    server = make_server().start()
    with server.client() as http:
        answers = [http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": f"r{i}"}).json() for i in range(4)]
        for answer, agent in zip(answers, ("python", "python", "Googlebot/2.1", "Googlebot/2.1"), strict=True):
            body = {"kind": "like", "feedback_token": answer["feedback_token"]}
            assert http.post(FEEDBACK, json=body, headers={"user-agent": agent}).status_code == 202
        report = http.get("/v1/experiments/colours/report").json()
        counted = http.get("/v1/experiments/colours/report?flagged=include").json()
        assert http.get("/v1/experiments/colours/report?flagged=yes").json()["field"] == "flagged"
        text = http.get("/v1/experiments/colours/report?flagged=include&format=text").text

    def likers(metric: dict) -> int:
        return sum(round((arm["mean"] or 0) * arm["n"]) for arm in metric["arms"])

    assert (likers(report["metrics"][0]), likers(counted["metrics"][0])) == (2, 4)
    flagged = report["checks"]["flagged"]
    assert (flagged["events"], flagged["by_flag"], flagged["counted"]) == (2, {"bot_user_agent": 2}, False)
    assert likers(flagged["primary_with"]) == 4 and report["flagged"] == "excluded" and counted["flagged"] == "included"
    assert "Flagged events are counted in this report (2 events)" in counted["method_notes"][0] and "flagged events are counted" in text
    assert report["data_as_of"] and report["late_events"] == 0
