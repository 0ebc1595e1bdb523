"""The few words of Kafka's protocol that a look at a broker needs: versions, login, members."""

import socket
import struct
from collections.abc import Iterator

METADATA = 3
UNSUPPORTED_MECHANISM = 33
LARGEST_REPLY = 4 * 2**20


class NotKafka(Exception):
    """What came back is no reply of Kafka's."""


class Closed(Exception):
    """The other side ended the connection instead of answering."""


class Reader:
    """Reads Kafka's primitive types one after the other. Raises NotKafka where the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, size: int) -> int:
        """A signed big-endian number of `size` bytes."""
        return int.from_bytes(self._take(size), "big", signed=True)

    def text(self) -> str:
        """A STRING or NULLABLE_STRING; null is empty."""
        return self._take(max(self.number(2), 0)).decode("utf-8", "replace")

    def data(self) -> bytes:
        """BYTES; null is empty."""
        return self._take(max(self.number(4), 0))

    def each(self) -> Iterator[int]:
        """Counts through an ARRAY."""
        yield from range(self.number(4))

    def _take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise NotKafka
        self._at += size
        return part


class Conversation:
    """Questions and answers over one connected socket, whose time-out holds for each of them.

    Every question raises Closed, NotKafka, and OSError as the socket does (TimeoutError included).
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket, self._asked = connection, 0

    def versions(self) -> set[int]:
        """The kinds of request that the broker takes on this port, by api key (ApiVersions 0)."""
        reply = self._ask(18, 0, b"")
        if reply.number(2):
            raise NotKafka
        return {key for key, _, _ in ((reply.number(2), reply.number(2), reply.number(2)) for _ in reply.each())}

    def handshake(self, mechanism: str) -> tuple[int, list[str]]:
        """Kafka's error code, and the mechanisms that it has (SaslHandshake 1)."""
        reply = self._ask(17, 1, _text(mechanism))
        return reply.number(2), [reply.text() for _ in reply.each()]

    def authenticate(self, token: bytes) -> tuple[int, str, bytes]:
        """Kafka's error code, its words and its token (SaslAuthenticate 0)."""
        reply = self._ask(36, 0, struct.pack(">i", len(token)) + token)
        return reply.number(2), reply.text(), reply.data()

    def members(self) -> list[str]:
        """`host:port` of every broker as clients of this port are told (Metadata 1, no topics)."""
        reply = self._ask(METADATA, 1, struct.pack(">i", 0))
        found = []
        for _ in reply.each():
            reply.number(4)
            host, port = reply.text(), reply.number(4)
            reply.text()
            found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return found

    def _ask(self, key: int, version: int, body: bytes) -> Reader:
        self._asked += 1
        request = struct.pack(">hhi", key, version, self._asked) + _text("salon-probe") + body
        try:
            self._socket.sendall(struct.pack(">i", len(request)) + request)
            size = struct.unpack(">i", self._receive(4))[0]
            if not 4 <= size <= LARGEST_REPLY:
                raise NotKafka
            reply = Reader(self._receive(size))
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError) as error:
            raise Closed from error
        if reply.number(4) != self._asked:
            raise NotKafka
        return reply

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(min(size - len(data), 65536))
            if not part:
                raise Closed
            data += part
        return data


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value.encode())) + value.encode()
