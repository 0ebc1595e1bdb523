"""ClickHouse's HTTP protocol over chDB, as a process of its own, for tests: the real client, and faults on request.

python deploy/local/clickhouse/shim.py --folder DIR [--port N] [--password WORD]

Prints its port when it listens. Faults: `POST /faults` with a JSON list of rules, each used `times` times (default: always) on
statements that `match` (a regular expression, backticks taken out), with `probability`:
{"kind": "status", "status": 503}; {"kind": "error", "code": 497}; {"kind": "delay", "seconds": 1}; {"kind": "cut_before"};
{"kind": "cut_after"} (the statement is applied, the answer is not sent). `GET /faults` tells how often each was used.
Users, roles and sessions are not served; one password for all.
"""

import argparse
import asyncio
import base64
import gzip
import hmac
import random
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chdb
import lz4.frame
import msgspec
import zstandard
from aiohttp import web

THREADS = 32
MAX_BODY = 2 << 30
CODE = "X-ClickHouse-Exception-Code"
# Parameters of the transport, not settings of the engine.
TRANSPORT = {
    "query", "database", "default_format", "buffer_size", "session_id", "session_timeout", "session_check", "query_id",
    "quota_key", "compress", "decompress", "wait_end_of_query", "client_protocol_version", "role",
    "send_progress_in_http_headers", "http_headers_progress_interval_ms", "enable_http_compression", "user", "password",
}  # fmt: skip
INSERT = re.compile(rb"\s*INSERT\s+INTO\s+(?:TABLE\s+)?(?P<into>[^\n]*?)\s+FORMAT\s+(?P<format>\w+)[ \t]*(?:\r?\n|$)", re.IGNORECASE)
FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
STATUS = {60: 404, 81: 404, 497: 403, 516: 403}


class Rule(msgspec.Struct):
    """One fault; `used` counts."""

    kind: str
    match: str = ""
    status: int = 503
    code: int = 0
    seconds: float = 0.0
    probability: float = 1.0
    times: int | None = None
    used: int = 0


class Cut(Exception):
    """Close the connection without an answer."""


class Refused(Exception):
    """An error as ClickHouse answers it."""

    def __init__(self, status: int, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.status, self.text, self.code = status, text, code


class Shim:
    """One chDB folder behind HTTP. Each request gets a handle of its own, so that a slow one blocks nobody."""

    def __init__(self, folder: Path, password: str = "", seed: int = 0) -> None:
        self._folder, self._password = folder, password
        self._spool = tempfile.TemporaryDirectory(prefix="shim-", dir=folder.parent)
        # Keeps the engine alive between requests.
        self._engine = chdb.connect(str(folder))
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="shim")
        self._rules: list[Rule] = []
        self._random = random.Random(seed)

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/faults", self._told)
        app.router.add_post("/faults", self._set)
        app.router.add_route("*", "/", self._statement)
        return app

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _told(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._rules))

    async def _set(self, request: web.Request) -> web.Response:
        self._rules = msgspec.json.decode(await request.read(), type=list[Rule])
        return web.Response()

    def _faults(self, sql: bytes) -> list[Rule]:
        text, found = sql[:4000].decode(errors="replace").replace("`", ""), []
        for rule in self._rules:
            left = rule.times is None or rule.used < rule.times
            if left and re.search(rule.match, text) and self._random.random() < rule.probability:
                rule.used += 1
                found.append(rule)
        return found

    async def _statement(self, request: web.Request) -> web.Response:
        try:
            self._check_password(request)
            sql, data, options = await _read(request)
            faults = self._faults(sql)
            await _before(faults)
            kind, answer = await asyncio.get_running_loop().run_in_executor(self._threads, self._run, sql, data, options)
            if any(rule.kind == "cut_after" for rule in faults):
                raise Cut
        except Cut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except Refused as error:
            return web.Response(status=error.status, text=error.text, headers={CODE: str(error.code)} if error.code else None)
        headers = {"X-ClickHouse-Summary": "{}", "X-ClickHouse-Timezone": "UTC", "X-ClickHouse-Server-Display-Name": "shim"}
        if kind:
            headers["X-ClickHouse-Format"] = kind
        if options.get("enable_http_compression") == "1":
            encoding, answer = _compress(answer, request.headers.get("Accept-Encoding", ""))
            headers |= {"Content-Encoding": encoding} if encoding else {}
        return web.Response(body=answer, headers=headers)

    def _check_password(self, request: web.Request) -> None:
        given = request.headers.get("X-ClickHouse-Key", request.query.get("password", ""))
        method, _, credentials = request.headers.get("Authorization", "").partition(" ")
        if method == "Basic":
            given = base64.b64decode(credentials).decode().partition(":")[2]
        if not hmac.compare_digest(given.encode(), self._password.encode()):
            raise Refused(403, "Code: 516. DB::Exception: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)", 516)

    def _run(self, sql: bytes, data: bytes | None, options: dict[str, str]) -> tuple[str, bytes]:
        """The answer's format, empty for a statement without a result, and the answer."""
        settings = {name: value for name, value in options.items() if name not in TRANSPORT and not name.startswith("param_")}
        parameters = {name.removeprefix("param_"): value for name, value in options.items() if name.startswith("param_")}
        handle = chdb.connect(str(self._folder))
        try:
            if options.get("database"):
                handle.query(f"USE {_quoted(options['database'])}")
            for name, value in settings.items():
                handle.query(f"SET {_quoted(name)} = {_literal(value)}")
            if data is not None and (insert := INSERT.match(sql)):
                with tempfile.NamedTemporaryFile(dir=self._spool.name) as file:
                    file.write(data)
                    file.flush()
                    into, kind = insert["into"].decode(), insert["format"].decode()
                    handle.query(f"INSERT INTO {into} FROM INFILE {_literal(file.name)} FORMAT {kind}", "TabSeparated")
                return "", b""
            text = sql.decode()
            if written := FORMAT.search(text) or options.get("default_format"):
                kind = written if isinstance(written, str) else written[1]
                return kind, handle.query(text, kind, params=parameters).bytes() or b""
            # Only a statement with a result says names, even where it has no rows.
            names, _, rows = (handle.query(text, "TabSeparatedWithNames", params=parameters).bytes() or b"").partition(b"\n")
            return ("TabSeparated", rows) if names else ("", b"")
        except Exception as error:
            message = str(error)
            found = re.search(r"Code: (\d+)", message)
            code = int(found[1]) if found else 1002
            raise Refused(STATUS.get(code, 500), message, code) from error
        finally:
            handle.close()


