"""The life of experiments on a real gateway: split, ramp, restart, reload, candidates, report, forgetting."""

import signal
import time
from datetime import UTC, datetime

import msgspec
import pytest
from scipy.stats import chisquare

from analytics.event_log import open_log
from analytics.experiment import Experiment
from serving.registry import Registry
from serving.variant import Variant

IMAGES = "/v1/images/generations"


def arms_of(client, units, route="hero"):
    found = []
    for start in range(0, len(units), 1000):
        answer = client.post("/v1/assignments", json={"route": route, "units": units[start : start + 1000]})
        assert answer.status_code == 200, answer.text
        found += answer.json()["assignments"]
    assert [item["unit"] for item in found] == units
    return {item["unit"]: item["arm"] for item in found}


def until(check, seconds=15.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := check():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come true in time")


UNITS = [f"unit-{number}" for number in range(20_000)]


def test_split_ramp_and_restart(make_server):
    """20,000 units by the weights, a ramp that moves only what it must, and all of it again after kill -9, from the log alone."""
    server = make_server().start()
    with server.client() as client:
        before = arms_of(client, UNITS)
        counts = [sum(arm == name for arm in before.values()) for name in ("base", "vivid")]
        assert chisquare(counts).pvalue > 0.001
        made = client.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "unit-1"})
        assert made.headers["salon-arm"] == before["unit-1"]

        changed = client.patch("/v1/experiments/colours", json={"weights": {"base": 0.3, "vivid": 0.7}, "why": "looks good"})
        assert changed.status_code == 200 and changed.json()["weights"] == {"base": 0.3, "vivid": 0.7}
        after = arms_of(client, UNITS)
        moved = [(before[unit], after[unit]) for unit in UNITS if before[unit] != after[unit]]
        assert set(moved) == {("base", "vivid")}
        assert chisquare([len(moved), len(UNITS) - len(moved)], [0.2 * len(UNITS), 0.8 * len(UNITS)]).pvalue > 0.001
    server.stop(signal.SIGKILL)
    (server.folder / "var/state/experiments.json").unlink()
    server.start()
    with server.client() as client:
        assert arms_of(client, UNITS) == after
        state = client.get("/v1/experiments/colours").json()
        assert state["weights"] == {"base": 0.3, "vivid": 0.7} and state["why"] == "looks good" and state["changed_by"] == "development"
    log = open_log(f"local:{server.folder / 'var/events'}")
    controls = [event.attributes for _, event in log.read(0, 10_000) if event.kind == "control" and event.experiment == "colours"]
    log.close()
    assert [control["action"] for control in controls] == ["create", "start", "weights"]
    assert controls[2]["who"] == "development" and controls[2]["why"] == "looks good"


def test_life_and_its_refusals(make_server):
    server = make_server().start()
    with server.client() as client:

        def do(name, action, **body):
            return client.post(f"/v1/experiments/{name}/{action}", json=body)

        assert do("colours-two", "start").status_code == 409
        assert do("colours", "resume").status_code == 409
        assert do("colour", "stop").json()["detail"] == "no experiment is named 'colour'; did you mean 'colours'?"
        assert do("colours", "explode").status_code == 404
        for weights, status in (({"base": 0.7, "vivid": 0.7}, 400), ({"base": 1.0}, 400), ({"base": "x", "vivid": 0.5}, 400), (None, 400)):
            assert client.patch("/v1/experiments/colours", json={"weights": weights}).status_code == status
        assert do("colours", "pause", why="odd latency").json()["state"] == "paused"
        assert arms_of(client, UNITS[:5]) == dict.fromkeys(UNITS[:5])
        assert do("colours", "resume").json()["state"] == "running"
        assert do("colours", "ship").json()["field"] == "arm"
        assert do("colours", "ship", arm="vivid", why="won").json()["shipped_arm"] == "vivid"
        assert client.get("/v1/experiments").json()["routes"]["hero"] == {"serve": "vivid", "experiment": None}
        assert do("colours-two", "start").json()["state"] == "running"
        assert do("colours-two", "stop").json()["state"] == "stopped"
        assert do("colours-two", "start").status_code == 409
        made = client.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "u"}).json()
        assert client.get(f"/v1/generations/{made['generation_id']}").json()["served"] == "vivid"
    server.stop()
    server.start()
    with server.client() as client:
        assert client.get("/v1/experiments").json()["routes"]["hero"]["serve"] == "vivid"
        assert {life["name"]: life["state"] for life in client.get("/v1/experiments").json()["experiments"]} == {
            "colours": "shipped",
            "colours-two": "stopped",
        }


