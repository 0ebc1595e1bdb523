"""The calls of the Open Inference Protocol v2."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import msgspec
from litestar import Request, Response, get, post

from serving.protocol import documents
from serving.protocol.answered import body_of
from serving.protocol.asked import understand
from serving.protocol.refusals import ClientGone, NotReady, Unauthorized, Unknown, Unreadable
from serving.protocol.wire import JSON_LENGTH_HEADER, decode_request
from serving.protocol.worker import Worker
from serving.variant import Variant

_SMALL = 65_536
AnyRequest = Request[Any, Any, Any]


class _LoadParameters(msgspec.Struct, frozen=True):
    variant: str | None = None


class _LoadBody(msgspec.Struct, frozen=True):
    parameters: _LoadParameters = _LoadParameters()


class _IndexBody(msgspec.Struct, frozen=True):
    ready: bool = False


def authorize(request: AnyRequest, worker: Worker) -> None:
    """Raises Unauthorized unless the request carries the worker's token, where it has one."""
    sent = request.headers.get("authorization", "").encode("utf-8", "replace")
    if worker.token is not None and not hmac.compare_digest(sent, f"Bearer {worker.token}".encode()):
        raise Unauthorized("the bearer token is missing or not this worker's; see `token` in [engines.…]")


@get("/v2/health/live", sync_to_thread=False)
def live() -> Response[bytes]:
    """The process answers."""
    return _json({"live": True})


@get("/v2/health/ready", sync_to_thread=False)
def ready(worker: Worker) -> Response[bytes]:
    """All configured variants that can be loaded are; the body names those that are not, and why."""
    is_ready = worker.shelf.ready() and not worker.closing
    told = {"ready": is_ready, "closing": worker.closing, "loading": worker.shelf.loading(), "failures": worker.shelf.failures()}
    return _json(told, 200 if is_ready else 503)


@get("/v2", sync_to_thread=False)
def server(request: AnyRequest, worker: Worker) -> Response[bytes]:
    """Name, version and extensions."""
    authorize(request, worker)
    return _json(documents.server())


@get("/v2/models/stats", sync_to_thread=False)
def all_statistics(request: AnyRequest, worker: Worker) -> Response[bytes]:
    """What was done, by lane and variant."""
    authorize(request, worker)
    return _json(documents.statistics(worker.shelf, worker.engine.statistics()))


@get(["/v2/models/{model:str}", "/v2/models/{model:str}/versions/{version:str}"], sync_to_thread=False)
def metadata(request: AnyRequest, worker: Worker, model: str, version: str = "1") -> Response[bytes]:
    """Inputs, outputs and variants of a lane."""
    authorize(request, worker)
    _check_version(version)
    return _json(documents.metadata(model, worker.shelf.on(model)))


@get(["/v2/models/{model:str}/ready", "/v2/models/{model:str}/versions/{version:str}/ready"], sync_to_thread=False)
def model_ready(request: AnyRequest, worker: Worker, model: str, version: str = "1") -> Response[bytes]:
    """The lane takes requests."""
    authorize(request, worker)
    _check_version(version)
    if worker.closing:
        raise NotReady("the worker is closing; ask another")
    worker.shelf.on(model)
    return _json({"name": model, "ready": True})


@get(["/v2/models/{model:str}/config", "/v2/models/{model:str}/versions/{version:str}/config"], sync_to_thread=False)
def config(request: AnyRequest, worker: Worker, model: str, version: str = "1") -> Response[bytes]:
    """The lane in Triton Inference Server's words."""
    authorize(request, worker)
    _check_version(version)
    return _json(documents.config(model, worker.shelf.on(model)))


@get(["/v2/models/{model:str}/stats", "/v2/models/{model:str}/versions/{version:str}/stats"], sync_to_thread=False)
def statistics(request: AnyRequest, worker: Worker, model: str, version: str = "1") -> Response[bytes]:
    """What the lane did."""
    authorize(request, worker)
    _check_version(version)
    worker.shelf.on(model)
    return _json(documents.statistics(worker.shelf, worker.engine.statistics(), model))


