"""A real `salon engine` against tritonclient and raw HTTP."""

import asyncio
import io
import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import msgspec
import numpy as np
import pytest
from engine_process import EngineProcess
from PIL import Image
from safetensors.numpy import save_file
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.http.aio import InferenceServerClient as AsyncClient
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from serving.adapters.lora import FILE
from serving.engine import LocalEngine
from serving.job import Job
from serving.protocol.app import HANDLERS
from serving.registry import Registry
from serving.variant import Variant
from serving.weights import read_part

LANE = "tiny-32x32"
INFER = f"/v2/models/{LANE}/infer"


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, cache: Path, tiny_model: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(tmp_path_factory.mktemp("engine"), cache, tiny_model)
    engine.start()
    yield engine
    engine.process.kill()
    engine.process.wait()


@pytest.fixture
def worker(process: EngineProcess) -> EngineProcess:
    if process.process.poll() is not None:
        process.start()
    process.until_ready()
    return process


@pytest.fixture
def client(worker: EngineProcess) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(worker.address, concurrency=4, network_timeout=60.0) as client:
        yield client


def inputs(binary: bool = True, **values: object) -> list[InferInput]:
    made = []
    for name, value in values.items():
        kind = {"SEED": np.int64, "STEPS": np.int32, "GUIDANCE": np.float32}.get(name, np.object_)
        array = np.array(value if isinstance(value, list) else [value], kind)
        made.append(InferInput(name, list(array.shape), np_to_triton_dtype(kind)))
        made[-1].set_data_from_numpy(array, binary_data=binary)
    return made


