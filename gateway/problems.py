"""Every error of the HTTP edge: RFC 9457 problem documents with a stable `type`, mapped at one seam.

Problem
├── InvalidRequest 400          a field is wrong; the text names field, value and fix
│   └── InvalidJson 400         the body is not JSON
├── Unauthorized 401            no key, or not one of ours
├── Forbidden 403               the key lacks the scope
│   └── InvalidToken 403        a feedback token that this gateway did not make
├── NotFound 404
│   └── UnknownRoute 404        no such `model`
├── MethodNotAllowed 405
├── Conflict 409                not possible in the present state
├── BodyTooLarge 413
├── IdempotencyMismatch 422     same Idempotency-Key, other body
├── Overloaded 429              the queue is full; `Retry-After` says when
├── ClientGone 499              nobody reads it
├── Internal 500                a bug; nothing about the inside is shown
│   └── GenerationFailed 500    the model failed to make the picture
└── Unavailable 503             log, disk or model is away; try again
"""

import logging
import math
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException

log = logging.getLogger(__name__)


class Problem(Exception):
    """An error with a place in RFC 9457. `detail` is for people, `field` names the wrong field, `members` are extra."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal"
    title: ClassVar[str] = "The gateway has failed"
    openai_type: ClassVar[str] = "server_error"

    def __init__(self, detail: str, *, field: str | None = None, headers: dict[str, str] | None = None, **members: object) -> None:
        super().__init__(detail)
        self.detail, self.field, self.headers, self.members = detail, field, headers or {}, members

    def document(self) -> dict[str, object]:
        """The members of the problem document."""
        body: dict[str, object] = {
            "type": f"urn:salon:problem:{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            body["field"] = self.field
        return {**body, **self.members}

    def openai_error(self) -> dict[str, object]:
        """OpenAI's `error` object, which its clients read."""
        return {"message": self.detail, "type": self.openai_type, "param": self.field, "code": self.kind.replace("-", "_")}


class InvalidRequest(Problem):
    """A field is wrong."""

    status, kind, title, openai_type = 400, "invalid-request", "The request is not valid", "invalid_request_error"


class InvalidJson(InvalidRequest):
    """The body is not JSON."""

    kind, title = "invalid-json", "The body is not valid JSON"


class Unauthorized(Problem):
    """No key, or not one of ours."""

    status, kind, title, openai_type = 401, "unauthorized", "A valid API key is needed", "authentication_error"


class Forbidden(Problem):
    """The key lacks the scope."""

    status, kind, title, openai_type = 403, "forbidden", "This key may not do that", "permission_error"


class InvalidToken(Forbidden):
    """A feedback token that this gateway did not make, or that belongs to something else."""

    kind, title = "invalid-feedback-token", "The feedback token is not valid"


class NotFound(Problem):
    """There is no such thing."""

    status, kind, title, openai_type = 404, "not-found", "Not found", "invalid_request_error"


class UnknownRoute(NotFound):
    """No such `model`."""

    kind, title = "model-not-found", "There is no such route"


class MethodNotAllowed(Problem):
    """The path exists, the method does not."""

    status, kind, title, openai_type = 405, "method-not-allowed", "Method not allowed", "invalid_request_error"


class Conflict(Problem):
    """Not possible in the present state."""

    status, kind, title, openai_type = 409, "conflict", "Not possible in the present state", "invalid_request_error"


class BodyTooLarge(Problem):
    """The body is over the limit."""

    status, kind, title, openai_type = 413, "body-too-large", "The body is too large", "invalid_request_error"


class IdempotencyMismatch(Problem):
    """Same Idempotency-Key, other body."""

    status, kind, title, openai_type = 422, "idempotency-key-reused", "This Idempotency-Key came with another body", "invalid_request_error"


class Overloaded(Problem):
    """The queue is full."""

    status, kind, title, openai_type = 429, "overloaded", "Too much work is waiting", "rate_limit_error"


class ClientGone(Problem):
    """The client went away, and what still waited for it was dropped; nobody reads this answer."""

    status, kind, title = 499, "client-gone", "The client went away"


class Internal(Problem):
    """A bug."""


class GenerationFailed(Internal):
    """The model failed to make the picture; the job was started, so clients should not repeat it by themselves."""

    kind, title = "generation-failed", "The picture could not be made"


class Unavailable(Problem):
    """Log, disk or model is away."""

    status, kind, title = 503, "unavailable", "Not available right now"


BY_STATUS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (InvalidRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, Conflict, BodyTooLarge, Overloaded, Unavailable)
}


def retry_after(seconds: float) -> dict[str, str]:
    """The `Retry-After` header: whole seconds, at least 1."""
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def respond(request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """The problem as a response; on `/v1/images/*` with OpenAI's `error` object besides."""
    body = problem.document()
    if request.scope["path"].startswith("/v1/images"):
        body["error"] = problem.openai_error()
    return Response(msgspec.json.encode(body), status_code=problem.status, headers=problem.headers, media_type="application/problem+json")


def from_problem(request: Request[Any, Any, Any], error: Problem) -> Response[bytes]:
    """Exception handler for our own errors."""
    return respond(request, error)


def from_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Exception handler for Litestar's errors: 404, 405, 413, bad parameters."""
    if error.status_code == 500 and "disconnected" in error.detail:
        return respond(request, ClientGone("the client went away before its request was read"))
    kind = BY_STATUS.get(error.status_code)
    if kind is None:
        return from_bug(request, error) if error.status_code >= 500 else respond(request, InvalidRequest(error.detail))
    details = {
        404: f"there is nothing at {request.scope['path']}",
        405: f"{request.method} is not allowed on {request.scope['path']}",
        413: "the body is over the limit of this call; send fewer or shorter items",
    }
    field = None
    extra = error.extra if isinstance(error.extra, list) else []
    reasons = [f"`{item.get('key', '')}`: {item.get('message', '')}" for item in extra if isinstance(item, dict)]
    if len(extra) == 1 and isinstance(extra[0], dict):
        field = str(extra[0].get("key") or "") or None
    problem = kind(
        details.get(error.status_code) or "; ".join(reasons) or error.detail or HTTPStatus(error.status_code).phrase, field=field
    )
    problem.headers.update({k.lower(): v for k, v in (error.headers or {}).items()})
    return respond(request, problem)


def from_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Exception handler for everything else: logged here, nothing of it shown."""
    log.error("unexpected error on %s %s", request.method, request.scope.get("path_template", ""), exc_info=error)
    return respond(request, Internal("the gateway has failed on this request; its log says why"))
