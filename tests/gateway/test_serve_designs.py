"""Grids of several arms, duels, switchbacks and sticky bandits through a real gateway: what is shown, logged, and copied into feedback."""

import contextlib
import json
import sqlite3
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from test_gateway_app import Live

from gateway.keys import revoke_key

IMAGES = "/v1/images/generations"
CONFIG = """
[events]
log = "local:var/events"
[variants.base]
model = "{model}"
steps = 2
[variants.vivid]
extends = "base"
steps = 3
[variants.broken]
extends = "base"
adapter = "registry:gone@sha256:{digest}"
[routes.grid]
serve = "base"
[routes.risky]
serve = "base"
[routes.pair]
serve = "base"
[routes.clock]
serve = "base"
[routes.learn]
serve = "base"
[metrics.preferred]
kind = "proportion"
event = "preference"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.mixed]
route = "grid"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
design = "interleave"
primary = "like_rate"
autostart = true
[experiments.failing]
route = "risky"
arms = {{ vivid = 0.5, broken = 0.5 }}
control = "vivid"
design = "interleave"
primary = "like_rate"
autostart = true
[experiments.sides]
route = "pair"
arms = {{ base = 0.5, vivid = 0.5, broken = 0.0 }}
control = "base"
design = "duel"
primary = "preferred"
autostart = true
[experiments.blocks]
route = "clock"
arms = {{ base = 0.25, vivid = 0.75 }}
control = "base"
design = "switchback"
switchback = {{ block_minutes = 0.02, washout_minutes = 0.008 }}
primary = "like_rate"
autostart = true
[experiments.policy]
route = "learn"
arms = {{ base = 0.5, vivid = 0.5 }}
control = "base"
design = "bandit"
primary = "like_rate"
autostart = true
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("designs")


@pytest.fixture(scope="module")
def salon(folder, model):
    live = Live(folder, CONFIG, model=model)
    yield live
    live.stop()


def ask(salon, route, user, n, **more):
    body = {"model": route, "prompt": "a cat", "n": n, **({"user": user} if user else {}), **more}
    answer = httpx.post(salon.url + IMAGES, json=body, headers=key(salon), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def key(salon):
    return {"authorization": f"Bearer {salon.key}"}


def of(salon, kind, shown, at_least=1):
    """The events of one answer."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        found = [event for event in salon.events(kind) if str(event.generation_id) == shown["generation_id"]]
        if len(found) >= at_least:
            return sorted(found, key=lambda event: event.position or 0)
        time.sleep(0.02)
    raise AssertionError(f"no {kind} of {shown['generation_id']}")


def say(salon, shown, **item):
    answer = httpx.post(f"{salon.url}/v1/feedback", json={"feedback_token": shown["feedback_token"], **item})
    assert answer.status_code == 202, answer.text
    (found,) = [event for event in salon.events(item["kind"], 1) if str(event.event_id) == answer.json()["results"][0]["event_id"]]
    return found


def rows(folder):
    """How many assignments the gateway remembers."""
    with contextlib.closing(sqlite3.connect(folder / "var/state/sticky.sqlite")) as database:
        return database.execute("SELECT count(*) FROM draws").fetchone()[0]


def digest_of(salon, name):
    return salon.gateway.engines.loaded(salon.gateway.config.variants[name]).digest