def test_a_changed_file_is_taken_whole_or_refused_whole(make_server):
    server = make_server().start()
    good = server.config.read_text()
    with server.client() as client:
        details = lambda: client.get("/health/ready").json()["details"]  # noqa: E731
        server.config.write_text(good.replace("base = 0.5, vivid = 0.5", "base = 0.7, vivid = 0.7"))
        refused = until(lambda: details().get("config"))
        assert "sum to 1.4" in refused and "salon.toml:" in refused
        assert client.get("/v1/experiments/colours").json()["weights"] == {"base": 0.5, "vivid": 0.5}
        server.config.write_text(good.replace('control = "base"', 'control = "vivid"', 1))
        assert "`control` cannot change" in until(lambda: "control" in (details().get("config") or "") and details()["config"])
        server.config.write_text(good.replace("base = 0.5, vivid = 0.5", "base = 0.9, vivid = 0.1") + '\n[routes.extra]\nserve = "vivid"\n')
        until(lambda: client.get("/v1/experiments/colours").json()["weights"] == {"base": 0.9, "vivid": 0.1})
        assert "extra" in client.get("/v1/experiments").json()["routes"] and "config" not in details()
        server.config.write_text(good[: good.index("[experiments.colours]")])
        until(lambda: client.get("/v1/experiments/colours").json()["state"] == "stopped")
        missing = good.replace("/tiny", "/gone")
        server.config.write_text(missing)
        assert "there is no directory" in until(lambda: details().get("config"))
        assert client.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "u"}).status_code == 200


def test_a_candidate_of_a_round_joins_by_itself_once_the_route_is_free(make_server, model):
    server = make_server().start()
    candidate = Variant(model=str(model), steps=2, guidance=1.0)
    definition = Experiment(
        route="hero", arms={"base": 0.8, "hero-round-1": 0.2}, control="base", primary="like_rate", autostart=True, minimum_units=10
    )
    record = {
        "experiment": "hero-round-1",
        "definition": definition,
        "variant_name": "hero-round-1",
        "variant": candidate,
        "round": {"number": 1},
    }
    registry = Registry(f"file://{server.folder}/var/registry")
    registry.announce(msgspec.to_builtins({**record, "experiment": "broken", "variant_name": "other"}))
    registry.announce(msgspec.to_builtins(record))
    registry.announce(msgspec.to_builtins(record))
    with server.client() as client:
        states = lambda: {life["name"]: life["state"] for life in client.get("/v1/experiments").json()["experiments"]}  # noqa: E731
        until(lambda: states().get("hero-round-1") == "draft")
        assert "hero-round-1" in client.get("/health/ready").json()["details"]["candidate broken"]
        assert client.post("/v1/experiments/colours/stop", json={}).status_code == 200
        until(lambda: states()["hero-round-1"] == "running")
        arms = arms_of(client, UNITS[:1000])
        assert set(arms.values()) == {"base", "hero-round-1"}
        unit = next(unit for unit, arm in arms.items() if arm == "hero-round-1")
        assert client.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": unit}).headers["salon-arm"] == "hero-round-1"
    server.stop()
    server.start()
    with server.client() as client:
        assert arms_of(client, UNITS[:1000]) == arms
        life = client.get("/v1/experiments/hero-round-1").json()
        assert life["origin"] == "round" and life["state"] == "running"


