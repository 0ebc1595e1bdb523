"""`salon analyze FILE`: the report's statistics on a table; no service, no configuration needed."""

import argparse
import sys
from pathlib import Path

import msgspec

from analytics.analyze.analysis import Analysis, analyze
from analytics.analyze.asked import Asked
from analytics.analyze.covariate_option import parse_covariate
from analytics.analyze.metric_option import parse_bounds, parse_cap, parse_guardrail, parse_metric
from analytics.analyze.table import Table
from analytics.analyze.text import to_text
from analytics.analyze.weights_option import parse_weights
from analytics.command import Command
from analytics.report.question import Rules


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a .csv or .parquet file; one row per unit, or per event with --unit")
    what = parser.add_argument_group("what is compared")
    what.add_argument("--arm", required=True, metavar="COL", help="the column that names the arm")
    what.add_argument("--control", required=True, metavar="NAME", help="the arm to compare with")
    what.add_argument("--unit", metavar="COL", help="who was randomised; rows of one unit are taken together")
    what.add_argument(
        "--metric",
        required=True,
        action="append",
        metavar="COL[:KIND]",
        help="COL, COL:mean, COL:proportion, COL:ratio:DENOM, COL:quantile:Q; COL:mean:event is per row, clustered by --unit",
    )
    what.add_argument(
        "--guardrail", action="append", default=[], metavar="COL[:KIND]=MARGIN", help="must not get worse by more than this share"
    )
    what.add_argument("--lower", action="append", default=[], metavar="COL", help="a metric or guardrail of which less is better")
    what.add_argument("--cap", metavar="VALUE|pNN", help="larger values per unit count as this, or as this percentile")
    what.add_argument("--empty", choices=("refuse", "zero"), default="refuse", help="a missing value of a metric: an error (default), or 0")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--covariate",
        action="append",
        default=[],
        metavar="[METRIC=]COL[/DENOM]",
        help="known before the exposure; takes its noise out (CUPED; several: Lin's regression). Missing values count as the mean",
    )
    how.add_argument("--stratify", metavar="COL", help="post-stratify by this column, known before the exposure")
    how.add_argument("--period", metavar="COL", help="periods of constant weights: arms are compared within each")
    how.add_argument("--breakdown", action="append", default=[], metavar="COL", help="also compare the first metric by this column")
    how.add_argument("--alpha", type=float, default=0.05, help="the error rate (default: 0.05)")
    how.add_argument("--lift", choices=("delta", "fieller", "log_delta"), default="delta", help="the interval of the lift")
    how.add_argument("--correction", choices=("holm", "benjamini_hochberg", "none"), default="holm", help="over metrics and arms")
    looks = parser.add_argument_group("more")
    looks.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[PERIOD:]A=0.5,B=0.5",
        help="the intended shares; turns on the sample-ratio check; with --period once for each",
    )
    looks.add_argument("--sequential", action="store_true", help="add intervals and p-values that stay right at any look")
    looks.add_argument("--planned-units", type=int, default=5000, metavar="N", help="where --sequential is tightest (default: 5000)")
    looks.add_argument("--looks", type=int, metavar="K", help="so many equally spaced looks up to --planned-units were planned")
    looks.add_argument(
        "--bounds", action="append", default=[], metavar="[METRIC=]LOW,HIGH", help="of a mean: adds the interval that is guaranteed"
    )
    looks.add_argument(
        "--bootstrap", type=int, default=0, metavar="N", help="also draw the units anew so many times, as a check on the intervals"
    )
    looks.add_argument("--format", choices=("text", "json", "html"), default="text")
    looks.add_argument("--out", type=Path, metavar="F", help="write to this file instead of the terminal")


def run(arguments: argparse.Namespace) -> int:
    """Print the analysis. Raises ValueError for what cannot be analysed, OSError for a file that cannot be read."""
    if not 0 < arguments.alpha < 0.5:
        raise ValueError(f"--alpha is {arguments.alpha}; give a number between 0 and 0.5, such as 0.05")
    if arguments.planned_units < 10:
        raise ValueError(f"--planned-units is {arguments.planned_units}; give at least 10")
    if arguments.looks is not None and not 2 <= arguments.looks <= 50:
        raise ValueError(f"--looks is {arguments.looks}; give from 2 to 50, or leave it out")
    if arguments.bootstrap and arguments.bootstrap < 100:
        raise ValueError(f"--bootstrap is {arguments.bootstrap}; give at least 100, such as 2000")
    result = analysis_of(arguments)
    text = render(result, arguments.format)
    if arguments.out is None:
        sys.stdout.write(text)
    else:
        arguments.out.write_text(text, "utf-8")
        print(f"wrote {arguments.out}", file=sys.stderr)
    return 0


def analysis_of(arguments: argparse.Namespace) -> Analysis:
    """Read the file and compare. Raises ValueError, OSError."""
    metrics = [*(parse_metric(text) for text in arguments.metric), *(parse_guardrail(text) for text in arguments.guardrail)]
    table = Table(arguments.file)
    covariates = [parse_covariate(text, table.columns, metrics) for text in arguments.covariate]
    named = [arguments.arm, arguments.unit, arguments.period, arguments.stratify, *arguments.breakdown]
    numbers = [c for m in metrics for c in (m.column, m.denominator)] + [c for o in covariates for c in (o.column, o.denominator)]
    table.keep(numbers=[column for column in numbers if column], names=[column for column in named if column])
    return analyze(
        table,
        Asked(
            arm=arguments.arm,
            control=arguments.control,
            unit=arguments.unit,
            metrics=metrics,
            lower=arguments.lower,
            covariates=covariates,
            cap=parse_cap(arguments.cap) if arguments.cap else None,
            weights=parse_weights(arguments.weights, table.labels(arguments.period).names if arguments.period else []),
            period=arguments.period,
            stratify=arguments.stratify,
            breakdowns=list(dict.fromkeys(arguments.breakdown)),
            bounds=dict(parse_bounds(text, metrics) for text in arguments.bounds),
            sequential=arguments.sequential,
            bootstrap=arguments.bootstrap,
            empty=0.0 if arguments.empty == "zero" else None,
            rules=Rules(
                alpha=arguments.alpha,
                planned_units=arguments.planned_units,
                lift=arguments.lift,
                correction=arguments.correction,
                looks=arguments.looks,
            ),
        ),
    )


def render(result: Analysis, form: str) -> str:
    """`text`, `json` or `html`."""
    if form == "html":
        from analytics.analyze.page import to_html  # here, so that numbers wait for no drawing

        return to_html(result)
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n"
    return to_text(result)


COMMAND = Command(
    summary="Compare the arms of an experiment in a CSV or Parquet table.",
    example="salon analyze results.csv --arm arm --control base --metric liked:proportion --metric seconds:quantile:0.95",
    arguments=_arguments,
    run=run,
)
