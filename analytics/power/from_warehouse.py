"""A plan from the warehouse: from the past of a route, or for an experiment that runs."""

import argparse
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from analytics.events import utc_now
from analytics.experiment import BUILT_IN_METRICS, Experiment, Metric, MetricKind
from analytics.facts import ExperimentFacts
from analytics.inference.explained import explained
from analytics.inference.power import Spread
from analytics.nearest import nearest
from analytics.power.answer import Answer, answer
from analytics.power.arrivals import Arrivals, fit
from analytics.power.asked import Asked
from analytics.power.history import History, level_and_variance, outcome_of
from analytics.power.midrun import Ahead, needed, ways
from analytics.power.options import design_asked, refuse, remaining
from analytics.report.command import catch_up, find
from analytics.settings import AnalyticsSettings, Document, analytics_settings
from analytics.warehouse.facts import read_facts
from analytics.warehouse.history import Past, exposed_per_day, read_past, route_names
from analytics.warehouse.snapshot import open_readable

KINDS: dict[str, MetricKind] = {"latency_p95_ms": "quantile", "failure_rate": "ratio"}
OF_FILE = ("covariate", "unit", "time", "cap", "empty")
DAYS = 28


def from_route(arguments: argparse.Namespace) -> Answer:
    """Raises ValueError (unknown route or metric, nothing to plan from), OSError (warehouse out of reach)."""
    refuse(arguments, OF_FILE, "goes with a file; a metric of the configuration has covariate_days, cap and its unit itself")
    _refuse_numbers(arguments)
    if arguments.metric is None:
        raise ValueError("--metric is missing: name a metric of the configuration, latency_p95_ms or failure_rate")
    days = DAYS if arguments.history_days is None else arguments.history_days
    if not 1 <= days <= 3650:
        raise ValueError(f"--history-days is {days}; give 1 to 3650")
    settings = _settings(arguments)
    name, metrics = arguments.metric, settings.metrics
    metric = _metric(name, metrics)
    others = {other: metrics[other] for other in (metric.covariates if metric else ()) if other in metrics and other != name}
    with open_readable(settings) as warehouse:
        catch_up(settings, warehouse)
        past = read_past(warehouse, arguments.route, name, metric, days, others)
        if past is None:
            raise ValueError(
                f"route {arguments.route!r} has no requests in the warehouse; {nearest(arguments.route, route_names(warehouse))}"
            )
    history = _history(name, metric, past)
    said = _said(arguments)
    asked = design_asked(
        arguments,
        metric=name,
        kind=history.kind,
        outcome=outcome_of(history, said),
        arrivals=history.arrivals,
        window_days=history.window_days,
        lower_is_better=_lower(name, metric),
    )
    notes = [
        f"From {past.since:%Y-%m-%d %H:%M} to {past.until:%Y-%m-%d %H:%M} UTC, {len(past.new_units)} days of route {arguments.route!r}:"
        f" {sum(past.new_units):,} units, {past.measured:,} measured, each from its first request on"
        + (f" for {history.window_days * 24:g} hours." if history.window_days else "; a longer experiment sees more of each."),
    ]
    return answer(asked, f"route {arguments.route}", notes)


def from_experiment(arguments: argparse.Namespace) -> Answer:
    """Raises ValueError (unknown experiment or metric, nothing to plan from), OSError (warehouse out of reach)."""
    refuse(arguments, OF_FILE, "goes with a file; a metric of the configuration has covariate_days, cap and its unit itself")
    refuse(arguments, ("history_days",), "goes with --route; an experiment is read from its start")
    refuse(arguments, ("arms", "weights", "control", "units"), "is the experiment's own; leave it out, or plan with --route")
    _refuse_numbers(arguments)
    settings = _settings(arguments)
    with open_readable(settings) as warehouse:
        catch_up(settings, warehouse)
        experiment = find(arguments.experiment, settings.experiments, warehouse)
        name = arguments.metric or experiment.primary
        metric = _metric(name, settings.metrics)
        facts = read_facts(warehouse, arguments.experiment, experiment, {name: metric} if metric else {})
        now = utc_now()
        new_units = exposed_per_day(warehouse, arguments.experiment, facts.started_at, now) if facts.started_at else []
    return _running(arguments, experiment, name, metric, facts, new_units, now)


