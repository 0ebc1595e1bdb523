"""`salon power`: plan an experiment from plain numbers, a file, past traffic, or one that runs."""

import argparse
import re
import sys
from pathlib import Path

import msgspec

from analytics.command import Command
from analytics.power.answer import Answer, answer
from analytics.power.options import plain_numbers, refuse
from analytics.power.text import to_text


def _arguments(parser: argparse.ArgumentParser) -> None:
    # Else `--mde -5%` would be taken for an option.
    parser._negative_number_matcher = re.compile(r"^-[0-9.]")
    add = parser.add_argument_group("what is compared, in plain numbers").add_argument
    add("--baseline", metavar="M", help="the control's mean: 10%% or 0.1 is a proportion unless --sd is given")
    add("--sd", type=float, metavar="S", help="standard deviation per unit (makes it a mean; with --kind also a ratio or a quantile)")
    add("--kind", choices=("proportion", "mean", "ratio", "quantile"), help="what the metric is (default: by --sd)")
    add("--variance-reduction", metavar="SHARE", help="of the variance that covariates take (CUPED)")
    add("--correlation", type=float, metavar="R", help="of the metric with its covariate: takes R² of the variance")
    add = parser.add_argument_group("what is asked: give the effect, the units, or both").add_argument
    add("--mde", metavar="E", help="the effect to find: 5%% of the baseline, 0.005 in the metric's unit, 0.5pp; -5%% is a fall")
    add("--margin", metavar="R", help="non-inferiority: shown to be no worse than this, relative; --mde is then the true change")
    add("--lower", action="store_true", help="less of the metric is better")
    add("--units", type=float, metavar="N", help="units in all arms together: what can be found with them")
    add("--days", type=float, metavar="D", help="how long it may run: what can be found by then; needs arrivals")
    add("--power", metavar="P", default="80%", help="how likely a real effect is to be found (default: 80%%)")
    add("--alpha", type=float, help="the error rate (default: 0.05)")
    add = parser.add_argument_group("how it is designed").add_argument
    add("--arms", type=int, metavar="K", help="how many arms, with equal shares, the control counted (default: 2)")
    add("--weights", metavar="A=0.5,B=0.5", help="unequal shares; the first is the control unless --control names another")
    add("--control", metavar="NAME", help="the arm that others are compared with")
    add("--correction", choices=("holm", "benjamini_hochberg", "none"), help="over several comparisons (default: holm)")
    add("--comparisons", type=int, metavar="N", help="how many share alpha, such as arms times metrics (default: arms but the control)")
    add("--planned-units", type=float, metavar="N", help="planned_units of the experiment, of all arms (default: 5000)")
    add("--looks", type=int, metavar="L", help="add a plan with L equally spaced looks")
    add = parser.add_argument_group("how units come").add_argument
    add("--units-per-day", metavar="U", help="new units a day; or 900,700,600: those first seen on each day of the past")
    add("--traffic", metavar="SHARE", help="the share of the units that takes part (default: 100%%)")
    add("--window-days", type=float, metavar="D", help="a unit counts so long after it came: is added to the duration")
    add = parser.add_argument_group("from a file").add_argument
    add("file", type=Path, nargs="?", help="a .csv or .parquet file of the past: baseline, variance, covariates and arrivals come from it")
    add("--metric", metavar="COL[:KIND]", help="as in `salon analyze`; with --route or --experiment: a metric of the configuration")
    add("--covariate", action="append", default=[], metavar="COL", help="known before: its share of the variance is estimated")
    add("--unit", metavar="COL", help="who would be randomised, in a file with a row per event")
    add("--time", metavar="COL", help="when a row happened: gives the arrival of new units")
    add("--cap", metavar="VALUE|pNN", help="larger values per unit count as this, or as this percentile")
    add("--empty", choices=("refuse", "zero"), help="a missing value of the metric is an error (default), or 0")
    add = parser.add_argument_group("from the warehouse").add_argument
    add("--route", metavar="R", help="plan from this route's traffic")
    add("--history-days", type=int, metavar="D", help="how much of it to read (default: 28)")
    add("--experiment", metavar="X", help="a running experiment: what it has, and what it still needs")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan. Raises ValueError for what cannot be planned, OSError for a file or warehouse that cannot be read."""
    result = _answer(arguments)
    sys.stdout.write(_json(result) if arguments.format == "json" else to_text(result))
    return 0


def _answer(arguments: argparse.Namespace) -> Answer:
    sources = [name for name in ("file", "route", "experiment") if getattr(arguments, name) is not None]
    if len(sources) > 1:
        raise ValueError(f"{' and '.join(sources)} are two sources of the same numbers; give one")
    if sources == ["file"]:
        from analytics.power.from_file import from_file

        return from_file(arguments)
    if sources:
        from analytics.power.from_warehouse import from_experiment, from_route

        return from_route(arguments) if sources == ["route"] else from_experiment(arguments)
    refuse(arguments, ("metric", "covariate", "unit", "time", "cap", "empty", "history_days"), "needs a file, --route or --experiment")
    return answer(plain_numbers(arguments), "numbers", [])


def _json(result: Answer) -> str:
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


COMMAND = Command(
    summary="Plan an experiment: sample size, smallest effect, power and duration, for one look and for any look.",
    example="salon power --baseline 10% --mde 5% --units-per-day 3000",
    arguments=_arguments,
    run=run,
)
