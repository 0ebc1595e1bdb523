"""The event's JSON Schemas over HTTP, against what the same gateway logs."""

import json

import jsonschema
import pytest

from analytics.event_log import open_log
from analytics.event_schema.files import kinds, read
from analytics.events import FEEDBACK_KINDS, GATEWAY_KINDS, encode


def test_the_schemas_are_served(http) -> None:
    listed = http.get("/schema/events").json()
    assert listed == {"version": 2, "versions": [1, 2], "kinds": kinds()}
    for kind in listed["kinds"]:
        answer = http.get(f"/schema/events/{kind}")
        assert answer.headers["content-type"].startswith("application/schema+json") and answer.content == read(kind)
    assert http.get("/schema/events/like?version=1").content == read("like", 1)
    assert http.get("/schema").json()["openapi"].startswith("3.1")


@pytest.mark.parametrize(("path", "status"), [("lik", 404), ("like?version=3", 404), ("like?version=0", 404), ("like?version=x", 400)])
def test_what_is_not_there_is_named(http, path: str, status: int) -> None:
    answer = http.get(f"/schema/events/{path}")
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"


def test_what_the_gateway_logs_fits_its_schemas(running, http) -> None:
    token = http.post("/v1/images/generations", json={"model": "hero", "prompt": "a cat", "user": "schema"}).json()["feedback_token"]
    for said in ({"kind": "like"}, {"kind": "zoom", "value": 2}, {"kind": "click", "sent_at": "2026-11-23T10:00:00Z"}):
        assert http.post("/v1/feedback", json={"feedback_token": token, **said}).status_code == 202
    log = open_log(f"local:{running.folder / 'var/events'}")
    events = [event for _, event in log.read(0, 100_000)]
    log.close()
    seen: dict[str, jsonschema.Draft202012Validator] = {}
    for event in events:
        kind = event.kind if event.kind in {*GATEWAY_KINDS, *FEEDBACK_KINDS} else "custom"
        if kind not in seen:
            seen[kind] = jsonschema.Draft202012Validator(json.loads(read(kind)))
            seen[kind].check_schema(seen[kind].schema)
        seen[kind].validate(json.loads(encode(event)))
    assert {"exposure", "generation", "image", "control", "like", "click", "custom"} <= seen.keys()
