"""Metrics of interleaved grids and duels: whose pictures people prefer, as comparisons with the control."""

from collections.abc import Mapping

from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.report.schema import MetricReport


def preference_metrics(experiment: Experiment, metrics: Mapping[str, Metric], facts: ExperimentFacts) -> list[MetricReport]:
    """The primary metric, then the secondary ones, each arm against the control."""
    return []
