"""A TCP proxy that breaks on request: between any client and any server, one process for several ways.

python benchmarks/events/fault_proxy.py LISTEN=TARGET_PORT [LISTEN=TARGET_PORT …]

Commands on standard input, a line each, for all ways at once: `cut` closes every connection with a reset; `swallow` lets the next
bytes from clients through and throws the answers away, then resets (the request was done, and nobody was told); `delay MS` holds
every chunk back; `refuse` resets new connections; `normal` ends delay and refusal. Each is answered with one line.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16


@dataclass
class Behaviour:
    """What the proxy does to bytes now; `open` are the connections of both sides."""

    delay_seconds: float = 0.0
    refuse: bool = False
    swallow: bool = False
    open: set[asyncio.StreamWriter] = field(default_factory=set)


async def serve(ways: dict[int, int]) -> None:
    """Forward until standard input ends. `ways`: the port that is listened on to the port on this machine that is behind it."""
    behaviour = Behaviour()
    servers = [
        await asyncio.start_server(lambda r, w, t=target: carry(r, w, t, behaviour), "127.0.0.1", port) for port, target in ways.items()
    ]
    print("ready", flush=True)
    loop, commands = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).decode().split():
        obey(line, behaviour)
        print("done", flush=True)
    for server in servers:
        server.close()


def obey(words: list[str], behaviour: Behaviour) -> None:
    """Change the behaviour. Raises ValueError for an unknown command."""
    match words:
        case ["cut"]:
            for writer in list(behaviour.open):
                reset(writer)
        case ["swallow"]:
            behaviour.swallow = True
        case ["delay", milliseconds]:
            behaviour.delay_seconds = float(milliseconds) / 1000
        case ["refuse"]:
            behaviour.refuse = True
        case ["normal"]:
            behaviour.delay_seconds, behaviour.refuse, behaviour.swallow = 0.0, False, False
        case _:
            raise ValueError(f"{' '.join(words)}: unknown; write cut, swallow, delay MS, refuse or normal")


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, behaviour: Behaviour) -> None:
    """One connection, both ways, until either side ends."""
    if behaviour.refuse:
        reset(writer)
        return
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
    except OSError:
        reset(writer)
        return
    behaviour.open |= {writer, far_writer}
    try:
        await asyncio.gather(pump(reader, far_writer, behaviour, False), pump(far_reader, writer, behaviour, True))
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        for each in (writer, far_writer):
            behaviour.open.discard(each)
            each.close()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behaviour: Behaviour, answers: bool) -> None:
    """Bytes of one direction. Raises OSError when the connection is broken on purpose."""
    while chunk := await reader.read(CHUNK_BYTES):
        if behaviour.delay_seconds:
            await asyncio.sleep(behaviour.delay_seconds)
        if answers and behaviour.swallow:
            behaviour.swallow = False
            reset(writer)
            raise ConnectionResetError
        writer.write(chunk)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a dead machine's network would after a while; unsent bytes are lost."""
    peer = writer.get_extra_info("socket")
    if peer is not None:
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


if __name__ == "__main__":
    asyncio.run(serve({int(a): int(b) for a, _, b in (word.partition("=") for word in sys.argv[1:])}))
