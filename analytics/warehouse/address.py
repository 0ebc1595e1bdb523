"""Where the warehouse is: `chdb://DIR` or `clickhouse://user@host:port/database?secure=true&cluster=NAME`."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

DATABASE = "salon"
OPTIONS = ("cluster", "secure")
# A report over a very large table takes minutes; a server that does not answer at all must not hold a thread for longer.
CONNECT_SECONDS, ANSWER_SECONDS = 5, 300


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments for a client; `shown` is the URL without its password. `cluster`: DDL goes ON CLUSTER of that name."""

    shown: str
    database: str
    embedded: bool
    arguments: dict[str, Any]
    cluster: str | None = None

    def __repr__(self) -> str:
        # The password is among the arguments.
        return f"Address({self.shown!r})"


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
    shown = f"clickhouse://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"[warehouse] url {shown}: unknown option {unknown[0]!r}; there are {' and '.join(OPTIONS)}")
    if options.get("cluster") == "":
        raise ValueError(f"[warehouse] url {shown}: cluster is empty; name one of system.clusters, or leave it out")
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
        "connect_timeout": CONNECT_SECONDS,
        "send_receive_timeout": ANSWER_SECONDS,
        # In a session, one query waits for the other.
        "autogenerate_session_id": False,
    }
    database = unquote(parts.path.strip("/")) or DATABASE
    return Address(shown=shown, database=database, embedded=False, arguments=arguments, cluster=options.get("cluster"))
