"""Who asks: API keys in `Authorization: Bearer`, scopes as route guards."""

from collections.abc import Callable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from analytics.events import utc_now
from gateway.keys import Holder, KeyRing, Scope
from gateway.problems import Forbidden, Unauthorized

Connection = ASGIConnection[Any, Any, Any, Any]


def holder_of(connection: Connection, keys: KeyRing) -> Holder | None:
    """Who presents a valid key; None without an Authorization header. Raises Unauthorized for a wrong one."""
    header = connection.headers.get("authorization")
    if header is None:
        return None
    scheme, _, presented = header.partition(" ")
    holder = keys.holder(presented.strip(), utc_now()) if scheme.lower() == "bearer" else None
    if holder is None:
        raise _unauthorized("this API key is unknown, revoked or expired; send `Authorization: Bearer KEY` (salon keys create)")
    return holder


def require(connection: Connection, keys: KeyRing, scope: Scope) -> Holder:
    """Who asks, with this scope. Raises Unauthorized or Forbidden."""
    holder = holder_of(connection, keys)
    if holder is None:
        raise _unauthorized("no API key was sent; send `Authorization: Bearer KEY` (salon keys create)")
    if scope not in holder.scopes:
        raise Forbidden(f"key {holder.name!r} has the scopes {', '.join(sorted(holder.scopes))}; this call needs {scope!r}")
    return holder


def needs(scope: Scope) -> Callable[[Connection, BaseRouteHandler], None]:
    """A guard for handlers: lets in who has `scope`, and leaves the holder in the connection's scope."""

    def guard(connection: Connection, _: BaseRouteHandler) -> None:
        connection.scope["user"] = require(connection, connection.app.state.gateway.keys, scope)

    return guard


def _unauthorized(detail: str) -> Unauthorized:
    return Unauthorized(detail, headers={"www-authenticate": 'Bearer realm="salon"'})
