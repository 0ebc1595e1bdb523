"""`Idempotency-Key` on every POST: same key and body, same answer; same key, other body, 422; at the same time, one waits.

A key belongs to the API key that sent it. Kept are answers that say something lasting: not 401, 403, 408, 409, 429, 499 or 5xx.
"""

import asyncio
import hashlib
import logging
import sqlite3
from typing import Any

import msgspec
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from gateway.answers import BYTES_EACH, Answers, Kept
from gateway.problems import IdempotencyMismatch, InvalidRequest

log = logging.getLogger(__name__)
KEY_CHARACTERS = 255
PASSING = frozenset({401, 403, 408, 409, 413, 429, 499})
GENERATIONS = "/v1/images/generations"


class Idempotency(ASGIMiddleware):
    """Reads the body, and answers from what was kept, or keeps what is answered."""

    def __init__(self, answers: Answers, max_body_bytes: int) -> None:
        self._answers, self._max_body_bytes = answers, max_body_bytes
        self._under_way: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """ASGI. Raises InvalidRequest, IdempotencyMismatch."""
        headers = dict(scope["headers"])
        raw = headers.get(b"idempotency-key")
        if raw is None or scope.get("method") != "POST":
            await next_app(scope, receive, send)
            return
        key = raw.decode("latin-1").strip()
        if not 0 < len(key) <= KEY_CHARACTERS:
            raise InvalidRequest(f"`Idempotency-Key` has {len(key)} characters; give 1 to {KEY_CHARACTERS}", field="Idempotency-Key")
        body, whole = await self._body(receive)
        if not whole:
            await next_app(scope, _again(body, receive, whole), send)
            return
        owner = hashlib.sha256(headers.get(b"authorization", b"")).hexdigest()
        asked = f"{scope['path']}?{scope['query_string'].decode('latin-1')}".encode()
        fingerprint = hashlib.sha256(asked + b"\x00" + body).hexdigest()
        while waiting := self._under_way.get((owner, key)):
            await asyncio.shield(waiting)
        done = self._under_way[owner, key] = asyncio.get_running_loop().create_future()
        try:
            kept = await self._kept(owner, key)
            if kept is not None:
                await _answer(kept, fingerprint, key, send)
                return
            recorder = _Recorder(send)
            await next_app(scope, _again(body, receive, whole), recorder)
            if recorder.complete and recorder.status < 500 and recorder.status not in PASSING:
                await self._keep(
                    owner, key, Kept(fingerprint, recorder.status, recorder.headers, bytes(recorder.body)), _unit(scope["path"], body)
                )
        finally:
            del self._under_way[owner, key]
            done.set_result(None)

    async def _kept(self, owner: str, key: str) -> Kept | None:
        try:
            return await self._answers.get(owner, key)
        except sqlite3.Error as error:
            log.error("kept answers cannot be read (%s): Idempotency-Key has no memory until then", error)
            return None

    async def _keep(self, owner: str, key: str, kept: Kept, unit: str) -> None:
        try:
            await self._answers.put(owner, key, kept, unit)
        except sqlite3.Error as error:
            log.error("an answer cannot be kept (%s): a repeated Idempotency-Key will do the work again", error)

    async def _body(self, receive: Receive) -> tuple[bytes, bool]:
        """The body, and whether all of it was read before the limit."""
        body = bytearray()
        while len(body) <= self._max_body_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body), False
            body += message.get("body", b"")
            if not message.get("more_body", False):
                return bytes(body), len(body) <= self._max_body_bytes
        return bytes(body), False


class _Recorder:
    """A `send` that remembers what was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.headers, self.body, self.complete = 500, list[tuple[bytes, bytes]](), bytearray(), False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], [(name, value) for name, value in message["headers"]]
        elif message["type"] == "http.response.body" and len(self.body) <= BYTES_EACH:
            self.body += message["body"]
            self.complete = not message["more_body"]
        await self._send(message)


def _again(body: bytes, receive: Receive, whole: bool) -> Receive:
    """A `receive` that gives the body that was read already, then what comes after it."""
    given = False

    async def again() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": not whole}

    return again


async def _answer(kept: Kept, fingerprint: str, key: str, send: Send) -> None:
    if kept.fingerprint != fingerprint:
        raise IdempotencyMismatch(
            f"`Idempotency-Key` {key[:80]!r} was used with another path or body; take a new key", field="Idempotency-Key"
        )
    await send({"type": "http.response.start", "status": kept.status, "headers": [*kept.headers, (b"idempotency-replayed", b"true")]})
    await send({"type": "http.response.body", "body": kept.body, "more_body": False})


def _unit(path: str, body: bytes) -> str:
    """Whose pictures an answer holds, so that they can be forgotten."""
    if path != GENERATIONS:
        return ""
    try:
        user = msgspec.json.decode(body).get("user")
    except (ValueError, AttributeError):
        return ""
    return user if isinstance(user, str) else ""