def _running(
    arguments: argparse.Namespace,
    experiment: Experiment,
    name: str,
    metric: Metric | None,
    facts: ExperimentFacts,
    new_units: list[int],
    now: datetime,
) -> Answer:
    of_arm = facts.metrics.get(name, {})
    units = {arm.arm: arm.units for arm in facts.arms}
    arrivals = fit(new_units) if sum(new_units) else None
    joint = facts.joint.get(name, {}).get(experiment.control)
    kind = _kind(name, metric)
    history = History(
        metric=name,
        kind=kind,
        facts=of_arm.get(experiment.control),
        joint=joint,
        units=units.get(experiment.control, 0),
    )
    guardrail = experiment.guardrails.get(name)
    if guardrail is not None and arguments.mde is None and arguments.margin is None:
        arguments.margin = str(guardrail.margin)
    asked = design_asked(
        arguments,
        metric=name,
        kind=kind,
        outcome=outcome_of(history, _said(arguments)),
        shares={arm: weight for arm, weight in experiment.arms.items() if weight > 0 or arm == experiment.control},
        control=experiment.control,
        arrivals=arrivals,
        window_days=(metric.window_hours or 0.0) / 24 if metric else 0.0,
        lower_is_better=guardrail.direction == "down" if guardrail else _lower(name, metric),
        alpha=experiment.alpha,
        correction=experiment.correction,
        planned_units=experiment.planned_units,
        looks=experiment.looks,
    )
    days = (now - facts.started_at).total_seconds() / 86400 if facts.started_at else None
    ahead = _ahead(asked, facts, units, days)
    notes = [
        f"Experiment {arguments.experiment!r} with {sum(units.values()):,} units; baseline and variance are the control's so far.",
        "The effect to find is the one you give, not the one seen: planning on what was seen so far misleads.",
    ]
    return answer(asked, f"experiment {arguments.experiment}", notes, ahead)


def _ahead(asked: Asked, facts: ExperimentFacts, units: Mapping[str, int], days: float | None) -> Ahead | None:
    """For the arm that knows least. None where no arm can be compared."""
    of_arm = facts.metrics.get(asked.metric, {})
    measured = {}
    for arm in asked.shares:
        try:
            measured[arm] = level_and_variance(asked.kind, of_arm.get(arm), asked.metric)
        except ValueError:
            continue
    ratio = asked.ratio

    def variance(arm: str) -> float:
        remaining = 1 - explained(facts.joint[asked.metric][arm]) if asked.metric in facts.joint else asked.outcome.remaining
        return remaining * measured[arm][1] / units[arm]

    compared = [arm for arm in asked.shares if arm != asked.control and arm in measured and units.get(arm, 0) > 1]
    if asked.control not in measured or not compared:
        return None
    arm = max(compared, key=variance)
    se = math.sqrt(variance(arm) + ratio * ratio * variance(asked.control))
    change = asked.change
    pair = units[arm] + units[asked.control]
    signal = None if change is None else asked.found(change).signal
    deviation = se * math.sqrt(pair)
    found = Spread(signal or 0.0, deviation, deviation)
    one_sided = asked.margin is not None
    at_once, any_time = (
        needed(
            found,
            pair,
            criterion,
            asked.power,
            units=sum(units.get(name, 0) for name in asked.shares),
            arrivals=asked.arrivals,
            one_sided=one_sided,
            planned_units=asked.planned_units * asked.pair,
        )
        for criterion in ways(asked.level, asked.planned_units, one_sided=one_sided)
    )
    return Ahead(
        arm=arm,
        units=sum(units.get(name, 0) for name in asked.shares),
        pair_units=pair,
        days=days,
        se=se,
        difference=measured[arm][0] - measured[asked.control][0],
        asked=signal is not None,
        fixed=at_once,
        always_valid=any_time,
    )


def _settings(arguments: argparse.Namespace) -> AnalyticsSettings:
    return analytics_settings(Document.read(Path(arguments.config) if arguments.config else None))


def _refuse_numbers(arguments: argparse.Namespace) -> None:
    refuse(arguments, ("baseline", "sd", "kind", "units_per_day"), "comes from the warehouse; leave it out")


def _said(arguments: argparse.Namespace) -> float | None:
    given = arguments.variance_reduction is not None or arguments.correlation is not None
    return remaining(arguments) if given else None


def _metric(name: str, metrics: Mapping[str, Metric]) -> Metric | None:
    if name not in metrics and name not in BUILT_IN_METRICS:
        raise ValueError(f"no metric {name!r}; {nearest(name, [*metrics, *BUILT_IN_METRICS])}")
    return metrics.get(name)


def _kind(name: str, metric: Metric | None) -> MetricKind:
    return KINDS[name] if metric is None else metric.inferred_as


def _lower(name: str, metric: Metric | None) -> bool:
    return True if metric is None else metric.direction == "down"


def _history(name: str, metric: Metric | None, past: Past) -> History:
    arrivals: Arrivals | None = fit(past.new_units) if sum(past.new_units) else None
    return History(
        metric=name,
        kind=_kind(name, metric),
        facts=past.facts,
        joint=past.joint,
        arrivals=arrivals,
        window_days=(metric.window_hours or 0.0) / 24 if metric else 0.0,
        units=past.measured,
    )
