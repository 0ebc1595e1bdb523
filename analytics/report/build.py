"""Facts in, report out: pure, so that the same facts give the same report bit for bit."""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from analytics.checks import check
from analytics.decision import decide
from analytics.designs import MIXED
from analytics.events import utc_now
from analytics.experiment import Experiment, Metric
from analytics.facts import ArmFacts, ExperimentFacts, WeightPeriod
from analytics.report.adaptive_contrast import table_of
from analytics.report.adaptive_path import adaptive_path
from analytics.report.breakdowns import breakdowns
from analytics.report.comparisons import Question, Rules, compare_family, finite
from analytics.report.designs import additions, judged_units, shown
from analytics.report.designs import warnings as design_warnings
from analytics.report.e_values import with_e_bh
from analytics.report.flagged import flagged_check, rules
from analytics.report.formulas import formulas
from analytics.report.notes import method_notes
from analytics.report.novelty import novelty
from analytics.report.path import path
from analytics.report.preference_evidence import all_voters
from analytics.report.preference_metrics import preference_metrics
from analytics.report.schema import AllChecks, ArmReport, Latency, MetricReport, PathPoint, Report, Role, SufficientStatistics

if TYPE_CHECKING:
    from analytics.warehouse.client import Warehouse

BUILT_IN = {
    "latency_p95_ms": Metric(kind="quantile", event="generation", quantile=0.95, direction="down"),
    "failure_rate": Metric(kind="ratio", event="failure", denominator="generation", direction="down"),
}


def report_now(
    warehouse: "Warehouse",
    name: str,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    as_of: datetime | None = None,
    *,
    flagged: bool = False,
) -> Report:
    """Read the facts (up to `as_of`; None means now) and build the report; with `flagged`, flagged events count like any other."""
    # Here, so that statistics on a file load no database client.
    from analytics.warehouse.facts import read_facts

    facts = read_facts(warehouse, name, experiment, metrics, as_of, flagged=flagged)
    return build_report(name, experiment, metrics, facts, as_of or utc_now())


def build_report(
    name: str,
    experiment: Experiment,
    metrics: Mapping[str, Metric],
    facts: ExperimentFacts,
    as_of: datetime,
) -> Report:
    """The report of `experiment`. `metrics` defines at least those that it names (built-in ones need none). Raises KeyError for
    a metric that is not defined."""
    used = {key: BUILT_IN[key] if key in BUILT_IN else metrics[key] for key in _names(experiment)}
    compared = _compare(experiment, used, facts)
    hours = (as_of - facts.started_at).total_seconds() / 3600 if facts.started_at else 0.0
    basic = check(facts, list(experiment.arms), experiment.control, experiment.alpha)
    flagged = flagged_check(experiment, used, facts, basic.srm, compared)
    checks = AllChecks(**msgspec.structs.asdict(basic), flagged=flagged)
    arms = {arm.arm: arm for arm in facts.arms}
    weights = facts.periods[-1].weights if facts.periods else experiment.arms
    units = judged_units(experiment, facts)
    split = experiment.design == "ab"
    # A bandit's weights move by design, and are accounted for; who compares arms does so within one grid, whatever the weights.
    changes = 0 if experiment.design in ("bandit", *MIXED) else weight_changes(facts.periods)
    primary, asked = used[experiment.primary], rules(experiment)
    sliced = breakdowns(experiment, primary, facts.breakdowns, facts.periods, asked, compared[0]) if split else []
    added = additions(experiment, facts, compared)
    warnings = [*flagged.warnings, *design_warnings(added), *(warning for breakdown in sliced for warning in breakdown.warnings)]
    retired = [arm for arm, weight in weights.items() if weight == 0]
    people = all_voters(experiment, facts) if experiment.design in MIXED else None
    decision = decide(experiment, compared, checks, units, hours, changes, warnings, retired, people)
    report = Report(
        experiment=name,
        route=experiment.route,
        design=experiment.design,
        as_of=as_of,
        started_at=facts.started_at,
        data_as_of=facts.data_as_of,
        events_read=facts.events_read,
        late_events=facts.late_events,
        flagged="included" if facts.flagged_counted else "excluded",
        method_notes=method_notes(experiment, compared, facts, changes),
        arms=[_arm(name, arms.get(name), weights.get(name, 0.0), name == experiment.control) for name in experiment.arms],
        checks=checks,
        metrics=compared,
        decision=msgspec.structs.replace(decision, history=list(facts.decisions)),
        breakdowns=sliced,
        path=_path(experiment, primary, facts, asked),
        novelty=novelty(experiment, primary, facts.ages, asked) if split else [],
        **msgspec.structs.asdict(added),
        sufficient_statistics=SufficientStatistics(experiment=experiment, metrics=used, facts=facts),
    )
    return msgspec.structs.replace(report, formulas={formula.title: formula.path for formula in formulas(report)})