def test_a_grid_mixes_arms_and_everything_says_which_picture_is_whose(salon):
    headers, places = Counter(), Counter()
    for _ in range(8):
        answer = ask(salon, "grid", "ada", 4)
        arms = answer.headers["salon-arm"].split(",")
        headers[tuple(sorted(arms))] += 1
        places.update(enumerate(arms))
    assert headers == {("base", "base", "vivid", "vivid"): 8} and len(places) > 4
    shown = answer.json()
    (generation,), images = of(salon, "generation", shown), of(salon, "image", shown, 4)
    assert generation.arm == "" and generation.propensity is None and generation.variant_digest == "" and generation.experiment == "mixed"
    assert generation.attributes["arms"] == generation.attributes["served"] == ",".join(arms) and generation.steps is None
    assert (
        [image.arm for image in images] == arms
        and {image.propensity for image in images} == {0.5}
        and {image.grid for image in images} == {4}
    )
    assert [image.variant_digest for image in images] == [digest_of(salon, arm) for arm in arms]
    assert [image.steps for image in images] == [{"base": 2, "vivid": 3}[arm] for arm in arms]
    exposures = [event for event in salon.events("exposure", 1) if event.experiment == "mixed"]
    assert {(event.unit, event.arm, event.propensity) for event in exposures} == {("ada", "", None)}
    assert len({event.event_id for event in exposures}) == 1

    place = arms.index("vivid")
    liked = say(salon, shown, kind="like", image_id=shown["data"][place]["image_id"])
    assert (liked.arm, liked.propensity, liked.position, liked.variant_digest) == ("vivid", 0.5, place, digest_of(salon, "vivid"))
    seen = say(salon, shown, kind="view")
    assert (seen.arm, seen.propensity, seen.variant_digest, seen.experiment) == ("", None, "", "mixed")
    told = httpx.get(f"{salon.url}/v1/generations/{shown['generation_id']}", headers=key(salon)).json()
    assert [image["arm"] for image in told["images"]] == arms and [image["served"] for image in told["images"]] == arms
    assert told["variants"].keys() == {"base", "vivid"} and told["variants"]["vivid"]["steps"] == 3 and told["arm"] == ""
    # Without the token, and after the gateway has forgotten: from the store.
    salon.gateway.recent.erase("ada")
    by_id = {"generation_id": shown["generation_id"], "kind": "like", "image_id": shown["data"][1 - place % 2]["image_id"]}
    assert httpx.post(f"{salon.url}/v1/feedback", json=by_id, headers=key(salon)).status_code == 202
    assert salon.events("like", 2)[-1].arm == arms[1 - place % 2]
    text = httpx.get(f"{salon.url}/metrics").text
    for arm in ("base", "vivid"):
        assert f'salon_arm_generations_total{{arm="{arm}",experiment="mixed",status="ok"}} 8.0' in text


def test_a_grid_for_nobody_or_of_one_picture_takes_no_part(salon):
    for user, n in (("ada", 1), (None, 4)):
        answer = ask(salon, "grid", user, n)
        (generation,) = of(salon, "generation", answer.json())
        assert "salon-arm" not in answer.headers and generation.experiment == "" and generation.attributes["served"] == "base"
        assert "arms" not in generation.attributes
    asked = {"route": "grid", "units": ["ada"]}
    told = httpx.post(f"{salon.url}/v1/assignments", json=asked, headers=key(salon)).json()["assignments"]
    assert told == [{"unit": "ada", "experiment": "mixed", "arm": None, "propensity": None}]


def test_an_arm_that_fails_is_replaced_in_its_places_and_keeps_its_name(salon):
    answer = ask(salon, "risky", "bob", 3)
    arms, shown = answer.headers["salon-arm"].split(","), answer.json()
    assert set(arms) == {"vivid", "broken"} and len(shown["data"]) == 3
    (generation,), images = of(salon, "generation", shown), of(salon, "image", shown, 3)
    served = ["base" if arm == "broken" else arm for arm in arms]
    assert generation.status == "failed" and generation.attributes["error"] == "broken: ModelError"
    assert generation.attributes["arms"].split(",") == arms and generation.attributes["served"].split(",") == served
    assert [image.arm for image in images] == arms and [image.variant_digest for image in images] == [digest_of(salon, s) for s in served]
    text = httpx.get(f"{salon.url}/metrics").text
    assert 'salon_arm_generations_total{arm="broken",experiment="failing",status="failed"} 1.0' in text
    assert 'salon_arm_generations_total{arm="vivid",experiment="failing",status="ok"} 1.0' in text


def test_a_stream_of_a_mixed_grid_shows_each_place_unfold(salon):
    body = {"model": "grid", "prompt": "a cat", "user": "eve", "n": 4, "stream": True, "partial_images": 1}
    lines = httpx.post(salon.url + IMAGES, json=body, headers=key(salon), timeout=60).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    for kind in ("image_generation.partial_image", "image_generation.completed"):
        assert sorted(event["position"] for event in events if event["type"] == kind) == [0, 1, 2, 3]


def test_a_duel_says_its_pair_and_a_choice_both_arms(salon):
    answer = ask(salon, "pair", "ada", 2)
    arms, shown = answer.headers["salon-arm"].split(","), answer.json()
    (generation,), images = of(salon, "generation", shown), of(salon, "image", shown, 2)
    assert sorted(arms) == ["base", "vivid"] and generation.attributes["pair"] == "base|vivid" and generation.propensity == 1.0
    assert [image.arm for image in images] == arms and {image.propensity for image in images} == {1.0} and generation.arm == ""
    first, second = (item["image_id"] for item in shown["data"])
    choice = {"winner": second, "loser": first, "rater": "ada", "feedback_token": shown["feedback_token"]}
    assert httpx.post(f"{salon.url}/v1/preferences", json=choice).status_code == 202
    chosen = salon.events("preference", 1)[-1]
    assert (chosen.arm, chosen.attributes["loser_arm"], chosen.position) == (arms[1], arms[0], 1)
    assert chosen.attributes["loser_variant_digest"] == digest_of(salon, arms[0]) and chosen.variant_digest == digest_of(salon, arms[1])
    assert "salon-arm" not in ask(salon, "pair", "ada", 3).headers


