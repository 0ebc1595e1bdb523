"""Feedback to a real gateway: tokens, keys, duplicates, nonsense, preferences, and what the event log then holds."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest

from analytics.event_log import open_log
from analytics.events import new_id
from gateway.tokens import Claims, Sealer

IMAGES, FEEDBACK = "/v1/images/generations", "/v1/feedback"


@pytest.fixture
def shown(http):
    """An answer with two pictures."""
    return http.post(IMAGES, json={"model": "hero", "prompt": "a red heart", "n": 2, "user": "grace"}).json()


@pytest.fixture
def nobody(running):
    with httpx.Client(base_url=running.url) as client:
        yield client


def logged(running, event_id):
    log = open_log(f"local:{running.folder / 'var/events'}")
    try:
        return next(event for _, event in log.read(0, 100_000) if event.event_id == UUID(str(event_id)))
    finally:
        log.close()


def test_a_token_is_enough_and_the_facts_are_copied(running, http, nobody, shown):
    answer = nobody.post(
        FEEDBACK, json={"feedback_token": shown["feedback_token"], "image_id": shown["data"][1]["image_id"], "kind": "like"}
    )
    assert answer.status_code == 202 and answer.json()["results"][0]["status"] == "accepted"
    event = logged(running, answer.json()["results"][0]["event_id"])
    record = http.get(f"/v1/generations/{shown['generation_id']}").json()
    assert (event.kind, event.unit, event.arm, event.experiment, event.route) == ("like", "grace", record["arm"], "colours", "hero")
    assert (event.position, event.grid, event.propensity, event.variant_digest) == (1, 2, 0.5, record["variant_digest"])


def test_send_beacon_works_as_text_without_a_key(nobody, shown):
    body = json.dumps({"feedback_token": shown["feedback_token"], "kind": "view"})
    assert nobody.post(FEEDBACK, content=body, headers={"content-type": "text/plain;charset=UTF-8"}).status_code == 202


def test_a_key_with_scope_feedback_may_name_the_generation(http, shown):
    answer = http.post(FEEDBACK, json={"generation_id": shown["generation_id"], "kind": "zoom", "value": 2})
    assert answer.status_code == 202


def test_event_ids_make_feedback_idempotent(http, shown):
    for event_id in (str(new_id()), "7c9e6679-7425-40de-944b-e07fc1f90ae7"):
        item = {"generation_id": shown["generation_id"], "kind": "like", "event_id": event_id}
        first, again = (http.post(FEEDBACK, json=item).json()["results"][0] for _ in range(2))
        assert first == {"event_id": event_id, "status": "accepted"} and again == {"event_id": event_id, "status": "duplicate"}


def test_a_batch_answers_in_order(http, nobody, shown):
    event_id = str(new_id())
    events = [
        {"kind": "like", "event_id": event_id},
        {"kind": "likes"},
        {"kind": "like", "event_id": event_id},
        {"kind": "like", "image_id": str(new_id())},
        {"kind": "share", "value": 2.5},
        {"kind": "share", "value": "much"},
        {"kind": "share", "feedback_token": "forged"},
    ]
    answer = nobody.post(FEEDBACK, json={"events": events, "feedback_token": shown["feedback_token"]})
    results = answer.json()["results"]
    assert answer.status_code == 202
    assert [result["status"] for result in results] == ["accepted", "rejected", "duplicate", "accepted", "accepted", "rejected", "rejected"]
    assert [result["error"]["field"] for result in results if "error" in result] == ["kind", "value", "feedback_token"]
    assert [result.get("flags") for result in results] == [None, None, None, ["token_mismatch"], None, None, None]
    assert "did you mean 'like'" in results[1]["error"]["detail"]


def test_one_number_out_of_range_rejects_only_its_event(http, shown):
    token = shown["feedback_token"]
    body = f'{{"events": [{{"kind":"like","feedback_token":"{token}","value":1e400}}, {{"kind":"like","feedback_token":"{token}"}}]}}'
    results = http.post(FEEDBACK, content=body).json()["results"]
    assert [result["status"] for result in results] == ["rejected", "accepted"] and results[0]["error"]["field"] == "value"


def changed(shown):
    return shown["feedback_token"][:-4] + "AAAA"


def foreign(shown):
    """What another gateway, with another key, would have sealed."""
    claims = Claims(UUID(shown["generation_id"]), datetime.now(UTC), "hero", "colours", "vivid", "grace", 0.5, ())
    return Sealer(bytes(32)).seal(claims)


NONSENSE = [
    (lambda s: {"kind": "lik"}, 400, "kind"),
    (lambda s: {"kind": "exposure"}, 400, "kind"),
    (lambda s: {"kind": "control"}, 400, "kind"),
    (lambda s: {"kind": "preference"}, 400, "kind"),
    (lambda s: {"image_id": "x"}, 400, "image_id"),
    (lambda s: {"value": "NaN"}, 400, "value"),
    (lambda s: {"value": True}, 400, "value"),
    (lambda s: {"event_id": "1"}, 400, "event_id"),
    (lambda s: {"occurred_at": "yesterday"}, 400, "occurred_at"),
    (lambda s: {"occurred_at": "2026-11-23T12:00:00"}, 400, "occurred_at"),
    (lambda s: {"attributes": {"loser": "x"}}, 400, "attributes.loser"),
    (lambda s: {"attributes": {"x": 1}}, 400, "attributes"),
    (lambda s: {"sent_at": "2026-11-23T12:00:00"}, 400, "sent_at"),
    (lambda s: {"attributes": {"client_image_id": "x"}}, 400, "attributes.client_image_id"),
    (lambda s: {"feedback_token": None, "generation_id": s["generation_id"], "image_id": str(new_id())}, 400, "image_id"),
    (lambda s: {"feedback_token": "forged"}, 403, "feedback_token"),
    (lambda s: {"feedback_token": changed(s)}, 403, "feedback_token"),
    (lambda s: {"feedback_token": foreign(s)}, 403, "feedback_token"),
]


@pytest.mark.parametrize(("wrong", "status", "field"), NONSENSE, ids=[str(i) for i in range(len(NONSENSE))])
def test_nonsense_is_refused_by_name(http, shown, wrong, status, field):
    answer = http.post(FEEDBACK, json={"kind": "like", "feedback_token": shown["feedback_token"], **wrong(shown)})
    assert answer.status_code == status and answer.json()["field"] == field
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("value", ["NaN", "1e400", "-1e400", "Infinity"])
def test_numbers_that_are_none_are_refused(http, shown, value):
    answer = http.post(FEEDBACK, content=f'{{"kind":"like","feedback_token":"{shown["feedback_token"]}","value":{value}}}')
    assert answer.status_code == 400


def test_without_token_and_key_there_is_no_feedback(http, nobody, shown):
    assert nobody.post(FEEDBACK, json={"kind": "like", "generation_id": shown["generation_id"]}).status_code == 401
    assert nobody.post(FEEDBACK, json={"events": [{"kind": "like", "generation_id": shown["generation_id"]}]}).status_code == 401
    assert nobody.post(FEEDBACK, json={"kind": "like", "generation_id": str(new_id())}).status_code == 401
    assert http.post(FEEDBACK, json={"kind": "like"}).json()["field"] == "generation_id"
    assert http.post(FEEDBACK, json={"events": [{}] * 1001}).status_code == 400


def test_clocks_and_robots_are_flagged_not_dropped(running, nobody, shown):
    now = datetime.now(UTC)
    ahead = {"kind": "click", "feedback_token": shown["feedback_token"], "occurred_at": (now + timedelta(hours=1)).isoformat()}
    event = logged(running, nobody.post(FEEDBACK, json=ahead).json()["results"][0]["event_id"])
    assert event.flags == 2 and event.occurred_at <= event.received_at
    behind = {**ahead, "occurred_at": (now - timedelta(days=400)).isoformat()}
    event = logged(running, nobody.post(FEEDBACK, json=behind, headers={"user-agent": "Googlebot/2.1"}).json()["results"][0]["event_id"])
    assert event.flags == 1 and event.occurred_at >= now - timedelta(minutes=5) and "client_occurred_at" in event.attributes


def test_preferences(running, http, nobody, shown):
    first, second = (item["image_id"] for item in shown["data"])
    answer = http.post("/v1/preferences", json={"winner": first, "loser": second, "rater": "judge-7"})
    event = logged(running, answer.json()["results"][0]["event_id"])
    assert answer.status_code == 202 and event.kind == "preference" and event.value == 1.0 and str(event.image_id) == first
    assert event.attributes["loser"] == second and event.attributes["rater"] == "judge-7"
    tie = nobody.post("/v1/preferences", json={"winner": first, "loser": second, "tie": True, "feedback_token": shown["feedback_token"]})
    assert tie.status_code == 202 and logged(running, tie.json()["results"][0]["event_id"]).value == 0.5
    elsewhere = http.post(IMAGES, json={"model": "side", "prompt": "a cat", "user": "x"}).json()["data"][0]["image_id"]
    assert http.post("/v1/preferences", json={"winner": first, "loser": elsewhere}).json()["field"] == "loser"
    assert http.post("/v1/preferences", json={"winner": first, "loser": first}).status_code == 400
    assert http.post("/v1/preferences", json={"winner": first, "loser": str(new_id())}).status_code == 404
    assert nobody.post("/v1/preferences", json={"winner": first, "loser": second}).status_code == 401


def test_the_log_holds_one_exposure_and_every_generation_and_image(running, http):
    for _ in range(3):
        answer = http.post(IMAGES, json={"model": "hero", "prompt": "a cat", "n": 2, "user": "only-once"}).json()
    assert len(answer["data"]) == 2
    log = open_log(f"local:{running.folder / 'var/events'}")
    events = [event for _, event in log.read(0, 100_000) if event.unit == "only-once"]
    log.close()
    kinds = [event.kind for event in events]
    assert (kinds.count("exposure"), kinds.count("generation"), kinds.count("image")) == (1, 3, 6)
    generation = next(event for event in events if event.kind == "generation")
    assert generation.status == "ok" and generation.grid == 2 and generation.queue_ms >= 0 and generation.service_ms > 0
    assert {event.position for event in events if event.kind == "image"} == {0, 1}
    assert len({event.arm for event in events}) == 1 and {event.propensity for event in events} == {0.5}
