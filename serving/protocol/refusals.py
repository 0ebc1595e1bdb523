"""What a worker answers instead of what it was asked for: a status and a text.

Refused
├── Unreadable 400     no message of the protocol, or values that cannot be
├── Unauthorized 401   the token is missing or wrong
├── Unknown 404        no such model, version or variant to load
├── ClientGone 499     nobody reads it
└── NotReady 503       variants are still being loaded, or the worker is closing
"""

import logging
import math
from typing import Any, ClassVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

from serving.errors import Busy, Late, ModelError
from serving.protocol.tensor import WireError

log = logging.getLogger(__name__)
_SHOWN = 2000


class Refused(Exception):
    """`text` names what is wrong, its value, and the fix."""

    status: ClassVar[int] = 500


class Unreadable(Refused):
    """The request is wrong."""

    status = 400


class Unauthorized(Refused):
    """Not allowed."""

    status = 401


class Unknown(Refused):
    """There is nothing by this name."""

    status = 404


class ClientGone(Refused):
    """The client went away."""

    status = 499


class NotReady(Refused):
    """Later, or elsewhere."""

    status = 503


def answer(error: Exception) -> Response[bytes]:
    """`{"error": text}` with the status of `error`."""
    headers: dict[str, str] = {}
    match error:
        case Refused():
            status = error.status
        case WireError() | ModelError():
            status = 400
        case Busy():
            status, headers = 429, {"retry-after": str(max(1, math.ceil(error.retry_after_seconds)))}
        case Late():
            status = 504
        case _:
            log.error("a request failed", exc_info=error)
            status = 500
    text = str(error) or type(error).__name__
    if status == 500:
        text = f"the engine failed: {type(error).__name__}: {text}"
    return _told(status, text, headers)


def _told(status: int, text: str, headers: dict[str, str]) -> Response[bytes]:
    return Response(msgspec.json.encode({"error": text[:_SHOWN]}), status_code=status, headers=headers, media_type="application/json")


def from_error(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Exception handler for everything that is not the framework's."""
    return answer(error)


def from_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Exception handler for the framework's 404, 405 and 413."""
    texts = {
        404: f"there is nothing at {request.scope['path'][:200]}; the protocol begins at /v2",
        405: f"{request.method} is not allowed on {request.scope['path'][:200]}",
        413: "the body is over the limit; send fewer images or shorter prompts",
    }
    return _told(error.status_code, texts.get(error.status_code) or error.detail, {})
