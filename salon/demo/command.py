"""`salon demo`: the whole loop on this machine."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from analytics.command import Command

_MARK = ".salon-demo"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="salon-demo", help="where settings, events, pictures and reports go (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another audience (default: %(default)s)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def _run(arguments: argparse.Namespace) -> int:
    from salon.demo.story import Scale, Story

    folder = Path(arguments.dir).resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).exists():
            raise ValueError(f"--dir {folder} is not empty and no earlier demo made it; name another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()
    quiet = arguments.format == "json"
    try:
        result = Story(folder, arguments.seed, quiet, Scale()).tell()
    except RuntimeError as error:
        print(f"salon demo: {error}", file=sys.stderr)
        return 1
    (folder / "demo.json").write_text(json.dumps(result, indent=1))
    if quiet:
        print(json.dumps(result))
    return 0


COMMAND = Command(
    summary="The whole loop on this machine in about six minutes: a contest, its verdict, a fine-tune, the candidate's contest.",
    example="salon demo --dir salon-demo --seed 1",
    arguments=_arguments,
    run=_run,
)
