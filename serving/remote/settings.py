"""Where the workers of a remote engine are, and how they are spoken to."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`urls`: one per worker, http or https. `model`: what a server that is not Salon's calls the model; None for `salon engine`.

    `token` says where the bearer token is: "env:NAME" or "file:PATH". It is read when it is needed and never shown.
    """

    urls: tuple[str, ...]
    model: str | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise ValueError('url is an empty list; name a worker, such as "http://engine:8000"')
        for url in self.urls:
            _check(url)
        if len({url.rstrip("/") for url in self.urls}) < len(self.urls):
            raise ValueError("url names a worker twice; name each once")
        if self.token is not None and (not self.token.startswith(("env:", "file:")) or self.token in ("env:", "file:")):
            raise ValueError('token is not shown here; write where it is, "env:NAME" or "file:PATH", not the token itself')


def read_token(source: str | None, environ: Mapping[str, str]) -> str | None:
    """The token that `source` points at; None without one. Blocking. Raises ValueError that names the place, never the token."""
    if source is None:
        return None
    kind, _, place = source.partition(":")
    if kind == "env":
        token = environ.get(place, "").strip()
        if not token:
            raise ValueError(f"token: the environment variable {place} is not set or empty; set it where this process starts")
    else:
        try:
            token = Path(place).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"token: {place} cannot be read ({type(error).__name__}); write the token into it") from None
    if not token.isascii() or not token.isprintable() or " " in token or not token:
        raise ValueError(f"token: what is in {place} is no bearer token; it is one word of ASCII letters, digits and signs")
    return token


def _check(url: str) -> None:
    shown = url.rpartition("@")[2] if "@" in url else url
    try:
        parts = urlsplit(url)
        port_is_wrong = parts.port == 0
    except ValueError:
        raise ValueError(f'url is {shown!r}; write "http://HOST:PORT" or "https://HOST:PORT"') from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f'url {shown!r} holds a password; give it as token = "env:NAME" or "file:PATH"')
    if parts.scheme not in ("http", "https") or not parts.hostname or port_is_wrong or parts.query or parts.fragment:
        raise ValueError(f'url is {shown!r}; write "http://HOST:PORT" or "https://HOST:PORT"')
