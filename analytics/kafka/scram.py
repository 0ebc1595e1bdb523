"""The client's side of SCRAM (RFC 5802) without channel binding, as Kafka speaks it."""

import base64
import hashlib
import hmac
import secrets

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class Scram:
    """One login: `first`, then `final(server's first message)`."""

    def __init__(self, mechanism: str, user: str, password: str) -> None:
        self._hash, self._password = HASHES[mechanism], password.encode()
        self._nonce = secrets.token_hex(16)
        self._bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={self._nonce}"

    @property
    def first(self) -> bytes:
        """The first message: the user and a nonce."""
        return f"n,,{self._bare}".encode()

    def final(self, server_first: bytes) -> bytes:
        """The proof that we know the password. Raises ValueError when the server's message is not SCRAM's."""
        said = server_first.decode("utf-8", "replace")
        try:
            parts = dict(part.split("=", 1) for part in said.split(","))
            salt, rounds, nonce = base64.b64decode(parts["s"], validate=True), int(parts["i"]), parts["r"]
        except (KeyError, ValueError):
            raise ValueError("no message of SCRAM") from None
        if not nonce.startswith(self._nonce) or not 0 < rounds <= 10_000_000:
            raise ValueError("a nonce or a number of rounds that is not SCRAM's")
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, rounds)
        key = hmac.digest(salted, b"Client Key", self._hash)
        closing = f"c=biws,r={nonce}"
        signed = f"{self._bare},{said},{closing}".encode()
        signature = hmac.digest(hashlib.new(self._hash, key).digest(), signed, self._hash)
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return f"{closing},p={base64.b64encode(proof).decode()}".encode()
