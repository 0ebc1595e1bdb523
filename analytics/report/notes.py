"""How the numbers were made, in plain words."""

from collections.abc import Sequence

from analytics.designs import MIXED, judged_noun, planned_units
from analytics.experiment import Experiment
from analytics.facts import ExperimentFacts
from analytics.inference.bayes import PRIOR_SD
from analytics.report.schema import MetricReport
from analytics.report.words import plural

PREFERENCE = (
    "Every grid holds several arms, and people decide between them: differences are net preferences against {control!r}, +1 where the "
    "arm always wins, 0 where neither does. A person is one observation. Tests and intervals of one look ({level:.0%}) are by the sign "
    'test; "at any look" is by bets on their scores: it stays right however often the report is read, and only that decides.'
)
CORRECTIONS = {
    "holm": "p-values and intervals by Holm, those at any look by Bonferroni",
    "benjamini_hochberg": "p-values and intervals by Benjamini-Hochberg (a share of false finds), those at any look by Bonferroni",
    "none": "nothing is corrected, as was asked for, so that each has its own chance of a false find",
}


def method_notes(experiment: Experiment, metrics: Sequence[MetricReport], facts: ExperimentFacts, weight_changes: int) -> list[str]:
    """The notes that apply to this report."""
    level = 1 - experiment.alpha
    notes = []
    if facts.flagged_counted:
        flagged = plural(facts.flagged_events, "event")
        notes.append(f"Flagged events are counted in this report ({flagged}), as was asked for; by default they are not.")
    if experiment.design in MIXED:
        notes.append(PREFERENCE.format(control=experiment.control, level=level))
    else:
        notes += _of_arms_apart(experiment)
    if experiment.design == "switchback":
        notes.append(
            "A block of time is the observation, for all in it get one arm: sizes, deviations and what is planned count blocks. Arms are "
            "random from block to block; what one block does to the next is no part of the effect, and looked for as carry-over."
        )
    if experiment.design == "bandit":
        notes.append(
            "Weights follow what arms have done. Values and lifts are estimates from the logged propensity of every draw (AIPW): what all "
            "units would have done in an arm, not the mean of those that got it, which is wrong when weights and seasons move together. "
            "Every unit counts in the arm that it was drawn for first."
        )
    families = {role: sum(len(m.comparisons) for m in metrics if m.role == role) for role in ("primary", "secondary", "guardrail")}
    several = [f"{count} {role}" for role, count in families.items() if count > 1]
    if several:
        notes.append(f"Several comparisons share one alpha ({', '.join(several)}): {CORRECTIONS[experiment.correction]}.")
    if families["guardrail"]:
        notes.append(
            "A guardrail holds when the arm is shown to be no worse than the margin, is broken when shown to be worse, and is "
            "open until then (one-sided, at any look)."
        )
    if experiment.equalise:
        notes.append(
            "Faster arms are held back until the slowest would answer (equalise): latencies count the hold, and the arms' own speed "
            "is no part of what is compared."
        )
    if facts.flagged_events and not facts.flagged_counted:
        notes.append(f"{plural(facts.flagged_events, 'event')} flagged as suspicious are stored, but not counted in the metrics.")
    if facts.late_events:
        notes.append(
            f"{plural(facts.late_events, 'event')} came over 72 hours after they occurred; they count by when they occurred, so that an "
            "earlier report on the same days may have said something else."
        )
    if facts.multiple_exposure:
        notes.append(f"{plural(facts.multiple_exposure, 'unit')} saw more than one arm and are left out.")
    if weight_changes and experiment.design == "switchback":
        notes.append("The weights changed: every block counts with the propensity that it was drawn with.")
    elif weight_changes:
        notes.append(
            "The weights changed: arms are compared, and the sample ratio checked, apart in every stretch of constant weights, so that a "
            "trend is not taken for an effect. Quantiles and breakdowns pool the stretches."
        )
    return notes


def _of_arms_apart(experiment: Experiment) -> list[str]:
    return [
        f"Every arm is compared with {experiment.control!r}. A lift is the difference over the control's value; negative means lower.",
        f'Intervals and p-values are for one planned look, at {1 - experiment.alpha:.0%}. "At any look" intervals (asymptotic confidence '
        f"sequences, tightest at {planned_units(experiment):,} {judged_noun(experiment)}s) stay right however often the report is read; "
        "only they decide.",
        '"Probability to be better" starts from the belief that lifts are small: a normal prior around 0 with standard '
        f"deviation {PRIOR_SD:.0%}.",
    ]
