"""The feedback token: all that feedback needs to know about a generation, sealed so that its holder learns nothing from it.

AES-256-GCM over msgpack; the arm and the unit are encrypted, not only signed, because the arm is never shown to a product app.
"""

import base64
import hmac
import os
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.problems import InvalidToken

VERSION = b"\x01"
NONCE_BYTES = 12
LIFE = timedelta(days=30)


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """One picture of a generation: at which position, made by which variant. In a grid of several arms also the picture's own arm,
    and the propensity of its place; else empty."""

    image_id: UUID
    position: int
    variant_digest: str
    arm: str = ""
    propensity: float | None = None


class Claims(msgspec.Struct, frozen=True, array_like=True):
    """The assignment facts that are copied into feedback events; `facts` become attributes of theirs."""

    generation_id: UUID
    issued_at: datetime
    route: str
    experiment: str
    arm: str
    unit: str
    propensity: float | None
    images: tuple[Shown, ...]
    facts: dict[str, str] = {}

    def arm_of(self, picture: Shown | None) -> str:
        """The arm that feedback is about: the picture's own, where pictures have arms of their own."""
        return (picture.arm if picture else "") or self.arm

    def expired(self, now: datetime) -> bool:
        """Is the token older than 30 days? Late feedback is flagged, not refused."""
        return now - self.issued_at > LIFE

    def image(self, image_id: UUID) -> Shown | None:
        """The picture with this id, when it is one of this generation's."""
        return next((shown for shown in self.images if shown.image_id == image_id), None)


class Sealer:
    """Seals and opens tokens with one key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._decoder = msgspec.msgpack.Decoder(Claims)

    def seal(self, claims: Claims) -> str:
        """The token: URL-safe text."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.msgpack.encode(claims), VERSION)
        return base64.urlsafe_b64encode(VERSION + nonce + sealed).decode().rstrip("=")

    def open(self, token: str) -> Claims:
        """What was sealed. Raises InvalidToken for anything that this key did not seal."""
        refusal = "`feedback_token` was not made by this gateway, or was changed; send the one that came with the images"
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            if data[:1] != VERSION:
                raise InvalidToken(refusal, field="feedback_token")
            plain = self._cipher.decrypt(data[1 : 1 + NONCE_BYTES], data[1 + NONCE_BYTES :], VERSION)
            return self._decoder.decode(plain)
        except (ValueError, InvalidTag, msgspec.DecodeError):
            raise InvalidToken(refusal, field="feedback_token") from None


def read_or_make_key(path: Path) -> bytes:
    """32 secret bytes kept at `path`, made with mode 0600 when missing. Raises ValueError when the file is damaged, OSError."""
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        key = _make_key(path)
    if len(key) != 32:
        raise ValueError(f"{path} holds {len(key)} bytes, not 32: restore it, or remove it (open feedback tokens become invalid)")
    return key


def fingerprint(key: bytes) -> str:
    """12 hexadecimal digits that tell one key from another and nothing about it."""
    return hmac.digest(key, b"fingerprint of the token key", "sha256").hex()[:12]


def _make_key(path: Path) -> bytes:
    """The key at `path` afterwards: ours, or that of a gateway that was faster."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole or not at all, and never replaces what is there.
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without hard links.
            if not path.exists():
                draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return path.read_bytes()
