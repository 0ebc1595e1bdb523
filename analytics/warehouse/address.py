"""Where the warehouse is: `chdb://DIR` or `clickhouse://user@host:port/database?secure=true`."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

DATABASE = "salon"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments for a client; `shown` is the URL without its password."""

    shown: str
    database: str
    embedded: bool
    arguments: dict[str, Any]


def parse_address(url: str, environ: Mapping[str, str]) -> Address:
    """Read a warehouse URL; the password may stand in $SALON_CLICKHOUSE_PASSWORD instead. Raises ValueError."""
    if url.startswith("chdb://"):
        path = url.removeprefix("chdb://")
        if not path:
            raise ValueError("[warehouse] url = 'chdb://': name a folder, for example chdb://var/warehouse")
        return Address(shown=url, database=DATABASE, embedded=True, arguments={"interface": "chdb", "path": path})
    if not url.startswith("clickhouse://"):
        raise ValueError(
            f"[warehouse] url starts with {url.partition('://')[0]!r}; write chdb://DIR or clickhouse://user@host:port/database"
        )
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    shown = f"clickhouse://{parts.hostname}{parts.path}"
    if unknown := sorted(options.keys() - {"secure"}):
        raise ValueError(f"[warehouse] url {shown}: unknown option {unknown[0]!r}; the only one is secure")
    if options.get("secure", "false") not in {"true", "false"}:
        raise ValueError(f"[warehouse] url {shown}: secure is {options['secure']!r}; write true or false")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"[warehouse] url {shown}: the port is not a number from 0 to 65535") from None
    if not parts.hostname:
        raise ValueError("[warehouse] url names no host; write clickhouse://user@host:port/database")
    secure = options.get("secure") == "true"
    arguments = {
        "interface": "https" if secure else "http",
        "host": parts.hostname,
        "port": port or (8443 if secure else 8123),
        "username": unquote(parts.username or "default"),
        "password": unquote(parts.password) if parts.password else environ.get("SALON_CLICKHOUSE_PASSWORD", ""),
    }
    return Address(shown=shown, database=unquote(parts.path.strip("/")) or DATABASE, embedded=False, arguments=arguments)
