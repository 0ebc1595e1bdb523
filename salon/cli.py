"""The front door of the `salon` command: finds the command's room by its entry point and enters only that room."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from salon import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 ok, 1 failed, 2 wrong usage."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands = {e.name: e for e in entry_points(group="salon.commands")}
    if not argv or argv[0] in {"-h", "--help", "help"}:
        print(_overview(sorted(commands)))
        return 0
    if argv[0] in {"-V", "--version"}:
        print(f"salon {__version__}")
        return 0
    if argv[0] not in commands:
        from analytics.settings import nearest

        print(f"salon: unknown command {argv[0]!r}; {nearest(argv[0], commands)}", file=sys.stderr)
        return 2
    try:
        command = commands[argv[0]].load()
    except ModuleNotFoundError as error:
        print(f"salon {argv[0]}: needs the package {error.name!r}; pip install 'salon[all]'", file=sys.stderr)
        return 1
    parser = argparse.ArgumentParser(
        f"salon {argv[0]}",
        description=command.summary,
        epilog=f"example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for each in (everywhere, parser):
        each.add_argument("--config", metavar="FILE", help="the configuration file (default: salon.toml, or $SALON_CONFIG)")
    command.arguments(parser)
    try:
        shared, rest = everywhere.parse_known_args(argv[1:])
        arguments = parser.parse_args(rest)
        arguments.config = shared.config
    except SystemExit as stop:
        return 2 if stop.code else 0
    # What these clients log as errors, our own messages say with the reason and the fix.
    for name in ("clickhouse_connect", "kafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return int(command.run(arguments))
    except (ValueError, OSError, LookupError) as error:
        if os.environ.get("SALON_TRACEBACK"):
            raise
        print(f"salon {argv[0]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130


def _overview(names: Sequence[str]) -> str:
    head = ["salon: image models compete for the public's favour, and the winner learns from it.", "", "commands:"]
    return "\n".join([*head, *(f"  salon {name} --help" for name in names), "", "start here: salon demo"])


if __name__ == "__main__":
    raise SystemExit(main())
