"""`POST /v1/images/generations` as OpenAI's clients speak it, the pictures themselves, and their provenance."""

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.response import Stream

from gateway import events_of_generation, generation
from gateway.access import needs
from gateway.equalise import hold
from gateway.generation import Finished, Started
from gateway.image_request import Format, ImageRequest
from gateway.partial import Partial, Progress
from gateway.pictures import MEDIA_TYPES, convert_picture, encode_png, png_of
from gateway.problems import ClientGone, InvalidRequest, NotFound, Overloaded, Problem, Unavailable
from gateway.running import Gateway
from gateway.wire import decode

log = logging.getLogger(__name__)
PING_SECONDS = 2.0
STORE_PATIENCE_SECONDS = 0.25
AnyRequest = Request[Any, Any, Any]


class Answer(msgspec.Struct, frozen=True):
    """A finished request: provenance, pictures as files by position, and the token for feedback."""

    finished: Finished
    files: list[bytes]
    token: str


@post("/v1/images/generations", guards=[needs("generate")], status_code=200)
async def generate(request: AnyRequest, gateway: Gateway) -> Response[Any]:
    """Make pictures. `model` is a route; answers `b64_json` unless `response_format` is `url`."""
    wanted = decode(await request.body(), ImageRequest)
    view = gateway.experiments.view
    started = await generation.start(wanted, view, gateway.engines, gateway.sticky)
    if wanted.stream:
        return Stream(_stream(request, gateway, started), media_type="text/event-stream", headers=_headers(request, started, None))
    gone = asyncio.Event()
    async with _watching(request, gone):
        answer = await _produce(gateway, started, gone)
    return Response(
        msgspec.json.encode(_body(request, started, answer)),
        media_type="application/json",
        headers=_headers(request, started, answer.token),
    )


@get("/v1/images/{image_id:str}")
async def picture(gateway: Gateway, image_id: str, format: str = "png") -> Response[bytes]:
    """A picture by its unguessable id; no key is needed. `?format=` png, jpeg or webp."""
    if format not in MEDIA_TYPES:
        raise InvalidRequest(f"`format` is {format!r}; one of {', '.join(MEDIA_TYPES)}", field="format")
    png = await _stored(gateway.store.picture, _uuid("image_id", image_id))
    if png is None:
        raise NotFound(f"there is no picture {image_id}; it was never made, or was forgotten")
    data = await asyncio.to_thread(convert_picture, png, msgspec.convert(format, Format))
    return Response(
        data, media_type=MEDIA_TYPES[format], headers={"cache-control": "private, max-age=86400", "x-content-type-options": "nosniff"}
    )


@get("/v1/generations/{generation_id:str}", guards=[needs("analyst")])
async def provenance(gateway: Gateway, generation_id: str) -> Response[bytes]:
    """The full provenance of a request."""
    record = await _stored(gateway.store.generation, _uuid("generation_id", generation_id))
    if record is None:
        raise NotFound(f"there is no generation {generation_id}")
    return Response(msgspec.json.encode(record), media_type="application/json")


async def _produce(gateway: Gateway, started: Started, gone: asyncio.Event, progress: Progress | None = None) -> Answer:
    """Render, log, keep, seal. Every request that got past the queue leaves its events, whatever becomes of it."""
    began, patience = time.perf_counter(), gateway.config.gateway.render_timeout_seconds
    view = gateway.experiments.view
    try:
        finished = await generation.render(started, view, gateway.engines, gone, patience, progress)
    except Overloaded:
        _count(gateway, started, "overloaded")
        raise
    except Problem as error:
        status = "cancelled" if isinstance(error, ClientGone) else "failed"
        cause = type(error.__cause__ or error).__name__
        await gateway.journal.record(events_of_generation.events_of_failure(started, view, status, cause))
        _count(gateway, started, status)
        raise
    finished = await _alike(gateway, started, finished, gone, began + patience - time.perf_counter())
    wanted, record = started.request, finished.record
    output_format = wanted.output_format or "png"
    pngs = await asyncio.gather(*(asyncio.to_thread(png_of, picture) for picture in finished.pictures))
    files = (
        pngs
        if output_format == "png"
        else await asyncio.gather(*(asyncio.to_thread(convert_picture, png, output_format, wanted.output_compression) for png in pngs))
    )
    claims = record.claims()
    gateway.recent.put(claims)
    keeping = gateway.in_background(
        asyncio.to_thread(gateway.store.put, record, {p.image_id: png for p, png in zip(record.images, pngs, strict=True)}),
        "keeping pictures",
    )
    await gateway.journal.record(events_of_generation.events_of_success(started, finished, client_gone=gone.is_set()))
    await _kept(keeping, needed=wanted.response_format == "url")
    _count(gateway, started, finished)
    gateway.metrics.overhead(max(0.0, time.perf_counter() - began - (record.queue_ms + record.service_ms) / 1000))
    return Answer(finished, files, gateway.sealer.seal(claims))


async def _alike(gateway: Gateway, started: Started, finished: Finished, gone: asyncio.Event, limit_seconds: float) -> Finished:
    """Hold the answer of a faster arm where its experiment says `equalise`; note how long each arm's own pictures took."""
    life = started.life
    if life is None:
        return finished
    if life.declared.equalise and not finished.fallback:
        weights = life.allocation.weights
        arms = [arm for arm in life.declared.arms if weights.get(arm, 0.0) > 0]
        hold_ms = gateway.equaliser.hold_ms(life.name, arms, started.arm, finished.latency_ms)
        finished = finished.held(await hold(min(hold_ms / 1000, limit_seconds), gone))
    for part in finished.parts:
        if not part.fallback:
            gateway.latencies.add(life.name, part.arm, part.queue_ms + part.service_ms + finished.held_ms)
    return finished