def test_report_counts_what_was_acknowledged_and_forgetting_removes_it(make_server):
    server = make_server().start()
    with server.client() as client:
        likes = {"base": 0, "vivid": 0}
        units = {"base": 0, "vivid": 0}
        for number in range(24):
            made = client.post(IMAGES, json={"model": "hero", "prompt": "a red heart", "user": f"u{number}", "n": 2})
            arm, answer = made.headers["salon-arm"], made.json()
            units[arm] += 1
            if number % 3 == 0:
                likes[arm] += 1
                for _ in range(2):
                    client.post("/v1/feedback", json={"feedback_token": answer["feedback_token"], "kind": "like"})
            if number == 0:
                forgotten = answer, arm
        report = client.get("/v1/experiments/colours/report").json()
        assert {arm["arm"]: arm["units"] for arm in report["arms"]} == units
        (metric,) = [metric for metric in report["metrics"] if metric["metric"] == "like_rate"]
        assert {arm["arm"]: round(arm["mean"] * arm["n"]) for arm in metric["arms"]} == likes
        assert report["decision"]["action"] == "keep_running"

        page = client.get("/v1/experiments/colours/report?format=html")
        assert page.headers["content-type"].startswith("text/html") and "data:image/png" in page.text and "a red heart" in page.text
        assert "colours" in client.get("/v1/experiments/colours/report?format=text").text
        earlier = client.get("/v1/experiments/colours/report", params={"as_of": datetime(2020, 1, 1, tzinfo=UTC).isoformat()}).json()
        assert [arm["units"] for arm in earlier["arms"]] == [0, 0]
        assert client.get("/v1/experiments/colours/report?format=pdf").json()["field"] == "format"
        assert client.get("/v1/experiments/colours/report?as_of=soon").json()["field"] == "as_of"
        assert client.get("/v1/experiments/nope/report").status_code == 404

        answer, arm = forgotten
        receipt = client.delete("/v1/units/u0").json()["erased"]
        assert receipt["generations"] == 1 and receipt["pictures"] == 2 and receipt["event_rows"] >= 6
        assert client.get(f"/v1/images/{answer['data'][0]['image_id']}").status_code == 404
        assert client.get(f"/v1/generations/{answer['generation_id']}").status_code == 404
        units[arm] -= 1
        report = client.get("/v1/experiments/colours/report").json()
        assert {arm["arm"]: arm["units"] for arm in report["arms"]} == units
        assert client.delete("/v1/units/u0").json()["erased"]["event_rows"] == 0


@pytest.mark.parametrize("rounds", [2])
def test_kill_9_loses_nothing_acknowledged_and_counts_nothing_twice(make_server, rounds):
    """Short version: feedback in batches with retries, the server killed in between, the log read by other code."""
    import threading

    import httpx

    from analytics.events import new_id

    server = make_server().start()
    with server.client() as client:
        token = client.post(IMAGES, json={"model": "hero", "prompt": "a cat", "user": "u"}).json()["feedback_token"]
    sent, acknowledged, finished = [], set(), threading.Event()

    def send():
        with server.client() as client:
            while not finished.is_set() or (sent and sent[-1] not in acknowledged):
                if not sent or sent[-1] in acknowledged:
                    sent.append(str(new_id()))
                try:
                    answer = client.post("/v1/feedback", json={"kind": "click", "event_id": sent[-1], "feedback_token": token})
                except httpx.TransportError:
                    time.sleep(0.02)
                    continue
                if answer.status_code == 202:
                    acknowledged.add(sent[-1])

    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(rounds):
        time.sleep(0.4)
        server.stop(signal.SIGKILL)
        server.start()
    finished.set()
    sender.join(20)
    with server.client() as client:
        report = client.get("/v1/experiments/colours/report").json()
    server.stop()
    log = open_log(f"local:{server.folder / 'var/events'}")
    clicks = [str(event.event_id) for _, event in log.read(0, 100_000) if event.kind == "click"]
    log.close()
    assert len(clicks) == len(set(clicks)) and set(clicks) == acknowledged and len(acknowledged) > 50
    assert report["events_read"] >= len(clicks)
