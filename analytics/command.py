"""What a `salon` command is: a summary, an example, its arguments and what it does."""

import argparse
from collections.abc import Callable

import msgspec


class Command(msgspec.Struct, frozen=True):
    """One command, found by the entry point group `salon.commands`.

    `run` gets the parsed arguments (with `config`: a path or None) and returns the exit code: 0 ok, 1 failed, 2 wrong
    usage. A ValueError that it raises is printed as one line and exits with 2; an OSError or LookupError with 1.
    """

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
