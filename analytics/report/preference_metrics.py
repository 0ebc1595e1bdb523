"""Metrics of interleaved grids and duels: whose pictures people prefer, as comparisons with the control."""

from collections.abc import Mapping, Sequence

import msgspec

from analytics.experiment import Experiment, Metric
from analytics.facts import ExperimentFacts
from analytics.facts_of_designs import MetricVotes, PairVotes
from analytics.inference import diversified_bets
from analytics.inference.contrast import UNBOUNDED
from analytics.inference.multiplicity import Adjusted, correct
from analytics.inference.paired_preference import PairedPreference, paired_preference
from analytics.report.comparisons import finite, metric_arm
from analytics.report.schema import AlwaysValid, Comparison, Estimate, MetricArm, MetricReport

KIND = "preference"
METHOD = "preference: sign test on {n} people; bets on their scores at any look"
NOBODY = "no inference: nobody has compared the two"
NOT_COMPARED = "no inference: pictures that are seen together are compared by what people do to one of them"
MIXED_GUARDRAIL = "no inference: every grid holds several arms, so no arm has requests of its own"


class _Asked(msgspec.Struct, frozen=True):
    """One comparison: the votes on it (None: nobody's), what they came to, and why not where they did not."""

    arm: str
    votes: PairVotes | None
    found: PairedPreference | None
    why: str


def preference_metrics(experiment: Experiment, metrics: Mapping[str, Metric], facts: ExperimentFacts) -> list[MetricReport]:
    """The primary metric, then the secondary ones, each arm against the control; guardrails without inference.

    `difference` is the net preference (+1: always this arm); a lift there is not. Corrected over the comparisons of a role.
    """
    votes = facts.preference.votes if facts.preference else {}
    reports = [*_family(experiment, "primary", [experiment.primary], metrics, votes)]
    reports += _family(experiment, "secondary", experiment.secondary, metrics, votes)
    return reports + [_guardrail(experiment, name, metrics[name]) for name in experiment.guardrails]


def _family(
    experiment: Experiment, role: str, names: Sequence[str], metrics: Mapping[str, Metric], votes: Mapping[str, MetricVotes]
) -> list[MetricReport]:
    others = [arm for arm in experiment.arms if arm != experiment.control]
    asked = [[_ask(votes.get(name), arm, experiment.control) for arm in others] for name in names]
    flat = [one for row in asked for one in row]
    levels = iter(correct([one.found.p_value if one.found else 1.0 for one in flat], experiment.alpha, experiment.correction))
    share = experiment.alpha / (1 if experiment.correction == "none" else max(1, len(flat)))
    return [
        MetricReport(
            metric=name,
            role="primary" if role == "primary" else "secondary",
            kind=KIND,
            direction=metrics[name].direction,
            arms=[_arm(arm, votes.get(name)) for arm in experiment.arms],
            comparisons=[_comparison(one, experiment.control, next(levels), share, experiment.alpha) for one in row],
        )
        for name, row in zip(names, asked, strict=True)
    ]


def _ask(votes: MetricVotes | None, arm: str, control: str) -> _Asked:
    if votes is None:
        return _Asked(arm, None, None, NOT_COMPARED)
    pair = next((pair for pair in votes.pairs if (pair.arm, pair.vs) == (arm, control)), None)
    return _Asked(arm, pair, preference_of(pair) if pair else None, NOBODY)


def preference_of(pair: PairVotes) -> PairedPreference | None:
    """For one look."""
    score, (to, away, _) = pair.score, pair.leaning
    return paired_preference(score.n, score.mean, score.m2, to, away)


def evidence_of(pair: PairVotes) -> float:
    """Against the two being preferred alike, at any look: an e-value."""
    return diversified_bets.e_value([score for score, _ in pair.scores], [count for _, count in pair.scores], 0.5)


def _arm(arm: str, votes: MetricVotes | None) -> MetricArm:
    """Its share of the votes over all that it met, by person."""
    return metric_arm(arm, "mean", votes.arms.get(arm) if votes else None)


def _comparison(one: _Asked, control: str, level: Adjusted, share: float, alpha: float) -> Comparison:
    found, pair = one.found, one.votes
    if found is None or pair is None:
        return untested(one.arm, control, one.why, 1 - level.alpha)
    low, high = diversified_bets.interval([score for score, _ in pair.scores], [count for _, count in pair.scores], share)
    evidence = evidence_of(pair)
    return Comparison(
        arm=one.arm,
        vs=control,
        difference=Estimate(value=found.net, se=finite(found.se), ci=found.interval(level.alpha)),
        relative=Estimate(value=None, se=None, ci=UNBOUNDED),
        p_value=found.p_value,
        adjusted_p_value=level.p_value,
        always_valid=AlwaysValid(
            relative_ci=UNBOUNDED,
            difference_ci=(2 * low - 1, 2 * high - 1),
            p_value=min(1.0, alpha / share / evidence) if evidence > 0 else 1.0,
            e_value=evidence,
        ),
        bayes=None,
        df=None,
        variance_reduction=None,
        method=METHOD.format(n=found.units),
        ci_level=1 - level.alpha,
        lift_method="none: a preference is relative to nothing",
    )


def untested(arm: str, vs: str, why: str, level: float) -> Comparison:
    """A comparison that says why there is none."""
    nothing = Estimate(value=None, se=None, ci=UNBOUNDED)
    return Comparison(
        arm=arm, vs=vs, difference=nothing, relative=nothing, p_value=None, adjusted_p_value=None, always_valid=None, bayes=None,
        df=None, variance_reduction=None, method=why, ci_level=level,
    )  # fmt: skip


def _guardrail(experiment: Experiment, name: str, metric: Metric) -> MetricReport:
    guardrail = experiment.guardrails[name]
    return MetricReport(
        metric=name,
        role="guardrail",
        kind=metric.inferred_as,
        direction=guardrail.direction,
        arms=[MetricArm(arm=arm, n=0, mean=None, sd=None) for arm in experiment.arms],
        comparisons=[
            untested(arm, experiment.control, MIXED_GUARDRAIL, 1 - experiment.alpha) for arm in experiment.arms if arm != experiment.control
        ],
        margin=guardrail.margin,
    )