def wanted(*names: str) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name, binary_data=True) for name in names]


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def levels(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_it_tells_what_it_is(worker: EngineProcess, client: InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(LANE) and client.is_model_ready(LANE, "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready(LANE, "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    told = client.get_model_metadata(LANE, "1")
    assert {each["name"]: each["datatype"] for each in told["inputs"]} == {
        "PROMPT": "BYTES", "NEGATIVE_PROMPT": "BYTES", "VARIANT": "BYTES", "SEED": "INT64", "STEPS": "INT32", "GUIDANCE": "FP32"
    }  # fmt: skip
    assert next(each["shape"] for each in told["outputs"] if each["name"] == "IMAGE") == [-1, 32, 32, 3]
    assert client.get_model_config(LANE)["max_batch_size"] == 0
    index = {(each["kind"], each["name"]): each for each in client.get_model_repository_index()}
    assert index["model", LANE]["state"] == index["variant", "base"]["state"] == "READY"
    assert index["variant", "broken"]["state"] == "UNAVAILABLE" and "nowhere" in index["variant", "broken"]["reason"]
    assert index["variant", "more"]["digest"].startswith("sha256:") and index["variant", "more"]["model"] == LANE


def test_its_pictures_are_those_of_the_engine(client: InferenceServerClient, tiny_model: Path, cache: Path) -> None:
    base = Variant(model=str(tiny_model), steps=4)
    jobs = [
        Job(variant=base, prompt="a red heart", seed=1, guidance=3.0),
        Job(variant=msgspec.structs.replace(base, steps=6, guidance=1.0), prompt="Kätzchen", negative_prompt="dog", seed=-5, guidance=1.5),
        Job(variant=base, prompt="x " * 10_000, seed=2**63 - 1, guidance=1.0),
    ]
    engine = LocalEngine(Registry(str(cache / "none")), cache=cache)
    try:
        for job in jobs:
            engine.load(job.variant)
        pictures = [future.result(60) for future in engine.submit_all(jobs)]
    finally:
        engine.close()
    given = {
        "PROMPT": [job.prompt for job in jobs],
        "NEGATIVE_PROMPT": [job.negative_prompt for job in jobs],
        "VARIANT": ["base", "more", "base"],
        "SEED": [job.seed for job in jobs],
        "GUIDANCE": [[job.guidance] for job in jobs],
    }
    cut = {"output_format": "png", "truncate_prompt": True}
    answers = [
        client.infer(LANE, inputs(**given), model_version="1", request_id="r1", parameters=cut),
        client.infer(LANE, inputs(binary=False, **given), outputs=[InferRequestedOutput("IMAGE", binary_data=False)], parameters=cut),
        client.infer(LANE, inputs(**given), outputs=wanted("ENCODED", "STEPS", "ROWS", "BATCH_ROWS", "SEED"), parameters=cut),
    ]
    for i, picture in enumerate(pictures):
        assert levels(answers[0].as_numpy("IMAGE")[i], picture.rgb) <= 1
        assert levels(answers[1].as_numpy("IMAGE")[i], picture.rgb) <= 1
        assert levels(pixels(answers[2].as_numpy("ENCODED")[i]), picture.rgb) <= 1
    assert answers[0].get_response()["id"] == "r1" and answers[0].get_response()["parameters"]["predicted_queue_ms"] >= 0
    assert (answers[0].as_numpy("SERVICE_MS") > 0).all() and answers[0].as_numpy("QUEUE_MS").dtype == np.float32
    assert answers[1].as_numpy("QUEUE_MS") is None
    assert answers[2].as_numpy("STEPS").tolist() == [4, 6, 4] and answers[2].as_numpy("ROWS").tolist() == [2, 2, 1]
    assert answers[2].as_numpy("SEED").tolist() == [1, -5, 2**63 - 1] and (answers[2].as_numpy("BATCH_ROWS") >= 1).all()


def test_one_value_for_all_random_seeds_and_other_files(client: InferenceServerClient) -> None:
    outputs = wanted("ENCODED", "SEED", "STEPS")
    answer = client.infer(LANE, inputs(PROMPT=["a", "a"], VARIANT="more", STEPS=2), outputs=outputs, parameters={"output_format": "webp"})
    files, seeds = answer.as_numpy("ENCODED"), answer.as_numpy("SEED")
    assert [Image.open(io.BytesIO(file)).format for file in files] == ["WEBP", "WEBP"] and answer.as_numpy("STEPS").tolist() == [2, 2]
    assert seeds[0] != seeds[1] and levels(pixels(files[0]), pixels(files[1])) > 1
    again = client.infer(LANE, inputs(PROMPT="a", VARIANT="more", STEPS=2, SEED=int(seeds[1])))
    digest = next(each["digest"] for each in client.get_model_metadata(LANE)["variants"] if each["name"] == "more")
    by_digest = client.infer(LANE, inputs(PROMPT="a", VARIANT=digest, STEPS=2, SEED=int(seeds[1])))
    assert levels(again.as_numpy("IMAGE"), by_digest.as_numpy("IMAGE")) <= 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PROMPT": "a"}, "VARIANT: is needed, one of model tiny-32x32's variants: base, more"),
        ({"PROMPT": "a", "VARIANT": "bass"}, "'bass' is not of model"),
        ({"PROMPT": "a", "VARIANT": "broken"}, "'broken' is not of model"),
        ({"PROMPT": "x " * 100, "VARIANT": "base"}, r"input PROMPT: 'x x.*more than the 20 tokens that the model reads; shorten it"),
        ({"PROMPT": "a", "NEGATIVE_PROMPT": "x " * 100, "VARIANT": "base"}, r"input NEGATIVE_PROMPT: 'x x.*truncate_prompt true"),
        ({"PROMPT": "a", "VARIANT": "base", "STEPS": 0}, "steps: 0 is not between 1"),
        ({"PROMPT": "a", "VARIANT": "base", "STEPS": 10_000}, "steps: 10000 is not between 1"),
        ({"PROMPT": "a", "VARIANT": "base", "GUIDANCE": 51.0}, "guidance: 51 is not between 0 and 50"),
        ({"PROMPT": ["a"] * 65, "VARIANT": "base"}, "65 images"),
    ],
)
def test_wrong_values_are_refused_with_the_fix(client: InferenceServerClient, given: dict, says: str) -> None:
    with pytest.raises(InferenceServerException, match=says) as refused:
        client.infer(LANE, inputs(**given))
    assert refused.value.status() == "400"


async def test_malformed_bodies_get_a_clear_error_and_disturb_nobody(worker: EngineProcess) -> None:
    good = json.dumps({"inputs": [text("PROMPT", "a"), text("VARIANT", "base")]}).encode()
    length = "Inference-Header-Content-Length"
    cases = [
        (INFER, b"", {}, 400), (INFER, b"{", {}, 400), (INFER, b"\x00" * 1000, {}, 400), (INFER, b"[" * 100_000, {}, 400),
        (INFER, b'{"inputs": []}', {}, 400), (INFER, good, {length: "nine"}, 400), (INFER, good, {length: "999999999"}, 400),
        (INFER, good, {length: "5"}, 400), (INFER, good, {"Content-Encoding": "gzip"}, 400),
        (INFER, b" " * 16_000_001, {}, 413), (INFER.replace("tiny", "big"), good, {}, 404),
        (f"/v2/models/{LANE}/versions/2/infer", good, {}, 404), ("/v2/nothing", good, {}, 404), ("/v2", b"", {}, 405),
        ("/v2/repository/models/none/load", b"", {}, 404), ("/v2/repository/models/none/load", b"[]", {}, 400),
        ("/v2/repository/models/none/unload", b"", {}, 404),
        ("/v2/repository/models/none/load", load_body({"model": "salon/emoji-64", "colour": 1}), {}, 400),
        ("/v2/repository/models/none/load", load_body({"model": "nowhere"}), {}, 400),
        ("/v2/repository/models/base/load", load_body({"model": "nowhere"}), {}, 400),
        ("/v2/repository/models/no%20ne/load", load_body({"model": "salon/emoji-64"}), {}, 400),
    ]  # fmt: skip
    async with aiohttp.ClientSession(worker.url) as session:
        undisturbed = asyncio.create_task(post(session, INFER, good))
        for path, body, headers, status in cases:
            got, said = await post(session, path, body, headers)
            assert got == status, (path, body[:60], said)
            assert json.loads(said)["error"], path
        assert (await undisturbed)[0] == 200
        got, said = await post(session, INFER, good)
        assert got == 200 and json.loads(said)["outputs"][0]["shape"] == [1, 32, 32, 3]


def text(name: str, value: str) -> dict:
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": [value]}


def load_body(variant: dict) -> bytes:
    return json.dumps({"parameters": {"variant": json.dumps(variant)}}).encode()


async def post(session: aiohttp.ClientSession, path: str, body: bytes, headers: dict | None = None) -> tuple[int, bytes]:
    async with session.post(path, data=body, headers=headers or {}) as response:
        return response.status, await response.read()


async def until(true: Callable[[], object], *running: asyncio.Task) -> None:
    """Wait for `true`, but not for ever, nor when what must run has ended."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        assert not [task.result() for task in running if task.done()]
        await asyncio.sleep(0.01)


def lane_statistics(client: InferenceServerClient) -> dict:
    return client.get_inference_statistics(LANE)["model_stats"][0]


async def test_who_goes_away_frees_places_within_a_step_and_who_is_late_is_told(
    worker: EngineProcess, client: InferenceServerClient
) -> None:
    before = lane_statistics(client)
    values = inputs(PROMPT=["a"] * 64, VARIANT="base", STEPS=1000)
    body, length = client.generate_request_body(values)
    headers = {"Inference-Header-Content-Length": str(length)}
    async with aiohttp.ClientSession(worker.url) as session:
        long = asyncio.create_task(post(session, INFER, body, headers))
        await until(lambda: lane_statistics(client)["network"]["calls"] >= before["network"]["calls"] + 2, long)
        late, length = client.generate_request_body(inputs(PROMPT="a", VARIANT="base"), timeout=1000)
        async with session.post(INFER, data=late, headers={"Inference-Header-Content-Length": str(length)}) as busy:
            assert busy.status == 429 and int(busy.headers["Retry-After"]) >= 1 and "busy" in (await busy.json())["error"]
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        await until(
            lambda: lane_statistics(client)["inference_stats"]["cancel"]["count"] >= before["inference_stats"]["cancel"]["count"] + 64
        )
        calls = lane_statistics(client)["network"]["calls"]
        assert calls < before["network"]["calls"] + 500, "the images did not run to their end"
        late, length = client.generate_request_body(inputs(PROMPT="a", VARIANT="base"), timeout=1)
        status, said = await post(session, INFER, late, {"Inference-Header-Content-Length": str(length)})
        assert status == 504 and "deadline" in json.loads(said)["error"]
    answer = client.infer(LANE, inputs(PROMPT="a", VARIANT="base"))
    assert answer.get_response()["parameters"]["predicted_queue_ms"] == 0.0


@pytest.fixture(scope="module")
def adapter(process: EngineProcess, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    rng, folder, lora = np.random.default_rng(0), tmp_path_factory.mktemp("adapter"), {}
    for name, weight in read_part(tiny_model / "unet").items():
        if name.endswith(".to_q.weight"):
            module = "unet." + name.removesuffix(".weight")
            lora[f"{module}.lora_A.weight"] = rng.normal(0, 0.3, (2, weight.shape[1])).astype(np.float32)
            lora[f"{module}.lora_B.weight"] = rng.normal(0, 0.3, (weight.shape[0], 2)).astype(np.float32)
    save_file(lora, folder / FILE)
    return Registry(str(process.folder / "var/registry")).publish("vivid", folder, {})


async def test_variants_come_and_go_while_requests_run(
    worker: EngineProcess, client: InferenceServerClient, tiny_model: Path, adapter: str
) -> None:
    plain = client.infer(LANE, inputs(PROMPT="a", VARIANT="base", SEED=7)).as_numpy("IMAGE")
    body, length = client.generate_request_body(inputs(PROMPT="a", VARIANT="base", SEED=7))
    headers = {"Inference-Header-Content-Length": str(length)}
    done, stop = 0, False

    async def keep_asking(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while not stop:
            async with session.post(INFER, data=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                size = int(response.headers["Inference-Header-Content-Length"])
                picture = InferResult.from_response_body(await response.read(), header_length=size).as_numpy("IMAGE")
            assert levels(picture, plain) <= 1
            done += 1

    vivid = load_body({"model": str(tiny_model), "steps": 4, "adapter": adapter})
    async with aiohttp.ClientSession(worker.url) as session, AsyncClient(worker.address) as patient:
        askers = [asyncio.create_task(keep_asking(session)) for _ in range(3)]
        first = None
        for _ in range(2):
            status, said = await post(session, "/v2/repository/models/vivid/load", vivid)
            assert status == 200, said
            told = json.loads(said)
            assert told == {"name": "vivid", "digest": told["digest"], "width": 32, "height": 32, "model": LANE}
            assert json.loads((await post(session, "/v2/repository/models/other-name/load", vivid))[1])["digest"] == told["digest"]
            answer = await patient.infer(LANE, inputs(PROMPT="a", VARIANT=told["digest"], SEED=7))
            assert levels(answer.as_numpy("IMAGE"), plain) > 1
            first = answer.as_numpy("IMAGE") if first is None else first
            assert levels(answer.as_numpy("IMAGE"), first) <= 1
            assert (await post(session, "/v2/repository/models/vivid/unload", b""))[0] == 200
            # the other name still has it
            assert (await patient.infer(LANE, inputs(PROMPT="a", VARIANT="other-name"))).as_numpy("IMAGE") is not None
            assert (await post(session, "/v2/repository/models/other-name/unload", b""))[0] == 200
            with pytest.raises(InferenceServerException, match="is not of model"):
                await patient.infer(LANE, inputs(PROMPT="a", VARIANT=told["digest"]))
        await patient.unload_model("more")
        assert not any(each["name"] == "more" and each["state"] == "READY" for each in await patient.get_model_repository_index())
        await patient.load_model("more")
        before = done
        await asyncio.sleep(0.2)
        stop = True
        await asyncio.gather(*askers)
        assert done > before > 0


def metrics(worker: EngineProcess) -> dict[str, float]:
    text = urllib.request.urlopen(f"{worker.url}/metrics", timeout=10).read().decode()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}


def test_metrics_agree_with_the_statistics(worker: EngineProcess, client: InferenceServerClient) -> None:
    client.infer(LANE, inputs(PROMPT="a", VARIANT="base", STEPS=1))
    told, statistics = metrics(worker), lane_statistics(client)
    done = sum(value for name, value in told.items() if name.startswith("salon_engine_images_total") and 'status="done"' in name)
    assert done == statistics["inference_count"] == sum(each["done"] for each in statistics["variants"].values()) > 0
    assert told[f'salon_engine_calls_total{{model="{LANE}"}}'] == statistics["execution_count"]
    assert told["salon_engine_queue_predicted_seconds"] == 0.0


async def test_killed_and_started_again_a_client_that_retries_loses_nothing_and_at_the_end_what_runs_is_finished(
    worker: EngineProcess,
) -> None:
    secret = {"Authorization": "Bearer t0p"}
    body = json.dumps({"inputs": [text("PROMPT", "a"), text("VARIANT", "base")]}).encode()
    done, stop = 0, False

    async def keep_asking(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while not stop:
            try:
                status, said = await post(session, INFER, body, secret)
            except aiohttp.ClientError:
                status = 0
            if status == 200:
                done += 1
            else:
                assert status in (0, 503), said
                await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(worker.url) as session:
        askers = [asyncio.create_task(keep_asking(session)) for _ in range(3)]
        await until(lambda: done >= 5, *askers)
        worker.end(signal.SIGKILL)
        before = done
        worker.start(SALON_ENGINES__W__TOKEN="env:ENGINE_TOKEN", ENGINE_TOKEN="t0p")
        await until(lambda: done >= before + 5, *askers)
        stop = True
        await asyncio.gather(*askers)
        for path in (INFER, "/v2/repository/index", "/v2/repository/models/base/load"):
            assert (await post(session, path, body, {"Authorization": "Bearer no"}))[0] == 401
        steps = {"name": "STEPS", "datatype": "INT32", "shape": [1], "data": [500]}
        slow = json.dumps({"inputs": [text("PROMPT", "a"), text("VARIANT", "base"), steps]}).encode()
        running = asyncio.create_task(post(session, INFER, slow, secret))
        await until(lambda: metrics(worker)["salon_engine_queue_predicted_seconds"] > 0, running)
        worker.process.terminate()
        await until(lambda: worker.health() == 503, running)
        assert not running.done()
        assert (await post(session, INFER, body, secret))[0] == 503
        assert (await running)[0] == 200
        assert await asyncio.to_thread(worker.process.wait, 20) == 0, worker.log()


def test_the_page_names_every_call_and_metric() -> None:
    page = (Path(__file__).parents[3] / "docs/engine.md").read_text("utf-8")
    for handler in HANDLERS:
        for path in handler.paths:
            assert path.replace(":str", "").replace("/versions/{version}", "") in page, path
    for name in ("requests", "images", "queue_seconds", "service_seconds", "calls", "rows", "call_seconds", "seconds", "evictions"):
        assert f"`salon_engine_{name}_total" in page
    assert "`salon_engine_queue_predicted_seconds`" in page
