"""Would flagged events change what the report says? The sample ratio and the primary metric, with them beside without them."""

from collections.abc import Mapping, Sequence

from analytics.checks import SampleRatio, sample_ratio
from analytics.decision import established
from analytics.designs import planned_units
from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts, Moments, QuantileFacts
from analytics.facts_of_designs import AllocationStretch
from analytics.report.adaptive_contrast import shown_arms, table_of
from analytics.report.comparisons import Question, Rules, compare_family
from analytics.report.schema import Flagged, MetricReport

TOLD = {"better": "is better", "worse": "is worse", None: "is not told apart"}


def flagged_check(
    experiment: Experiment, metrics: Mapping[str, Metric], facts: ExperimentFacts, srm: SampleRatio, compared: Sequence[MetricReport]
) -> Flagged:
    """`metrics` defines the primary one; `srm` and `compared` are what the report says. Pure."""
    share = facts.flagged_events / facts.events_read if facts.events_read else 0.0
    events = Flagged(events=facts.flagged_events, share=share, by_flag=facts.flags, counted=facts.flagged_counted)
    if facts.with_flagged is None:
        return events
    metric = metrics[experiment.primary]
    arms = list(experiment.arms)
    srm_with, clean = sample_ratio(facts.with_flagged.periods, arms), sample_ratio(facts.with_flagged.clean_periods, arms)
    primary_with = _plain(experiment, metric, facts, facts.with_flagged.primary, facts.with_flagged.allocation)
    without = next((m for m in compared if m.role == "primary"), None)
    name = experiment.primary
    if name in facts.joint or name in facts.by_period or name in facts.by_stratum:
        # Flagged events are known without covariates, periods and strata: like is compared with like.
        without = _plain(experiment, metric, facts, facts.metrics.get(name, {}))
    warnings = [*_ratio_warnings(srm, srm_with, clean), *(_side_warnings(without, primary_with) if without else [])]
    return Flagged(
        events=events.events,
        share=share,
        by_flag=facts.flags,
        counted=False,
        srm_with=srm_with,
        srm_of_clean_units=clean,
        primary_with=primary_with,
        ok=not warnings,
        warnings=warnings,
    )


def _plain(
    experiment: Experiment,
    metric: Metric,
    facts: ExperimentFacts,
    arms: Mapping[str, Moments | QuantileFacts],
    allocation: Sequence[AllocationStretch] = (),
) -> MetricReport:
    """The primary metric over all units at once, without covariates; of a bandit by its draws."""
    drawn = None
    if experiment.design == "bandit":
        drawn = table_of(allocation, experiment.primary, metric.inferred_as, list(experiment.arms))
    question = Question(
        metric=experiment.primary,
        role="primary",
        kind=metric.inferred_as,
        direction=metric.direction,
        facts=arms,
        bounds=metric.bounds,
        cap=facts.caps.get(experiment.primary),
        sql=facts.sql.get(experiment.primary, ""),
        allocation=drawn,
        shown=shown_arms(drawn, metric.kind, list(experiment.arms)) if drawn is not None else {},
    )
    (report,) = compare_family([question], list(experiment.arms), experiment.control, rules(experiment))
    return report


def rules(experiment: Experiment) -> Rules:
    """As the experiment declares them; looks of a bandit cannot be planned for, since its weights make the information."""
    return Rules(
        alpha=experiment.alpha,
        planned_units=planned_units(experiment),
        lift=experiment.lift,
        correction=experiment.correction,
        looks=None if experiment.design == "bandit" else experiment.looks,
    )


def _ratio_warnings(without: SampleRatio, with_: SampleRatio, clean: SampleRatio) -> list[str]:
    warnings = []
    if without.ok != with_.ok:
        where = "without" if with_.ok else "with"
        warnings.append(
            f"The sample ratio is broken only {where} the flagged events (e-value {without.e_value:.3g} without, {with_.e_value:.3g} "
            "with them): what flags them meets one arm more often."
        )
    if clean.ok != without.ok:
        left = " / ".join(f"{arm} {n:,} of {clean.expected[arm]:,.0f}" for arm, n in clean.units.items())
        state = "whole" if clean.ok else "broken"
        warnings.append(
            f"The sample ratio of the units without a flagged event is {state} ({left} expected; e-value {clean.e_value:.3g}): "
            "what flags events meets one arm more often."
        )
    return warnings


def _side_warnings(without: MetricReport, with_: MetricReport) -> list[str]:
    warnings = []
    for left, right in zip(without.comparisons, with_.comparisons, strict=True):
        sides = established(left, without.direction), established(right, with_.direction)
        if sides[0] != sides[1]:
            warnings.append(
                f"Flagged events change the answer: on {without.metric} {left.arm!r} {TOLD[sides[0]]} without them "
                f"and {TOLD[sides[1]]} with them, against {left.vs!r}. Look at what was flagged before you decide."
            )
    return warnings