def rebuild(report: Report) -> Report:
    """The report again, from nothing but its own `sufficient_statistics`: equal to it, bit for bit."""
    given = report.sufficient_statistics
    return build_report(report.experiment, given.experiment, given.metrics, given.facts, report.as_of)


def weight_changes(periods: list[WeightPeriod]) -> int:
    """How often the shares of the arms moved between periods in which units came."""
    weights = [p.weights for p in periods if any(p.units.values())]
    return sum(a != b for a, b in pairwise(weights))


def _path(experiment: Experiment, primary: Metric, facts: ExperimentFacts, asked: Rules) -> list[PathPoint]:
    if experiment.design == "bandit":
        return adaptive_path(experiment, primary, facts, asked)
    return path(experiment, primary, facts.cohorts, facts.periods, asked) if experiment.design == "ab" else []


def _names(experiment: Experiment) -> list[str]:
    return list(dict.fromkeys((experiment.primary, *experiment.secondary, *experiment.guardrails)))


def _compare(experiment: Experiment, metrics: Mapping[str, Metric], facts: ExperimentFacts) -> list[MetricReport]:
    if experiment.design in MIXED:
        return with_e_bh(preference_metrics(experiment, metrics, facts), experiment.alpha)
    families: list[tuple[Role, list[str]]] = [
        ("primary", [experiment.primary]),
        ("secondary", list(experiment.secondary)),
        ("guardrail", list(experiment.guardrails)),
    ]
    compared: list[MetricReport] = []
    adaptive = experiment.design == "bandit"
    for role, names in families:
        questions = []
        for key in names:
            drawn = table_of(facts.allocation, key, metrics[key].inferred_as, list(experiment.arms)) if adaptive else None
            guardrail = experiment.guardrails[key] if role == "guardrail" else None
            question = Question(
                metric=key,
                role=role,
                kind=metrics[key].inferred_as,
                direction=guardrail.direction if guardrail else metrics[key].direction,
                facts=facts.metrics.get(key, {}),
                guardrail=guardrail,
                joint=facts.joint.get(key),
                periods=facts.by_period.get(key, ()),
                strata=list(facts.by_stratum.get(key, {}).values()),
                bounds=metrics[key].bounds,
                cap=facts.caps.get(key),
                sql=facts.sql.get(key, ""),
                allocation=drawn,
                blocks=facts.blocks,
                shown=shown(experiment, facts, key, metrics[key], drawn),
            )
            questions.append(question)
        if questions:
            compared += compare_family(questions, list(experiment.arms), experiment.control, rules(experiment))
    return with_e_bh(compared, experiment.alpha)


def _arm(name: str, facts: ArmFacts | None, weight: float, control: bool) -> ArmReport:
    return ArmReport(
        arm=name,
        control=control,
        variant=facts.variant_digest if facts else "",
        weight=weight,
        units=facts.units if facts else 0,
        generations=facts.generations if facts else 0,
        images=facts.images if facts else 0,
        failures=facts.failures if facts else 0,
        latency_ms=Latency(p50=finite(facts.latency_p50_ms) if facts else None, p95=finite(facts.latency_p95_ms) if facts else None),
    )
