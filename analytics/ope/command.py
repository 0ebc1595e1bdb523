"""`salon ope`: what would another policy have earned? From an experiment in the warehouse, or from any log in a file."""

import argparse
import math
import sys
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.ope.answer import Answer, answer
from analytics.ope.policy_table import read_policy
from analytics.ope.text import to_text

FILES = {".csv", ".parquet", ".pq"}
OF_FILE = ("action", "reward", "propensity", "position", "context", "unit", "prediction")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log", metavar="EXPERIMENT|FILE", help="an experiment in the warehouse, or a .csv or .parquet file, a row per draw")
    parser.add_argument(
        "--policy", required=True, type=Path, metavar="TABLE", help="CSV or Parquet: the action, what it depends on, and `probability`"
    )
    parser.add_argument("--clip", type=float, metavar="W", help="cut weights above this: less noise, some bias (default: none is cut)")
    of_file = parser.add_argument_group("columns of a file")
    of_file.add_argument("--action", metavar="COL", help="what was shown")
    of_file.add_argument("--reward", metavar="COL", help="what came of it, a number")
    of_file.add_argument("--propensity", metavar="COL", help="the chance that the draw had to show it")
    of_file.add_argument("--position", metavar="COL", help="where it was shown; the policy has probabilities for each")
    of_file.add_argument(
        "--context", metavar="COL", action="extend", nargs="+", default=[], help="known before the draw; policies may depend on it"
    )
    of_file.add_argument("--unit", metavar="COL", help="whose rows they are: errors are then clustered (default: rows are independent)")
    of_file.add_argument(
        "--prediction",
        metavar="COL",
        help="of the policy's reward, for every row; corrected where it was shown (elsewhere the reward may be empty)",
    )
    of_experiment = parser.add_argument_group("of an experiment")
    of_experiment.add_argument("--metric", metavar="NAME", help="a proportion or a mean per unit (default: the primary metric)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Print the estimates; refusing to guess is an answer too. Raises ValueError (columns, values, what cannot be asked), OSError."""
    if arguments.clip is not None and not (math.isfinite(arguments.clip) and arguments.clip > 0):
        raise ValueError(f"--clip is {arguments.clip:g}; give a weight above 0, such as 20")
    of_file = arguments.action is not None or Path(arguments.log).suffix.lower() in FILES or Path(arguments.log).is_file()
    found = _from_file(arguments) if of_file else _from_experiment(arguments)
    if arguments.format == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    else:
        sys.stdout.write(to_text(found, f"{arguments.policy.name} on {arguments.log}"))
    return 0


def _from_file(arguments: argparse.Namespace) -> Answer:
    from analytics.ope.file_log import Columns, read_log

    if arguments.metric is not None:
        raise ValueError("--metric goes with an experiment; a file's reward is named with --reward")
    for name in ("action", "reward", "propensity"):
        if getattr(arguments, name) is None:
            raise ValueError(f"--{name} is missing: name the column of {arguments.log} that holds it")
    contexts = tuple(dict.fromkeys(arguments.context))
    # The small table first: what is wrong with it is said before a large log is read.
    policy = read_policy(arguments.policy, [arguments.action], arguments.position, contexts)
    columns = Columns(
        action=arguments.action,
        reward=arguments.reward,
        propensity=arguments.propensity,
        position=arguments.position,
        contexts=contexts,
        prediction=arguments.prediction,
        unit=arguments.unit,
    )
    return answer(read_log(Path(arguments.log), columns), policy, arguments.clip)


def _from_experiment(arguments: argparse.Namespace) -> Answer:
    from analytics.ope.warehouse_log import read_experiment

    given = [name for name in OF_FILE if getattr(arguments, name)]
    if given:
        raise ValueError(f"--{given[0]} names a column of a file, and {arguments.log!r} is none; leave it out")
    policy = read_policy(arguments.policy, ["arm"], None, None)
    log = read_experiment(arguments.log, arguments.metric, policy, Path(arguments.config) if arguments.config else None)
    return answer(log, policy, arguments.clip)


COMMAND = Command(
    summary="What would another policy have earned? Off-policy estimates from logged propensities (IPS, SNIPS, doubly robust).",
    example="salon ope log.csv --action item --reward click --propensity chance --position slot --policy policy.csv",
    arguments=_arguments,
    run=run,
)
