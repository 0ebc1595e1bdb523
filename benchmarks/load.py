"""Keep-alive HTTP/1.1 clients that cost little themselves: requests of bytes, answers matched by their length."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Load:
    """What came back: `waits_seconds` per request; `matched` counts the needle in all answers."""

    seconds: float = 0.0
    matched: int = 0
    waits_seconds: list[float] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """Half of the requests took no longer."""
        return sorted(self.waits_seconds)[len(self.waits_seconds) // 2] * 1000


def request(path: str, body: bytes, key: str = "") -> bytes:
    """A whole POST of JSON as bytes."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: salon\r\nContent-Type: application/json\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def drive(port: int, clients: int, seconds: float, make: Callable[[], bytes], needle: bytes) -> Load:
    """`clients` connections, each sending what `make` gives as soon as its last answer is there. Raises RuntimeError unless 2xx."""
    load = Load()
    began = time.perf_counter()

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() - began < seconds:
                message = make()
                sent = time.perf_counter()
                writer.write(message)
                body = await _answer(reader)
                load.waits_seconds.append(time.perf_counter() - sent)
                load.matched += body.count(needle)
        finally:
            writer.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
    if not head.startswith(b"http/1.1 2"):
        raise RuntimeError(f"{head.splitlines()[0].decode()}: {body[:300].decode('utf-8', 'replace')}")
    return body
