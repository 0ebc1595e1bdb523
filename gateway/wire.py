"""JSON bodies in, checked against structs, with errors that name field, value and what was expected."""

import re
from typing import Any, TypeVar

import msgspec

from gateway.problems import InvalidJson, InvalidRequest

T = TypeVar("T")
SHOWN_CHARACTERS = 80


def decode(body: bytes, into: type[T]) -> T:
    """Decode JSON `body` into a struct. Raises InvalidJson or InvalidRequest."""
    try:
        return msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        raise _invalid(body, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"the body cannot be read as JSON: {error}; send a JSON object, numbers finite") from None
    except RecursionError:
        raise InvalidJson("the body is nested too deeply") from None


def encode(value: object) -> bytes:
    """Encode to JSON."""
    return msgspec.json.encode(value)


def _invalid(body: bytes, error: msgspec.ValidationError) -> InvalidRequest:
    text, _, at = str(error).partition(" - at `$")
    keys = [part for part in re.split(r"[.\[\]]+", at.rstrip("`")) if part and part != "..."]
    field = ".".join(keys) or None
    if missing := re.search(r"missing required field `(\w+)`", text):
        field = ".".join([*keys, missing[1]])
        return InvalidRequest(f"`{field}` is missing; it is required", field=field)
    if field is None:
        return InvalidRequest(text)
    if text.startswith("`"):
        return InvalidRequest(text, field=field)
    found, value = _value(body, keys)
    return InvalidRequest(f"`{field}` is {shown(value)}: {text}" if found else f"`{field}`: {text}", field=field)


def shown(value: object) -> str:
    """`value` as JSON, cut to a length fit for an error message."""
    try:
        text = msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"


def _value(body: bytes, keys: list[str]) -> tuple[bool, Any]:
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return False, None
    for key in keys:
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False, None
    return True, value
