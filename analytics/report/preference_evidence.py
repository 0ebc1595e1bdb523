"""From the votes of interleaved grids and duels to what the report says of every pair, and what to know beside it."""

from collections.abc import Mapping, Sequence

from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts
from analytics.facts_of_designs import PairVotes
from analytics.report.preference import PairPreference, PreferenceReport
from analytics.report.preference_metrics import evidence_of, preference_of

FEWEST_DECIDED = 0.10


def preference_report(experiment: Experiment, facts: ExperimentFacts) -> PreferenceReport | None:
    """None without votes."""
    if facts.preference is None or not facts.preference.votes:
        return None
    pairs = [_pair(name, pair) for name, votes in facts.preference.votes.items() for pair in votes.pairs]
    return PreferenceReport(
        units={name: votes.units for name, votes in facts.preference.votes.items()}, pairs=pairs, warnings=_warnings(experiment, pairs)
    )


def _pair(metric: str, pair: PairVotes) -> PairPreference:
    found, (to, away, neither) = preference_of(pair), pair.leaning
    return PairPreference(
        metric=metric,
        arm=pair.arm,
        vs=pair.vs,
        score=pair.score.mean,
        units_won=to,
        units_lost=away,
        units_tied=neither,
        won=pair.won,
        lost=pair.lost,
        tied=pair.tied,
        p_value=found.p_value if found else 1.0,
        e_value=evidence_of(pair),
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
