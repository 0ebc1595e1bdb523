"""`salon keys`: create, list and revoke API keys."""

import argparse
import re
import sys
from datetime import timedelta
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.events import utc_now
from analytics.settings import Document
from gateway.config import keys_path
from gateway.keys import SCOPES, create_key, read_keys, revoke_key

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def lifetime(text: str) -> timedelta:
    """`90d`, `12h`, `30m` or `4w` as a duration. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if not match or int(match[1]) == 0:
        raise ValueError(f"--expires is {text!r}; write a number and m, h, d or w, such as 90d")
    return timedelta(**{UNITS[match[2]]: int(match[1])})


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["text", "json"], default="text")
    actions = parser.add_subparsers(dest="action", required=True)
    create = actions.add_parser("create", help="make a key and show it once")
    create.add_argument("name")
    create.add_argument("--scopes", default="generate,feedback", help=f"some of {','.join(SCOPES)}")
    create.add_argument("--expires", help="such as 90d; default: never")
    create.add_argument("--format", choices=["text", "json"], default=argparse.SUPPRESS)
    listing = actions.add_parser("list", help="names, scopes and dates")
    listing.add_argument("--format", choices=["text", "json"], default=argparse.SUPPRESS)
    revoke = actions.add_parser("revoke", help="end a key; a running gateway forgets it within a second")
    revoke.add_argument("name")
    revoke.add_argument("--format", choices=["text", "json"], default=argparse.SUPPRESS)


def _run(arguments: argparse.Namespace) -> int:
    path = keys_path(Document.read(Path(arguments.config) if arguments.config else None))
    as_json = arguments.format == "json"
    if arguments.action == "create":
        expires_at = utc_now() + lifetime(arguments.expires) if arguments.expires else None
        scopes = [scope.strip() for scope in arguments.scopes.split(",") if scope.strip()]
        secret = create_key(path, arguments.name, scopes, expires_at)
        print(msgspec.json.encode({"name": arguments.name, "key": secret}).decode() if as_json else secret)
        if not as_json:
            print(f"shown this once; kept hashed in {path}", file=sys.stderr)
    elif arguments.action == "revoke":
        revoke_key(path, arguments.name)
        print(msgspec.json.encode({"revoked": arguments.name}).decode() if as_json else f"revoked {arguments.name}")
    else:
        rows = [
            {"name": name, "id": key.id, "scopes": list(key.scopes), "created_at": key.created_at, "expires_at": key.expires_at}
            for name, key in read_keys(path).items()
        ]
        if as_json:
            print(msgspec.json.encode(rows).decode())
        for row in () if as_json else rows:
            expires = row["expires_at"] or "never"
            print(f"{row['name']:<24} {row['id']}  {','.join(row['scopes'])}  created {row['created_at']:%Y-%m-%d}  expires {expires}")  # type: ignore[arg-type]
    return 0


COMMAND = Command(
    summary="Create, list and revoke API keys (scopes: generate, feedback, analyst, admin).",
    example="salon keys create web-shop --scopes generate,feedback --expires 90d",
    arguments=_arguments,
    run=_run,
)
