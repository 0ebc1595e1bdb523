"""Connections to the warehouse: one per running call, kept for the next; what goes wrong becomes an OSError that names the warehouse."""

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from urllib3.exceptions import HTTPError

from analytics.warehouse.address import Address
from analytics.warehouse.ddl import quoted

IDLE_CLIENTS = 4
UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
# READONLY, NOT_ENOUGH_PRIVILEGES, ACCESS_DENIED
DENIED = frozenset({164, 481, 497})


class WarehouseLocked(OSError):
    """Another process has this embedded warehouse open; only one can."""


class NotAllowed(OSError):
    """The warehouse's user may not do this."""


class OutOfReach(OSError):
    """No answer came from the warehouse's server: it may be up again later."""


class Connections:
    """Clients of one address; any thread may take one. Embedded, a process can hold one folder, and must not fork while it does."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._closed = False
        # Asked first, because chDB writes its own refusal to the terminal.
        if address.embedded and _is_locked(folder := Path(address.arguments["path"])) and _holder(folder) != os.getpid():
            raise self._locked()
        if address.embedded:
            self.create_database()
        else:
            self._connect(None).close()

    def create_database(self) -> None:
        """Create the database where there is none. Raises OSError."""
        cluster = f" ON CLUSTER {quoted(self.address.cluster)}" if self.address.cluster else ""
        client = self._connect(None)
        try:
            client.command(f"CREATE DATABASE IF NOT EXISTS {quoted(self.address.database)}{cluster}")
        except (ClickHouseError, HTTPError) as error:
            raise self._named(error) from error
        finally:
            client.close()

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A clickhouse-connect client of this call's own. Raises LookupError (no tables yet), NotAllowed and other OSErrors."""
        # A client serialises its calls: so one for each call in flight.
        with self._lock:
            if self._closed:
                raise ValueError(f"the warehouse {self.address.shown} is closed")
            client = self._idle.pop() if self._idle else None
        if client is None:
            client = self._connect(self.address.database)
        sound = True
        try:
            yield client
        except (ClickHouseError, HTTPError) as error:
            # Without a code no answer came: who knows what this connection still holds.
            sound = getattr(error, "code", None) is not None
            raise self._named(error) from error
        finally:
            with self._lock:
                keep = sound and not self._closed and len(self._idle) < IDLE_CLIENTS
                if keep:
                    self._idle.append(client)
            if not keep:
                client.close()

    def close(self) -> None:
        """Close all connections; those in use are closed when their call ends. A second call does nothing."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _named(self, error: Exception) -> Exception:
        code, shown, line = getattr(error, "code", None), self.address.shown, first_line(error)
        if code in {UNKNOWN_TABLE, UNKNOWN_DATABASE}:
            return LookupError(f"the warehouse {shown} has no tables yet; run `salon migrate` ({line})")
        if code in DENIED:
            return NotAllowed(f"the warehouse {shown} does not allow this to its user: {line}")
        kind = OutOfReach if code is None and not self.address.embedded else OSError
        return kind(f"the warehouse {shown} {'refuses' if isinstance(error, DatabaseError) and code else 'fails'}: {line}")

    def _connect(self, database: str | None) -> Any:
        address = self.address
        if address.embedded:
            Path(address.arguments["path"]).mkdir(parents=True, exist_ok=True)
        else:
            database = database or "default"
        try:
            client: Any = clickhouse_connect.get_client(database=database, **address.arguments)
            if not address.embedded:
                # urllib3 logs each retry with the whole request, units and all. Those who call repeat what may be repeated.
                client.http_retries = 0
            return client
        except ImportError as error:
            raise ImportError(f"the warehouse {address.shown} needs chDB: pip install 'salon[local]'", name="chdb") from error
        except (ClickHouseError, HTTPError) as error:
            line = first_line(error)
            if address.embedded and _is_locked(Path(address.arguments["path"])):
                raise self._locked() from error
            code = getattr(error, "code", None)
            if code == UNKNOWN_DATABASE:
                raise LookupError(f"the warehouse {address.shown} has no database {database!r}; run `salon migrate`") from error
            kind = OutOfReach if code is None and not address.embedded else OSError
            raise kind(f"the warehouse {address.shown} cannot be opened: {line}") from error

    def _locked(self) -> WarehouseLocked:
        return WarehouseLocked(
            f"the warehouse {self.address.shown} is open in another process (salon serve or salon sink); stop it, or ask it over HTTP"
        )


def first_line(error: Exception) -> str:
    """An error's first line, without credentials and without the request's parameters, which may carry a unit."""
    line = re.sub(r"://[^/@\s]*@", "://", str(error).split("\n")[0])
    if cause := re.search(r"with url: .*?\(Caused by \w+\([\"'](?:\w+\(.*?\): )?(.*?)[\"']\)\)", line):
        line = cause[1]
    return line[:500]


def _is_locked(folder: Path) -> bool:
    """Whether somebody holds ClickHouse's lock on its `status` file."""
    try:
        handle = os.open(folder / "status", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(folder: Path) -> int | None:
    """The process that last wrote ClickHouse's `status` file; None when that cannot be read."""
    try:
        found = re.search(r"^PID: (\d+)$", (folder / "status").read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
