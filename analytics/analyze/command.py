"""`salon analyze FILE`: the report's statistics on a table; no service, no configuration needed."""

import argparse
import math
import sys
from pathlib import Path

import msgspec

from analytics.analyze.analysis import Analysis, Asked, analyze
from analytics.analyze.metric_option import parse_cap, parse_metric
from analytics.analyze.table import Table
from analytics.analyze.text import to_text
from analytics.command import Command


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a .csv or .parquet file; one row per unit, or per event with --unit")
    parser.add_argument("--arm", required=True, metavar="COL", help="the column that names the arm")
    parser.add_argument("--control", required=True, metavar="NAME", help="the arm to compare with")
    parser.add_argument("--unit", metavar="COL", help="who was randomised; rows of one unit are summed")
    parser.add_argument(
        "--metric",
        required=True,
        action="append",
        metavar="COL[:KIND]",
        help="COL, COL:mean, COL:proportion, COL:ratio:DENOM, COL:quantile:Q",
    )
    parser.add_argument("--lower", action="append", default=[], metavar="COL", help="a metric of which less is better")
    parser.add_argument(
        "--covariate", action="append", default=[], metavar="COL", help="known before the exposure; takes its noise out (CUPED)"
    )
    parser.add_argument("--cap", metavar="VALUE|pNN", help="larger values per unit count as this, or as this percentile")
    parser.add_argument("--weights", metavar="A=0.5,B=0.5", help="the intended shares; turns on the sample-ratio check")
    parser.add_argument("--sequential", action="store_true", help="add intervals and p-values that stay right at any look")
    parser.add_argument("--planned-units", type=int, default=5000, metavar="N", help="where --sequential is tightest (default: 5000)")
    parser.add_argument("--alpha", type=float, default=0.05, help="the error rate (default: 0.05)")
    parser.add_argument("--format", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """Print the analysis. Raises ValueError for what cannot be analysed, OSError for a file that cannot be read."""
    if not 0 < arguments.alpha < 0.5:
        raise ValueError(f"--alpha is {arguments.alpha}; give a number between 0 and 0.5, such as 0.05")
    if arguments.planned_units < 10:
        raise ValueError(f"--planned-units is {arguments.planned_units}; give at least 10")
    asked = Asked(
        arm=arguments.arm,
        control=arguments.control,
        unit=arguments.unit,
        metrics=[parse_metric(text) for text in arguments.metric],
        lower=arguments.lower,
        covariates=arguments.covariate,
        cap=parse_cap(arguments.cap) if arguments.cap else None,
        weights=parse_weights(arguments.weights) if arguments.weights else None,
        sequential=arguments.sequential,
        alpha=arguments.alpha,
        planned_units=arguments.planned_units,
    )
    result = analyze(Table(arguments.file), asked)
    sys.stdout.write(_json(result) if arguments.format == "json" else to_text(result))
    return 0


def parse_weights(text: str) -> dict[str, float]:
    """`a=0.5,b=0.5`. Raises ValueError."""
    weights = {}
    for part in text.split(","):
        arm, _, share = part.rpartition("=")
        try:
            weight = float(share)
        except ValueError:
            weight = math.nan
        if not arm or not math.isfinite(weight):
            raise ValueError(f"--weights {text!r}: {part!r} is not ARM=SHARE; write for example a=0.5,b=0.5")
        weights[arm.strip()] = weight
    return weights


def _json(result: Analysis) -> str:
    return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"


COMMAND = Command(
    summary="Compare the arms of an experiment in a CSV or Parquet table.",
    example="salon analyze results.csv --arm arm --control base --metric liked:proportion --metric seconds:quantile:0.95",
    arguments=_arguments,
    run=run,
)