def _count(gateway: Gateway, started: Started, became: Finished | str) -> None:
    """Count pictures and, once each, the arms that they are of: by what became of them, the same for all where it is a text."""
    status = became if isinstance(became, str) else became.record.status
    gateway.metrics.images(started.plan.route, status, len(started.order))
    if started.life is not None:
        failed = [part.arm for part in became.parts if part.fallback] if isinstance(became, Finished) else []
        for arm in started.draw.each_arm:
            gateway.metrics.arm(started.experiment, arm, status if isinstance(became, str) else "failed" if arm in failed else "ok")


async def _kept(keeping: "asyncio.Task[None]", needed: bool) -> None:
    """A URL is answered only for a picture that is kept; with base64 a slow or broken store delays nothing."""
    done, _ = await asyncio.wait({keeping}, timeout=None if needed else STORE_PATIENCE_SECONDS)
    if needed and done and (error := keeping.exception()):
        raise Unavailable("the picture was made but could not be kept, so there is no URL; ask for b64_json") from error


def _body(request: AnyRequest, started: Started, answer: Answer) -> dict[str, object]:
    output_format = started.request.output_format or "png"
    data: list[dict[str, object]] = []
    for kept, file in zip(answer.finished.record.images, answer.files, strict=True):
        place = (
            {"url": _url(request, kept.image_id, output_format)}
            if started.request.response_format == "url"
            else {"b64_json": _base64(file)}
        )
        data.append({**place, "image_id": str(kept.image_id), "position": kept.position})
    return {
        "created": int(started.created_at.timestamp()),
        "data": data,
        "generation_id": str(started.generation_id),
        "feedback_token": answer.token,
        "size": started.size,
        "output_format": output_format,
    }


async def _stream(request: AnyRequest, gateway: Gateway, started: Started) -> AsyncIterator[bytes]:
    """Server-sent events: partial pictures as they were asked for, `image_generation.completed` per picture, comments while waiting."""
    gone = asyncio.Event()
    # Held arms tell nothing before they answer: how fast pictures unfold would tell them apart.
    told = started.life is None or not started.life.declared.equalise
    progress = Progress(len(started.order), (started.request.partial_images or 0) if told else 0)
    work = asyncio.create_task(_produce(gateway, started, gone, progress))
    work.add_done_callback(lambda _: progress.finish())
    shared = {"created_at": int(started.created_at.timestamp()), "size": started.size, "background": "opaque", "quality": "auto"}
    shared["output_format"] = started.request.output_format or "png"
    try:
        while True:
            try:
                partial = await progress.next(PING_SECONDS)
            except TimeoutError:
                left = progress.remaining_ms() if told else None
                yield b": ping\n\n" if left is None else f": remaining {left:.0f} ms\n\n".encode()
                continue
            if partial is None:
                break
            yield await asyncio.to_thread(_partial, started, partial, shared)
        answer = work.result()
    except Problem as problem:
        yield _sse("error", {"error": problem.openai_error(), **problem.document()})
        return
    except Exception as error:
        log.error("a streamed request failed", exc_info=error)
        yield _sse(
            "error", {"error": {"message": "the gateway has failed on this request", "type": "server_error", "param": None, "code": None}}
        )
        return
    finally:
        # A client that leaves ends this generator; the work drops what still waits, and records what was done.
        gone.set()
        gateway.adopt(work)
    body = _body(request, started, answer)
    shared |= {key: body[key] for key in ("generation_id", "feedback_token")}
    for item in body["data"]:  # type: ignore[attr-defined]
        yield _sse("image_generation.completed", {"type": "image_generation.completed", **item, **shared})


def _partial(started: Started, partial: Partial, shared: dict[str, Any]) -> bytes:
    """The event of an unfinished picture, which is neither kept nor logged. Blocks: the picture is encoded."""
    preview, wanted = partial.preview, started.request
    file = convert_picture(encode_png(preview.rgb), wanted.output_format or "png", wanted.output_compression)
    data = {"b64_json": _base64(file), "partial_image_index": partial.index, "position": partial.position}
    data["remaining_ms"] = round(preview.remaining_ms)
    return _sse("image_generation.partial_image", {"type": "image_generation.partial_image", **data, **shared})


def _sse(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"


@contextlib.asynccontextmanager
async def _watching(request: AnyRequest, gone: asyncio.Event) -> AsyncIterator[None]:
    """Set `gone` when the client disconnects: Litestar does not cancel a plain handler by itself."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _headers(request: AnyRequest, started: Started, token: str | None) -> dict[str, str]:
    headers = {"salon-generation": str(started.generation_id)}
    if token:
        headers["salon-feedback-token"] = token
    if started.life is not None and "analyst" in request.scope["user"].scopes:
        headers["salon-arm"] = ",".join(started.draw.arms) or started.arm
    return headers


def _url(request: AnyRequest, image_id: UUID, output_format: str) -> str:
    host = request.headers.get("host") or "localhost"
    suffix = "" if output_format == "png" else f"?format={output_format}"
    return f"{request.scope['scheme']}://{host}/v1/images/{image_id}{suffix}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _uuid(field: str, text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"`{field}` is {text[:80]!r}, which is no id", field=field) from None


async def _stored(read: Any, identity: UUID) -> Any:
    try:
        return await asyncio.to_thread(read, identity)
    except OSError as error:
        raise Unavailable(f"the image store cannot be read ({error.strerror or type(error).__name__})") from None
