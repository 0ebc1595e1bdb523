"""A real `salon serve`: the official OpenAI client, and the nonsense that people send."""

import base64
import io
import json
import time

import httpx
import openai
import pytest
from PIL import Image

IMAGES = "/v1/images/generations"
HERO = {"model": "hero", "prompt": "a red heart", "user": "ada"}


def picture_of(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.fixture
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client:
        yield client


def test_the_official_client_gets_base64(client):
    answer = client.images.generate(model="hero", prompt="a red heart", n=3, size="32x32", user="ada")
    pictures = [picture_of(base64.b64decode(item.b64_json)) for item in answer.data]
    assert [p.size for p in pictures] == [(32, 32)] * 3 and {p.format for p in pictures} == {"PNG"}
    assert [item.position for item in answer.data] == [0, 1, 2]
    assert len({item.image_id for item in answer.data}) == 3 and answer.feedback_token and answer.generation_id
    assert len({item.b64_json for item in answer.data}) == 3


@pytest.mark.parametrize(("output_format", "expected"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_the_official_client_gets_urls_that_need_no_key(client, output_format, expected):
    answer = client.images.generate(model="hero", prompt="a red heart", response_format="url", output_format=output_format, user="ada")
    (item,) = answer.data
    assert item.b64_json is None
    fetched = httpx.get(item.url)
    assert fetched.status_code == 200 and picture_of(fetched.content).format == expected


def test_the_official_client_streams(client):
    events = list(client.images.generate(model="hero", prompt="a red heart", n=2, stream=True, partial_images=2, user="ada"))
    partial = [event for event in events if event.type == "image_generation.partial_image"]
    assert [event.type for event in events] == [*[event.type for event in partial], *["image_generation.completed"] * 2]
    assert {picture_of(base64.b64decode(event.b64_json)).size for event in events} == {(32, 32)}
    assert sorted(event.position for event in events[-2:]) == [0, 1] and events[-1].feedback_token
    for position in (0, 1):  # of two steps there is one picture on the way, of three there are two
        assert [event.partial_image_index for event in partial if event.position == position] in ([0], [0, 1])
    assert {(event.size, event.output_format, event.background, event.quality) for event in events} == {("32x32", "png", "opaque", "auto")}


def test_the_official_client_sees_typed_errors(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(model="heros", prompt="x")
    assert missing.value.code == "model_not_found" and missing.value.param == "model" and "did you mean 'hero'" in missing.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.images.generate(model="hero", prompt="x", n=11)
    assert wrong.value.param == "n" and wrong.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="salon_00000000_wrong").images.generate(model="hero", prompt="x")


def test_the_same_seed_gives_the_same_pictures_in_some_order(http):
    def draw():
        answer = http.post(IMAGES, json={**HERO, "n": 4, "seed": 7}).json()
        return sorted(item["b64_json"] for item in answer["data"])

    assert draw() == draw()


def test_the_displayed_order_is_random_and_logged(http):
    orders = set()
    for _ in range(12):
        answer = http.post(IMAGES, json={**HERO, "n": 3, "seed": 7}).json()
        record = http.get(f"/v1/generations/{answer['generation_id']}").json()
        assert [item["image_id"] for item in answer["data"]] == [image["image_id"] for image in record["images"]]
        orders.add(tuple(image["seed"] for image in record["images"]))
    assert len(orders) > 1 and {tuple(sorted(order)) for order in orders} == {(7, 8, 9)}


def test_provenance_tells_assigned_arm_and_served_variant(http):
    answer = http.post(IMAGES, json={**HERO, "context": {"country": "de"}})
    record = http.get(f"/v1/generations/{answer.json()['generation_id']}").json()
    assert record["arm"] == record["served"] == answer.headers["salon-arm"]
    assert record["experiment"] == "colours" and record["propensity"] == 0.5 and record["unit"] == "ada"
    assert record["context"] == {"country": "de"} and record["variant_digest"].startswith("sha256:") and record["status"] == "ok"


def test_the_arm_is_hidden_from_keys_without_scope_analyst(running, http):
    from gateway.keys import create_key

    secret = create_key(running.folder / "keys.toml", "shop", ["generate", "feedback"])
    with running.client(secret) as shop:
        for _ in range(40):
            answer = shop.post(IMAGES, json=HERO)
            if answer.status_code == 200:
                break
            time.sleep(0.1)
        assert answer.status_code == 200 and "salon-arm" not in answer.headers
        assert not {"arm", "experiment", "variant"} & set(answer.text.replace('"', " ").split())
        refused = shop.get("/v1/experiments")
        assert refused.status_code == 403 and "analyst" in refused.json()["detail"]
        assert shop.delete("/v1/units/ada").status_code == 403


def test_without_user_nobody_joins_the_experiment(http):
    answer = http.post(IMAGES, json={"model": "hero", "prompt": "a red heart"})
    record = http.get(f"/v1/generations/{answer.json()['generation_id']}").json()
    assert record["experiment"] == "" and record["arm"] == "" and record["anonymous"] and record["unit"].startswith("anon-")
    assert record["served"] == "base" and "salon-arm" not in answer.headers


NONSENSE = [
    ({"model": "nope"}, 404, "model"),
    ({"model": "x" * 5000}, 404, "model"),
    ({"n": 0}, 400, "n"),
    ({"n": 11}, 400, "n"),
    ({"n": "two"}, 400, "n"),
    ({"n": 1.5}, 400, "n"),
    ({"prompt": "x" * 100_000}, 400, "prompt"),
    ({"prompt": "  "}, 400, "prompt"),
    ({"prompt": None}, 400, "prompt"),
    ({"size": "64"}, 400, "size"),
    ({"size": "64x64"}, 400, "size"),
    ({"size": "0x0"}, 400, "size"),
    ({"seed": -1}, 400, "seed"),
    ({"output_format": "gif"}, 400, "output_format"),
    ({"response_format": "file"}, 400, "response_format"),
    ({"partial_images": 4}, 400, "partial_images"),
    ({"user": ""}, 400, "user"),
    ({"user": "a\x00b"}, 400, "user"),
    ({"user": "anon-1"}, 400, "user"),
    ({"context": {"country": 3}}, 400, "context"),
    ({"context": {str(i): "x" for i in range(40)}}, 400, "context"),
]


@pytest.mark.parametrize(("wrong", "status", "field"), NONSENSE, ids=lambda value: str(value)[:30])
def test_nonsense_is_refused_by_name(http, wrong, status, field):
    answer = http.post(IMAGES, json={**HERO, **wrong})
    problem = answer.json()
    assert answer.status_code == problem["status"] == status
    assert answer.headers["content-type"] == "application/problem+json" and problem["type"].startswith("urn:salon:problem:")
    assert problem["field"] == field and f"`{field}" in problem["detail"] and len(answer.content) < 3000
    assert problem["error"]["param"] == field and problem["error"]["message"] == problem["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"prompt": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"prompt":"x","n":1e400}'])
def test_broken_json_is_refused(http, body):
    answer = http.post(IMAGES, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_paths_methods_and_sizes_that_do_not_exist(http):
    assert http.get("/v2/nothing").json()["type"] == "urn:salon:problem:not-found"
    assert http.put(IMAGES, json={}).json()["type"] == "urn:salon:problem:method-not-allowed"
    huge = http.post(IMAGES, content=b"x" * 5_000_000)
    assert huge.status_code == 413 and huge.json()["type"] == "urn:salon:problem:body-too-large"
    for image_id in ("nonsense", "01890000-0000-7000-8000-000000000000", "..%2f..%2fkeys.toml"):
        assert http.get(f"/v1/images/{image_id}").status_code == 404
    assert http.get("/v1/images/01890000-0000-7000-8000-000000000000?format=gif").json()["field"] == "format"


def test_a_wrong_or_missing_key_is_refused(running):
    with httpx.Client(base_url=running.url) as nobody:
        answer = nobody.post(IMAGES, json=HERO)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
        for header in ("Bearer", "Bearer x", "Basic YTpi", f"Bearer {running.key}x"):
            assert nobody.get("/v1/experiments", headers={"authorization": header}).status_code == 401
        assert nobody.get("/health/live").json() == {"status": "live"}


def test_idempotency_key_gives_the_same_answer_once(http):
    headers = {"idempotency-key": "one"}
    first = http.post(IMAGES, json=HERO, headers=headers)
    again = http.post(IMAGES, json=HERO, headers=headers)
    assert first.content == again.content and again.headers["idempotency-replayed"] == "true"
    assert again.headers["salon-generation"] == first.headers["salon-generation"]
    other = http.post(IMAGES, json={**HERO, "prompt": "a blue heart"}, headers=headers)
    assert other.status_code == 422 and other.json()["type"] == "urn:salon:problem:idempotency-key-reused"
    assert http.post(IMAGES, json=HERO, headers={"idempotency-key": "x" * 256}).status_code == 400


def test_concurrent_requests_with_one_idempotency_key_do_the_work_once(running):
    from concurrent.futures import ThreadPoolExecutor

    def ask(_):
        with running.client() as client:
            return client.post(IMAGES, json={**HERO, "n": 4}, headers={"idempotency-key": "together"}).json()["generation_id"]

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1


def test_failures_are_not_kept_under_an_idempotency_key(running, http):
    headers = {"idempotency-key": "denied"}
    with httpx.Client(base_url=running.url) as nobody:
        assert nobody.post(IMAGES, json=HERO, headers=headers).status_code == 401
        assert nobody.post(IMAGES, json=HERO, headers={**headers, "authorization": f"Bearer {running.key}"}).status_code == 200


def test_metrics_and_schema(http):
    http.get("/some/unknown/path")
    text = http.get("/metrics").text
    assert 'salon_images_total{route="hero",status="ok"}' in text and "salon_generation_overhead_seconds_bucket" in text
    assert 'path="unmatched"' in text and "/some/unknown/path" not in text
    schema = http.get("/schema").json()
    assert schema["openapi"].startswith("3.1") and schema == http.get("/schema/openapi.json").json()
    body = schema["paths"][IMAGES]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"].rpartition("/")[2] in schema["components"]["schemas"]
    assert "prompt" in json.dumps(schema["components"]["schemas"]["ImageRequest"])
