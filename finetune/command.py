"""`salon finetune ROUTE` and `salon finetune status`."""

import argparse
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tqdm import tqdm

from analytics.command import Command
from analytics.events import utc_now
from analytics.settings import Document
from finetune.disk import read_json
from finetune.outcome import Outcome, Status
from finetune.settings import RoundSettings, round_settings

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("route", help="the route whose champion learns; or `status`")
    parser.add_argument("--signal", default="like", help="the feedback to learn from (default: like)")
    parser.add_argument(
        "--loss", choices=("kto", "rwr", "dpo", "best"), default="best", help="best: kto or its baseline rwr, as the gate finds"
    )
    parser.add_argument("--steps", type=int, help="training steps per loss (default: [finetune.training] steps)")
    parser.add_argument("--max-seconds", type=float, help="time for the training stage")
    parser.add_argument("--weight", type=float, default=0.1, help="the candidate's share of its experiment (default: 0.1)")
    parser.add_argument("--champion", metavar="VARIANT", help="learn from this variant on (default: what the route serves now)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", metavar="24h", help="go on for ever, a round at a time (30m, 24h, 7d)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Run a round, rounds, or show how they stand. 0: announced (or shown); 1: too little feedback, or refused by the gate."""
    settings = round_settings(Document.read(Path(arguments.config) if arguments.config else None))
    if arguments.route == "status" and "status" not in settings.routes:
        return show_status(settings, arguments.format)
    if arguments.every is None:
        return one_round(arguments, settings)
    pause_seconds = seconds_of(arguments.every)
    while True:
        started = time.monotonic()
        try:
            one_round(arguments, settings)
        except (LookupError, OSError) as error:
            print(f"salon finetune: {error}; next round as planned", file=sys.stderr)
        time.sleep(max(0.0, pause_seconds - (time.monotonic() - started)))


def one_round(arguments: argparse.Namespace, settings: RoundSettings) -> int:
    """Plan or go on with a round, run it, print its outcome."""
    # Late: torch and the warehouse take seconds to load, and `--help` and `status` need neither.
    from analytics.warehouse.examples import read_image_examples
    from analytics.warehouse.snapshot import open_readable
    from finetune.plan import Options, make, unfinished
    from finetune.round import Round
    from finetune.surroundings import surroundings
    from serving.registry import Registry

    options = Options(
        route=arguments.route, signal=arguments.signal, loss=arguments.loss, weight=arguments.weight, seed=arguments.seed,
        steps=arguments.steps, max_seconds=arguments.max_seconds, champion=arguments.champion,
    )  # fmt: skip
    rounds = Path(settings.finetune.rounds)
    with _alone(rounds), _bar(arguments.format) as say:
        registry = Registry(settings.registry_url)
        read_at = utc_now()
        with open_readable(settings.analytics) as warehouse:
            plan = make(options, settings, warehouse, registry.announcements())
            begun = unfinished(options, rounds)
            if begun is not None and begun.champion_variant == plan.champion_variant:
                plan = begun
            rows = read_image_examples(warehouse, options.route, options.signal)
        around = surroundings(settings, registry, rows, plan.champion_variant, read_at)
        outcome = Round(rounds / plan.name, plan, settings.finetune, around, say).run()
    print(msgspec.json.encode(outcome).decode() if arguments.format == "json" else _told(outcome))
    return 0 if outcome.result == "announced" else 1


def show_status(settings: RoundSettings, form: str) -> int:
    """Every round, oldest first, with its stage."""
    found = sorted(Path(settings.finetune.rounds).glob("*/status.json"), key=lambda path: path.stat().st_mtime)
    known = [status for path in found if (status := read_json(path, Status)) is not None]
    if form == "json":
        print(msgspec.json.encode([{**msgspec.to_builtins(s), "alive": _alive(s)} for s in known]).decode())
        return 0
    if not known:
        print(f"no rounds yet in {settings.finetune.rounds}; start one with: salon finetune ROUTE")
    for s in known:
        state = "" if s.stage == "done" else (" (running)" if _alive(s) else " (stopped; the same command goes on with it)")
        print(f"{s.round}  {s.stage} {s.share:4.0%}{state}  {s.detail}  {s.updated_at:%Y-%m-%d %H:%M:%S} UTC")
    return 0


def seconds_of(text: str) -> float:
    """`90s`, `30m`, `24h` or `7d`. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"--every is {text!r}; write a number and s, m, h or d, such as 24h")
    return float(match[1]) * _UNITS[match[2]]


def _told(outcome: Outcome) -> str:
    lines = [f"{outcome.round}: {outcome.loss} at LoRA strength {outcome.scale:g}, judged against {outcome.champion}"]
    for check in outcome.gate.checks:
        interval = f" [{check.low:+.3f}, {check.high:+.3f}]" if check.low is not None and check.high is not None else ""
        lines.append(f"  {'ok  ' if check.ok else 'FAIL'} {check.name:<12} {check.value:+.3f}{interval}  {check.explanation}")
    if outcome.result == "announced":
        lines.append(f"published as {outcome.ref}; announced: experiment {outcome.experiment} starts by itself")
    else:
        lines.append("not announced: the gate refused it")
    return "\n".join(lines)


@contextmanager
def _alone(rounds: Path) -> Iterator[None]:
    rounds.mkdir(parents=True, exist_ok=True)
    with (rounds / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another round is running in {rounds}; see salon finetune status") from None
        yield


@contextmanager
def _bar(form: str) -> "Iterator[_Say]":
    with tqdm(total=1.0, disable=form == "json" or not sys.stderr.isatty(), bar_format="{desc} {bar} {percentage:3.0f}%") as bar:
        yield _Say(bar)


class _Say:
    """Status to a progress bar."""

    def __init__(self, bar: "tqdm[None]") -> None:
        self._bar = bar

    def __call__(self, status: Status) -> None:
        self._bar.n = status.share
        self._bar.set_description_str(f"{status.stage:<9} {status.detail:<44.44}")


def _alive(status: Status) -> bool:
    try:
        os.kill(status.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return status.stage != "done"


COMMAND = Command(
    summary="fine-tune a route's champion on what people liked: one round, from feedback to a candidate",
    example="salon finetune hero --loss best --max-seconds 120 --weight 0.1",
    arguments=add_arguments,
    run=run,
)
