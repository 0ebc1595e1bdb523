"""A remote engine against doubles of its workers: who gets a request, and what becomes of it when they fail."""

import asyncio
import logging
import ssl
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trustme
from worker_double import Double, png, solid

from serving.errors import Away, Busy, Late, ModelError
from serving.job import Job
from serving.remote import engine as engine_module
from serving.remote import worker as worker_module
from serving.remote.engine import RemoteEngine
from serving.remote.settings import RemoteSettings
from serving.variant import Variant

VARIANT = Variant(model="salon/emoji-64", steps=2, engine="gpu", adapter_scale=0.5)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(engine_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(worker_module, "PROBE_SECONDS", 0.25)


@asynccontextmanager
async def workers(*doubles: Double, **settings):
    for double in doubles:
        await double.start()
    engine = RemoteEngine("gpu", RemoteSettings(urls=tuple(d.url for d in doubles), **settings))
    try:
        yield engine
    finally:
        await engine.close()
        for double in doubles:
            await double.stop()


def jobs(n: int = 1, variant: Variant = VARIANT, **facts) -> list[Job]:
    return [Job(variant=variant, prompt="a cat", seed=7 + i, **facts) for i in range(n)]


async def until(condition, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        await asyncio.sleep(0.01)


async def everywhere(engine: RemoteEngine, variant: Variant = VARIANT) -> None:
    await engine.load(variant)
    await until(lambda: all(variant in worker.served for worker in engine.workers))


async def test_pictures_come_as_the_worker_made_them():
    double = Double()
    async with workers(double) as engine:
        loaded = await engine.load(VARIANT)
        assert (loaded.width, loaded.height, loaded.lane) == (8, 8, "m-8x8") and engine.loaded(VARIANT) == loaded
        assert double.variants[loaded.digest] == Variant(model="salon/emoji-64", steps=2, adapter_scale=0.5)
        pictures = await engine.draw(VARIANT, jobs(3), deadline_seconds=9.0)
    assert [picture.encoded for picture in pictures] == [png(7), png(8), png(9)] and pictures[0].rgb.size == 0
    assert {(p.queue_ms, p.service_ms, p.steps, p.rows, p.batch_rows) for p in pictures} == {(5.0, 40.0, 2, 2, 4.0)}
    path, asked = double.requests[0]
    assert path == "/v2/models/m-8x8/infer"
    assert asked.inputs["VARIANT"].data == [loaded.digest.encode()] and asked.inputs["PROMPT"].data == [b"a cat"]
    assert set(asked.inputs) == {"PROMPT", "VARIANT", "SEED"}  # the rest is the variant's own
    assert 8.5e6 < asked.parameters["timeout"] <= 9e6


async def test_what_a_job_says_goes_out_exactly():
    double = Double()
    told = [
        Job(variant=VARIANT, prompt="ä", negative_prompt="b", seed=(1 << 64) - 5, steps=3, guidance=1.5),
        Job(variant=VARIANT, prompt="b", seed=1),
    ]
    async with workers(double) as engine:
        await engine.draw(VARIANT, told)
    inputs = double.requests[0][1].inputs
    assert inputs["SEED"].data.tolist() == [-5, 1] and inputs["PROMPT"].data == ["ä".encode(), b"b"]
    assert inputs["NEGATIVE_PROMPT"].data == [b"b", b""]
    assert inputs["STEPS"].data.tolist() == [3, 2] and inputs["GUIDANCE"].data.tolist() == [1.5, 2.0]


@pytest.mark.parametrize("fault", ["dies", "503", "malformed", "garbled"])
async def test_a_request_that_a_worker_lost_is_asked_of_another_once_with_the_same_seeds(fault):
    bad, good = Double(), Double()
    async with workers(bad, good) as engine:
        await everywhere(engine)
        bad.fault, bad.seconds = fault, 0.05
        engine.workers[1].work.begin(1e6)  # so that the bad one is asked first
        pictures = await engine.draw(VARIANT, jobs(2))
        (_, first), (_, second) = bad.requests[0], good.requests[0]
        assert [p.encoded for p in pictures] == [png(7), png(8)]
        assert first.inputs["SEED"].data.tolist() == second.inputs["SEED"].data.tolist() == [7, 8]
        assert first.inputs["VARIANT"].data == second.inputs["VARIANT"].data
        if fault == "dies":
            assert pictures[0].queue_ms >= 5 + 50  # what people waited for the worker that died
        good.fault = fault
        with pytest.raises(Away, match="has the variant now"):
            await engine.draw(VARIANT, jobs())
        assert len(bad.requests) + len(good.requests) == 4  # twice, and no third time


async def test_a_request_waits_for_a_worker_that_is_just_being_given_the_variant():
    gone, fresh = Double(), Double()
    async with workers(gone, fresh) as engine:
        await everywhere(engine)
        # fresh was started anew: it answers, and has the variant not yet
        engine.workers[1].served.clear()
        gone.fault = "503"
        assert (await engine.draw(VARIANT, jobs()))[0].encoded == png(7)
        assert len(fresh.loads) == 2 and len(fresh.requests) == 1


async def test_a_single_worker_that_is_back_at_once_is_asked_again():
    double = Double()
    async with workers(double) as engine:
        await everywhere(engine)
        double.fault, double.once = "dies", True
        assert (await engine.draw(VARIANT, jobs()))[0].encoded == png(7)
        # started anew between two looks: it does not know the variant any more
        double.variants.clear()
        assert (await engine.draw(VARIANT, jobs()))[0].encoded == png(7)


async def test_a_dead_host_that_closes_nothing_does_not_hold_a_request():
    dead, good = Double(), Double()
    async with workers(dead, good) as engine:
        await everywhere(engine)
        engine.workers[1].work.begin(1e6)
        dead.fault = "silent"
        began = time.monotonic()
        assert (await engine.draw(VARIANT, jobs()))[0].encoded == png(7)
        assert len(dead.requests) == 1 and time.monotonic() - began < 10
        assert "does not answer" in engine.problems()


async def test_a_worker_that_closes_may_finish_what_it_began():
    closing = Double()
    closing.seconds = 1.0  # set before the start: so long it waits for requests
    async with workers(closing) as engine:
        await everywhere(engine)
        drawing = asyncio.create_task(engine.draw(VARIANT, jobs()))
        await until(lambda: closing.requests)
        stopping = asyncio.create_task(closing.stop())
        await until(lambda: engine.workers[0].alive is False)
        assert not drawing.done()
        assert (await drawing)[0].encoded == png(7)
        await stopping
        assert len(closing.requests) == 1


async def test_a_worker_comes_back_by_itself_and_gets_its_variants():
    one = Double()
    async with workers(one) as engine:
        await everywhere(engine)
        other = Variant(model="x")
        await engine.load(other)
        await one.stop()
        await until(lambda: engine.workers[0].alive is False)
        with pytest.raises(Away, match="cannot connect"):
            await engine.draw(VARIANT, jobs())
        assert engine.loaded(VARIANT) and "cannot connect" in engine.failure(VARIANT)
        await one.start()
        await until(lambda: {VARIANT, other} == set(engine.workers[0].served))
        assert engine.failure(VARIANT) is None and engine.problems() == ""
        await engine.draw(VARIANT, jobs())


async def test_a_variant_asked_for_while_no_worker_is_there_is_loaded_when_one_comes():
    late = Double()
    await late.start()
    await late.stop()
    engine = RemoteEngine("gpu", RemoteSettings(urls=(late.url,)))
    with pytest.raises(Away, match="no worker of engine 'gpu' can be reached"):
        await engine.load(VARIANT)
    assert engine.loaded(VARIANT) is None and "cannot connect" in engine.failure(VARIANT)
    await late.start()
    await until(lambda: engine.loaded(VARIANT))
    await engine.close()
    await late.stop()


async def test_busy_workers_are_passed_by_and_the_shortest_wait_is_told():
    one, two = Double(), Double()
    async with workers(one, two) as engine:
        await everywhere(engine)
        one.fault, one.retry_after = "429", 9.0
        for _ in range(3):
            await engine.draw(VARIANT, jobs())
        two.fault, two.retry_after = "429", 4.0
        with pytest.raises(Busy) as full:
            await engine.draw(VARIANT, jobs())
        assert full.value.retry_after_seconds == 4.0


@pytest.mark.parametrize(("fault", "kind"), [("500", RuntimeError), ("504", Late), ("400", ModelError)])
async def test_what_the_engine_itself_refuses_is_not_asked_elsewhere(fault, kind):
    one, two = Double(), Double()
    async with workers(one, two) as engine:
        await everywhere(engine)
        one.fault = two.fault = fault
        with pytest.raises(kind, match=f"fault {fault}"):
            await engine.draw(VARIANT, jobs())
        # a refusal is asked once more, since a worker that was started anew refuses what it has forgotten
        assert len(one.requests) + len(two.requests) == (2 if fault == "400" else 1)


async def test_requests_go_where_the_least_work_is_whatever_the_variant():
    one, two, other = Double(), Double(), Variant(model="salon/emoji-64", steps=4)
    async with workers(one, two) as engine:
        await everywhere(engine)
        await everywhere(engine, other)
        one.backlog_ms = 60_000.0
        await asyncio.gather(engine.draw(VARIANT, jobs()), engine.draw(other, jobs(variant=other)))
        assert len(one.requests) == len(two.requests) == 1
        for variant in (VARIANT, other, VARIANT, other):
            await engine.draw(variant, jobs(variant=variant))
        assert len(one.requests) == 1 and len(two.requests) == 5
        one.backlog_ms = 0.0
        two.seconds = one.seconds = 0.05
        engine.workers[0].work.reported(0.0, time.perf_counter())
        await asyncio.gather(*(engine.draw(VARIANT, jobs()) for _ in range(6)))
        assert len(one.requests) >= 3 and len(two.requests) >= 7  # two more each, at least
        assert engine.queue_seconds() == 0.0


async def test_a_worker_with_other_weights_is_left_out():
    one, odd = Double(), Double(weights="other")
    async with workers(one, odd) as engine:
        await engine.load(VARIANT)
        await until(lambda: engine.problems())
        assert "other weights" in engine.problems()
        assert len({worker.url for worker in engine.workers if VARIANT in worker.served}) == 1
        await engine.draw(VARIANT, jobs())


async def test_what_cannot_be_loaded_says_why():
    async with workers(Double(), Double()) as engine:
        with pytest.raises(ModelError, match="model 'broken': there is no such directory") as refusal:
            await engine.load(Variant(model="broken"))
        assert not isinstance(refusal.value, Away)
        assert "no such directory" in engine.failure(Variant(model="broken"))


async def test_cancelling_closes_the_request():
    double = Double()
    double.seconds = 30.0
    async with workers(double) as engine:
        await everywhere(engine)
        task = asyncio.create_task(engine.draw(VARIANT, jobs()))
        await until(lambda: double.requests)
        task.cancel()
        await until(lambda: double.cancelled == 1)
        assert engine.workers[0].work.backlog_ms(time.perf_counter()) == 0.0


async def test_a_token_is_sent_renewed_and_never_shown(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "token"
    path.write_text("hunter2\n")
    double = Double(token="hunter2")
    async with workers(double, token=f"file:{path}") as engine:
        await engine.draw(VARIANT, jobs())
        double.token = "hunter3"
        path.write_text("hunter3")
        await engine.draw(VARIANT, jobs())
        double.token = "hunter4"
        await until(lambda: engine.problems())
        assert "refuses the token" in engine.problems()
    assert "hunter" not in caplog.text


async def test_a_certificate_must_be_trusted(monkeypatch, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    double = Double(ssl_context=context)
    async with workers(double) as engine:
        with pytest.raises(Away, match="certificate is not trusted"):
            await engine.load(VARIANT)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with workers(double) as engine:
        await engine.draw(VARIANT, jobs())


def others(first: int, rank: int = 2, **more) -> dict:
    shape = [first, 1][:rank]
    names = {"PROMPT": "BYTES", "VARIANT": "BYTES", "SEED": "UINT64", "GUIDANCE": "FP16"}
    return {
        "name": "sd15", "versions": ["2", "10"], "platform": "python",
        "inputs": [{"name": name, "datatype": kind, "shape": shape} for name, kind in names.items()],
        "outputs": [{"name": "IMAGE", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}],
        **more,
    }  # fmt: skip


FOREIGN = Variant(model="sd15", size="8x8", served_as="vivid", guidance=7.5, engine="gpu")


async def test_a_server_of_others_gets_what_its_metadata_names():
    double = Double(metadata=others(-1))
    async with workers(double, model="sd15") as engine:
        loaded = await engine.load(FOREIGN)
        pictures = await engine.draw(FOREIGN, jobs(2, FOREIGN, negative_prompt="x"))
        elsewhere = await engine.load(Variant(model="sd15", size="8x8", served_as="plain", guidance=7.5, engine="gpu"))
    assert loaded.digest != elsewhere.digest and (loaded.width, loaded.height) == (8, 8)
    assert np.array_equal(pictures[1].rgb, solid(8)) and pictures[1].service_ms > 0 and pictures[1].encoded == b""
    path, asked = double.requests[0]
    assert path == "/v2/models/sd15/versions/10/infer"
    assert asked.inputs["VARIANT"].data == [b"vivid", b"vivid"] and set(asked.inputs) == {"PROMPT", "VARIANT", "SEED", "GUIDANCE"}
    assert asked.inputs["SEED"].shape == (2, 1) and asked.inputs["GUIDANCE"].data.dtype == np.float16


async def test_a_server_of_others_that_makes_one_image_at_a_time_is_asked_one_by_one():
    double = Double(metadata=others(1, rank=1))
    async with workers(double, model="sd15") as engine:
        pictures = await engine.draw(FOREIGN, jobs(3, FOREIGN))
    assert [int(picture.rgb[0, 0, 0]) for picture in pictures] == [7, 8, 9] and len(double.requests) == 3


async def test_the_queue_at_a_server_of_others_is_bounded_here():
    double = Double(metadata=others(-1))
    async with workers(double, model="sd15") as engine:
        await engine.load(FOREIGN)
        engine.workers[0].work.begin(90_000.0)
        with pytest.raises(Busy) as full:
            await engine.draw(FOREIGN, jobs(1, FOREIGN))
        assert full.value.retry_after_seconds == pytest.approx(30.0, abs=1.0) and not double.requests
        with pytest.raises(Busy) as full:
            await engine.draw(FOREIGN, jobs(1, FOREIGN), deadline_seconds=20.0)
        assert full.value.retry_after_seconds == pytest.approx(70.0, abs=1.0)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (others(-1, outputs=[]), "neither output ENCODED nor IMAGE"),
        (others(-1, inputs=[{"name": "TEXT", "datatype": "BYTES", "shape": [1]}]), "no input PROMPT; it has TEXT"),
        (others(-1, name="other"), "unknown model"),
    ],
)
async def test_a_server_of_others_that_cannot_serve_is_refused_with_the_reason(metadata, said):
    async with workers(Double(metadata=metadata), model="sd15") as engine:
        with pytest.raises(ModelError, match=said):
            await engine.load(FOREIGN)


async def test_a_picture_of_another_size_is_not_taken():
    variant = Variant(model="sd15", size="16x8", served_as="vivid", engine="gpu")
    async with workers(Double(metadata=others(-1)), model="sd15") as engine:
        with pytest.raises(Away, match=r"UINT8 \[1, 8, 16, 3\] was expected"):
            await engine.draw(variant, jobs(1, variant))