@post("/v2/repository/index", status_code=200)
async def index(request: AnyRequest, worker: Worker) -> Response[bytes]:
    """Lanes and variants, and their states."""
    authorize(request, worker)
    return _json(documents.index(worker.shelf, _body(await request.body(), _IndexBody).ready))


@post("/v2/repository/models/{name:str}/load", status_code=200)
async def load(request: AnyRequest, worker: Worker, name: str) -> Response[bytes]:
    """Make a variant ready, and define it first when the body does. Answers once it is: seconds, or minutes for a large model."""
    authorize(request, worker)
    told = _body(await request.body(), _LoadBody).parameters.variant
    try:
        variant = None if told is None else msgspec.json.decode(told, type=Variant)
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise Unreadable(f"parameters.variant is not the JSON of a variant: {error}") from None
    with worker.request():
        loaded = await worker.shelf.load(name, variant)
    return _json({"name": name, "digest": loaded.digest, "width": loaded.width, "height": loaded.height, "model": loaded.lane})


@post("/v2/repository/models/{name:str}/unload", status_code=200)
async def unload(request: AnyRequest, worker: Worker, name: str) -> Response[bytes]:
    """Give up a variant; its model goes with the last variant that needs it."""
    authorize(request, worker)
    with worker.request():
        await worker.shelf.unload(name)
    return _json({})


@post(["/v2/models/{model:str}/infer", "/v2/models/{model:str}/versions/{version:str}/infer"], status_code=200)
async def infer(request: AnyRequest, worker: Worker, model: str, version: str = "1") -> Response[bytes]:
    """Make images. A client that disconnects frees its places within a step."""
    authorize(request, worker)
    _check_version(version)
    if (coding := request.headers.get("content-encoding", "identity")) != "identity":
        raise Unreadable(f"content-encoding is {coding[:20]!r}; send the body as it is")
    body, json_length = await request.body(), _json_length(request)
    with worker.request():
        *_, loaded = worker.shelf.on(model)[0]
        # a large body takes its time, in which the loop serves others
        understood = await asyncio.to_thread(decode_request, body, json_length) if len(body) > _SMALL else decode_request(body, json_length)
        asked = understand(understood, loaded.height, loaded.width)
        jobs = asked.jobs(lambda text: worker.shelf.resolve(model, text))
        check = partial(asked.check_lengths, jobs, worker.engine.limit_passed)
        await asyncio.to_thread(check) if len(body) > _SMALL else check()
        async with _cancelled_when_gone(request):
            pictures = await worker.draw(jobs, asked.deadline_seconds)
        backlog_ms = 1000 * worker.engine.queue_seconds()
        answer, length = await asyncio.to_thread(body_of, model, understood.id, asked, pictures, backlog_ms)
    if length is None:
        return Response(answer, media_type="application/json")
    return Response(answer, media_type="application/octet-stream", headers={JSON_LENGTH_HEADER: str(length)})


@contextlib.asynccontextmanager
async def _cancelled_when_gone(request: AnyRequest) -> AsyncIterator[None]:
    """Cancel the inside when the client disconnects; nobody reads the answer then."""
    inside = asyncio.current_task()
    assert inside is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        inside.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        inside.uncancel()
        raise ClientGone("the client went away") from None
    finally:
        watcher.cancel()


def _check_version(version: str) -> None:
    if version != "1":
        raise Unknown(f"version {version[:20]!r} is not here; there is only version 1")


def _json_length(request: AnyRequest) -> int | None:
    text = request.headers.get(JSON_LENGTH_HEADER)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise Unreadable(f"{JSON_LENGTH_HEADER} is {text[:20]!r}; send the number of bytes of the JSON")
    return int(text)


def _body(body: bytes, into: type[Any]) -> Any:
    """An empty body is one that says nothing."""
    try:
        return msgspec.json.decode(body or b"{}", type=into)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not as the protocol has it: {error}") from None


def _json(value: object, status_code: int = 200) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status_code, media_type="application/json")
