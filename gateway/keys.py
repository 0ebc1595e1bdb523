"""API keys with scopes, hashed at rest, in a TOML file that is read again when it changes.

A key is `salon_` + 8 hex digits (which key) + `_` + 43 characters (256 random bits). The file keeps the SHA-256 of the whole:
a random 256-bit secret needs no slow hash, there is nothing to guess.
"""

import hashlib
import hmac
import os
import secrets
import tomllib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

import msgspec
import tomli_w

from analytics.events import utc_now
from analytics.settings import nearest

Scope = Literal["generate", "feedback", "analyst", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as the file keeps it. `sha256` is hex over the whole key."""

    id: str
    sha256: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None

    def valid(self, now: datetime) -> bool:
        """Not expired?"""
        return self.expires_at is None or now < self.expires_at


class Holder(msgspec.Struct, frozen=True):
    """Who asks: the name of a key and what it may do."""

    name: str
    scopes: frozenset[str]


class KeyRing:
    """The keys of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self._by_id: dict[str, tuple[str, Key]] = {}

    def refresh(self) -> bool:
        """Read the file when it has changed. Returns whether it has. Raises ValueError when it is damaged; then the old keys stay."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            changed, self._by_id, self._stamp = bool(self._by_id), {}, None
            return changed
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return False
        keys = read_keys(self.path)
        self._by_id, self._stamp = {key.id: (name, key) for name, key in keys.items()}, stamp
        return True

    def holder(self, presented: str, now: datetime) -> Holder | None:
        """Who presents this key; None when unknown, wrong or expired. Constant time in the secret."""
        name, key = self._by_id.get(_id_of(presented), ("", None))
        expected = key.sha256 if key else "0" * 64
        if not hmac.compare_digest(_sha256(presented), expected) or key is None or not key.valid(now):
            return None
        return Holder(name, frozenset(key.scopes))

    def __len__(self) -> int:
        return len(self._by_id)


def read_keys(path: Path) -> dict[str, Key]:
    """All keys of the file, by name; none when there is no file. Raises ValueError."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")).get("keys", {}), dict[str, Key])
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{path}: {error}; restore the file, or remove it and create keys again") from None


def create_key(path: Path, name: str, scopes: Sequence[str], expires_at: datetime | None = None) -> str:
    """Add a key and return its secret, which is kept nowhere. Raises ValueError for a used name or an unknown scope."""
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope!r}; {nearest(scope, SCOPES)}")
    if not scopes:
        raise ValueError(f"a key needs a scope; give some of {', '.join(SCOPES)}")
    keys = read_keys(path)
    if name in keys:
        raise ValueError(f"a key named {name!r} exists in {path}; revoke it first, or take another name")
    identity = secrets.token_hex(4)
    secret = f"salon_{identity}_{secrets.token_urlsafe(32)}"
    wanted = msgspec.convert([s for s in SCOPES if s in scopes], tuple[Scope, ...])
    keys[name] = Key(id=identity, sha256=_sha256(secret), scopes=wanted, created_at=utc_now(), expires_at=expires_at)
    _write(path, keys)
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key. Raises ValueError when there is none of this name."""
    keys = read_keys(path)
    if name not in keys:
        raise ValueError(f"no key is named {name!r} in {path}; {nearest(name, keys)}")
    del keys[name]
    _write(path, keys)


def _write(path: Path, keys: dict[str, Key]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    tables = {name: msgspec.to_builtins(key, builtin_types=(datetime,)) for name, key in keys.items()}
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        tomli_w.dump({"keys": tables}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _id_of(presented: str) -> str:
    parts = presented.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == "salon" else ""


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