async def _read(request: web.Request) -> tuple[bytes, bytes | None, dict[str, str]]:
    """The statement, the rows of an INSERT, and all parameters."""
    options = dict(request.query)
    body = b""
    if request.content_type == "multipart/form-data":
        options |= {name: str(value) for name, value in (await request.post()).items()}
    else:
        body = _decompress(await request.read(), request.headers.get("Content-Encoding", ""))
    query = options.pop("query", "").encode()
    if query:
        return (query + b"\n" + body, None, options) if body and not INSERT.match(query) else (query, body or None, options)
    if insert := INSERT.match(body):
        return body[: insert.end()], body[insert.end() :] or None, options
    return body, None, options


async def _before(faults: list[Rule]) -> None:
    for rule in faults:
        if rule.kind == "delay":
            await asyncio.sleep(rule.seconds)
        elif rule.kind == "status":
            raise Refused(rule.status, "the shim was told to refuse this")
        elif rule.kind == "error":
            raise Refused(
                STATUS.get(rule.code, 500), f"Code: {rule.code}. DB::Exception: the shim was told to refuse this. (FAULT)", rule.code
            )
        elif rule.kind == "cut_before":
            raise Cut


def _decompress(body: bytes, encoding: str) -> bytes:
    # aiohttp unpacks some encodings itself, by version: what a body begins with tells.
    if encoding == "zstd" and body.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(body)
    if encoding == "lz4" and body.startswith(b"\x04\x22\x4d\x18"):
        plain: bytes = lz4.frame.decompress(body)
        return plain
    if encoding not in {"", "identity", "gzip", "deflate", "lz4", "zstd"}:
        raise Refused(400, f"Code: 36. DB::Exception: the shim does not know the encoding {encoding}. (BAD_ARGUMENTS)", 36)
    return body


def _compress(body: bytes, accepted: str) -> tuple[str, bytes]:
    if "zstd" in accepted:
        return "zstd", zstandard.compress(body)
    if "lz4" in accepted:
        return "lz4", lz4.frame.compress(body)
    if "gzip" in accepted:
        return "gzip", gzip.compress(body, 1)
    return "", body


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def _serve(arguments: argparse.Namespace) -> None:
    runner: Any = web.AppRunner(Shim(arguments.folder, arguments.password, arguments.seed).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP protocol over chDB, for tests")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--password", default="")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' probabilities")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
