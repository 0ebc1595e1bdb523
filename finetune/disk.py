"""Whole files and folders or none: a kill at any instant leaves the old state or the new one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write to the path that is given; it becomes `path` on leaving without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Fill the folder that is given; it becomes `path` on leaving without an error, in place of what was there."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """A struct or plain value as indented JSON, atomically."""
    with replace_file(path) as fresh:
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))


def read_json(path: Path, into: type[T]) -> T | None:
    """Read what `write_json` wrote; None when there is nothing, or nothing that fits (an older version's file)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=into)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
