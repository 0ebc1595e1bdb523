"""From the votes of interleaved grids and duels to what the report says of every pair, and what to know beside it."""

from collections.abc import Mapping, Sequence

from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts
from analytics.inference.sign_test import sign_test
from analytics.report.preference import PairPreference, PreferenceReport
from analytics.report.preference_metrics import preference_of
from analytics.report.schema import MetricReport

FEWEST_DECIDED = 0.10


def preference_report(experiment: Experiment, facts: ExperimentFacts, compared: Sequence[MetricReport]) -> PreferenceReport | None:
    """None without votes."""
    if facts.preference is None or not facts.preference.votes:
        return None
    evidence = {
        (metric.metric, c.arm, c.vs): c.always_valid.e_value
        for metric in compared
        if metric.role != "guardrail"
        for c in metric.comparisons
        if c.always_valid is not None
    }
    pairs = []
    for name, votes in facts.preference.votes.items():
        for pair in votes.pairs:
            found = preference_of(pair)
            pairs.append(
                PairPreference(
                    metric=name,
                    arm=pair.arm,
                    vs=pair.vs,
                    score=pair.score.mean,
                    units_won=pair.units_won,
                    units_lost=pair.units_lost,
                    units_tied=pair.units_tied,
                    won=pair.won,
                    lost=pair.lost,
                    tied=pair.tied,
                    p_value=found.p_value if found else sign_test(pair.units_won, pair.units_lost),
                    e_value=evidence.get((name, pair.arm, pair.vs)),
                )
            )
    return PreferenceReport(
        units={name: votes.units for name, votes in facts.preference.votes.items()}, pairs=pairs, warnings=_warnings(experiment, pairs)
    )


def voters(experiment: Experiment, facts: ExperimentFacts) -> Mapping[str, int]:
    """People who compared each arm with another on the primary metric."""
    votes = facts.preference.votes.get(experiment.primary) if facts.preference else None
    return {arm: votes.arms[arm].n if votes and arm in votes.arms else 0 for arm in experiment.arms}


def all_voters(experiment: Experiment, facts: ExperimentFacts) -> int:
    """People who compared any two arms on the primary metric."""
    votes = facts.preference.votes.get(experiment.primary) if facts.preference else None
    return votes.units if votes else 0


def _warnings(experiment: Experiment, pairs: Sequence[PairPreference]) -> list[str]:
    said = []
    for one in pairs:
        people = one.units_won + one.units_lost + one.units_tied
        if one.metric == experiment.primary and people >= 100 and one.units_won + one.units_lost < FEWEST_DECIDED * people:
            said.append(
                f"On {one.metric} only {one.units_won + one.units_lost:,} of {people:,} people prefer {one.arm!r} or {one.vs!r} at all: "
                "the two look much the same to the others."
            )
    return said