def test_a_switchback_gives_everybody_the_arm_of_the_block(salon):
    blocks: dict[str, set[tuple[str, float]]] = {}
    washouts, answers = Counter(), []
    for number in range(24):
        answers.append(ask(salon, "clock", f"unit-{number}", 1))
        time.sleep(0.1)
    shown = answers[-1].json()
    (generation,) = of(salon, "generation", shown)
    generations, images = salon.events("generation"), {event.generation_id: event for event in salon.events("image")}
    for answer, event in zip(answers, [event for event in generations if event.experiment == "blocks"], strict=True):
        block, image = event.attributes["block"], images[event.generation_id]
        blocks.setdefault(block, set()).add((event.arm, event.propensity))
        assert image.attributes["block"] == block and image.arm == event.arm == answer.headers["salon-arm"]
        washouts[event.attributes.get("washout"), image.attributes.get("washout")] += 1
    assert len(blocks) >= 2 and all(len(found) == 1 for found in blocks.values())
    assert set().union(*blocks.values()) <= {("base", 0.25), ("vivid", 0.75)}
    assert set(washouts) == {(None, None), ("true", "true")}
    liked = say(salon, shown, kind="like", attributes={"screen": "editor"})
    assert liked.attributes == {"screen": "editor", **{k: v for k, v in generation.attributes.items() if k in ("block", "washout")}}
    assert liked.propensity == generation.propensity
    refused = {"feedback_token": shown["feedback_token"], "kind": "like", "attributes": {"block": "0"}}
    assert httpx.post(f"{salon.url}/v1/feedback", json=refused).json()["field"] == "attributes.block"


def test_a_bandit_remembers_over_weights_and_a_restart_and_forgets_the_forgotten(salon, folder, model):
    units = [f"unit-{number}" for number in range(12)]
    first = {unit: ask(salon, "learn", unit, 1).headers["salon-arm"] for unit in units}
    changed = {"weights": {"base": 0.05, "vivid": 0.95}, "why": "looks good"}
    assert httpx.patch(f"{salon.url}/v1/experiments/policy", json=changed, headers=key(salon)).status_code == 200

    def told(live):
        asked = {"route": "learn", "units": [*units, *(f"stranger-{number}" for number in range(400))]}
        answer = httpx.post(f"{live.url}/v1/assignments", json=asked, headers=key(live)).json()["assignments"]
        return {item["unit"]: (item["arm"], item["propensity"]) for item in answer}

    before = told(salon)
    assert {unit: before[unit] for unit in units} == {unit: (arm, 0.5) for unit, arm in first.items()} and "base" in first.values()
    assert {before[unit] for unit in before if unit not in first} == {("base", 0.05), ("vivid", 0.95)}
    answer = ask(salon, "learn", units[0], 1)
    assert answer.headers["salon-arm"] == first[units[0]] and of(salon, "generation", answer.json())[0].propensity == 0.5
    forgotten = next(unit for unit in units if first[unit] == "base")
    assert httpx.delete(f"{salon.url}/v1/units/{forgotten}", headers=key(salon)).json()["erased"]["assignments"] == 1
    now = told(salon)
    assert now[forgotten] in {("base", 0.05), ("vivid", 0.95)} and {**now, forgotten: None} == {**before, forgotten: None}
    # The last test: it stops the gateway of all.
    salon.stop()
    revoke_key(folder / "keys.toml", "test")
    again = Live(folder, CONFIG, model=model)
    try:
        assert told(again) == now
        kept = next(unit for unit in units if unit != forgotten)
        assert ask(again, "learn", kept, 1).headers["salon-arm"] == first[kept]
        assert rows(folder) == 11
        stopped = httpx.post(f"{again.url}/v1/experiments/policy/stop", json={"why": "done"}, headers=key(again))
        limit = time.monotonic() + 10
        while rows(folder) and time.monotonic() < limit:
            time.sleep(0.05)
        assert stopped.status_code == 200 and rows(folder) == 0
    finally:
        again.stop()
