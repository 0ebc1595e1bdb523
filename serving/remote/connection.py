"""HTTP to one worker: bytes out, status and bytes back, and how it went wrong."""

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress

import aiohttp
import msgspec

from serving.errors import Busy, Late, ModelError
from serving.remote.failures import Closed, Lost, NotReady, Refused, Unanswered
from serving.remote.settings import read_token

CONNECT_SECONDS = 5.0
# below the 5 s after which common servers close an idle connection, so that no request meets a closing one
KEPT_SECONDS = 3.0
_SHOWN = 500


class Answer(msgspec.Struct, frozen=True):
    """What came back with status 200."""

    headers: Mapping[str, str]
    body: bytes


def open_session() -> aiohttp.ClientSession:
    """A session for all workers of an engine; needs a running loop. Requests have no time limit of their own."""
    return aiohttp.ClientSession(
        # a context of its own, since aiohttp's was made before $SSL_CERT_FILE could be heard
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS, ssl=ssl.create_default_context()),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        raise_for_status=False,
    )


class Connection:
    """Requests to one worker. Cancelling one closes its connection, which tells the worker."""

    def __init__(self, url: str, session: aiohttp.ClientSession, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._session, self._token_source = session, token
        self._token: str | None = None

    async def get(self, path: str, seconds: float | None = None) -> Answer:
        """Like `post`, without a body. `seconds` bounds the whole of it."""
        return await self._exchange("GET", path, b"", {}, seconds)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to a request that succeeded.

        Raises Lost when the worker is gone or not ready, Busy, Late, Refused (it says why), or RuntimeError when it failed.
        """
        return await self._exchange("POST", path, body, headers, None)

    async def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str], seconds: float | None) -> Answer:
        for again in (False, True):
            sent = {**headers, **await self._authorization(again)}
            try:
                async with asyncio.timeout(seconds):
                    async with self._session.request(
                        method, self.url + path, data=body or None, headers=sent, allow_redirects=False
                    ) as response:
                        status, answered, data = response.status, response.headers, await response.read()
            except TimeoutError:
                raise Unanswered(f"{self.url} does not answer") from None
            except (aiohttp.ClientError, OSError) as error:
                kind = Closed if isinstance(getattr(error, "os_error", None), ConnectionRefusedError) else Lost
                raise kind(f"{self.url}: {_why(error)}") from None
            if status == 200:
                return Answer(answered, data)
            if status != 401 or self._token_source is None:
                break
        raise _failure(self.url, status, answered, data)

    async def _authorization(self, again: bool) -> dict[str, str]:
        """The token is read once, and again when the worker refuses it: it may have been renewed."""
        if self._token_source is None:
            return {}
        if self._token is None or again:
            try:
                self._token = await asyncio.to_thread(read_token, self._token_source, os.environ)
            except ValueError as error:
                raise ModelError(str(error)) from None
        return {"Authorization": f"Bearer {self._token}"}


def _failure(url: str, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
    text = _said(body)
    if status == 429:
        return Busy(_seconds(headers.get("Retry-After")))
    if status in (502, 503):
        return NotReady(f"{url} is not ready: {text}")
    if status == 504:
        return Late(f"{url}: {text}")
    if status in (401, 403):
        return Refused(f"{url} refuses the token (status {status}); see `token` in [engines.…]")
    if status < 500:
        return Refused(f"{url}: {text}" if status in (400, 404) else f"{url} answers with status {status}: {text}")
    return RuntimeError(f"{url} failed with status {status}: {text}")


def _said(body: bytes) -> str:
    """The text of `{"error": text}`, or the beginning of whatever it is."""
    with suppress(msgspec.DecodeError):
        found = msgspec.json.decode(body)
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            return found["error"][:_SHOWN]  # type: ignore[no-any-return]
    return body[:_SHOWN].decode("utf-8", "replace") or "no reason given"


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After header; a date or nonsense counts as a second."""
    with suppress(TypeError, ValueError):
        return min(max(float(retry_after or 1.0), 0.1), 3600.0)
    return 1.0


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect ({error.os_error.strerror or error.os_error})"
    return str(error) or type(error).__name__
