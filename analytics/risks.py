"""What to know beside a decision: everything that could make it wrong, in a sentence each. None of it changes the action."""

from collections.abc import Sequence

from analytics.checks import Checks
from analytics.designs import MIXED
from analytics.experiment import Experiment
from analytics.report.schema import Comparison, MetricReport
from analytics.report.words import arms_of, plural

# Above this share of units left out because a candidate was trained on them, the rest are newcomers.
MOST_TRAINED_ON = 0.50
# How a method says that it compares within each stretch of constant weights.
BY_PERIOD = "periods of constant weights"


def risks_of(experiment: Experiment, metrics: Sequence[MetricReport], checks: Checks, weight_changes: int, total: int) -> list[str]:
    """In the order of their weight; `total` units are in the report."""
    found = (checks.exposure, checks.holes, checks.left_out, checks.pre_period, checks.novelty, checks.failures)
    risks = [_as_sentence(problem) for check in found for problem in check.problems]
    risks += [_as_sentence(problem) for problem in (checks.position.problems if checks.position else ())]
    trained_on = checks.left_out.training.total if checks.left_out.training else 0
    if trained_on > MOST_TRAINED_ON * (trained_on + total):
        risks.append(
            f"{plural(trained_on, 'unit')} of {trained_on + total:,} are left out, because a candidate was trained on what they did: this "
            "is judged by people who came later."
        )
    risks += [text for metric in metrics if metric.role == "primary" for c in metric.comparisons if (text := _planned_look(metric, c))]
    gap = checks.latency_gap
    if gap.felt:
        risks.append(f"{arms_of(gap.felt)} served at another speed than the control (up to {gap.ms or 0.0:+.0f} ms on average).")
    if checks.bots.flagged_share > 0.05:
        fate = "counted here all the same" if checks.bots.counted else "left out"
        risks.append(f"{checks.bots.flagged_share:.0%} of the events are flagged as suspicious and {fate}.")
    if checks.exposure.generations_without_exposure:
        risks.append(f"{plural(checks.exposure.generations_without_exposure, 'generation')} came without an exposure.")
    pooled = [metric.metric for metric in metrics if any(_pooled(comparison) for comparison in metric.comparisons)]
    if weight_changes and pooled and experiment.design != "switchback":
        risks.append(
            f"The weights changed {plural(weight_changes, 'time')}, and {', '.join(pooled)} {'is' if len(pooled) == 1 else 'are'} compared "
            "over all of it: arms hold units of different days, and a trend can look like an effect."
        )
    if checks.srm.p_value is not None and checks.srm.p_value < 0.001 and checks.srm.ok:
        risks.append(f"Sample ratio: chi-square p = {comparison_p(checks.srm.p_value)}, e-value {checks.srm.e_value:.3g}; watch it.")
    for metric in metrics:
        unknown = [c.arm for c in metric.comparisons if metric.role == "guardrail" and c.ok is None]
        if unknown and experiment.design in MIXED:
            risks.append(
                f'Guardrail {metric.metric} is not judged: every grid of design = "{experiment.design}" holds several arms, so no arm has '
                'requests of its own. Judge it in an experiment of design = "ab" before shipping to all.'
            )
        elif unknown:
            risks.append(f"Guardrail {metric.metric} is not yet shown to hold for {arms_of(unknown)}.")
    return risks


def _pooled(comparison: Comparison) -> bool:
    """Whether units of several stretches of weights were compared as one sample: quantiles, which do not add up."""
    return comparison.p_value is not None and BY_PERIOD not in comparison.method


def established(comparison: Comparison, direction: str) -> str | None:
    """`better` or `worse` when always-valid interval, adjusted p-value and posterior all say so; None when not known yet."""
    sequence = comparison.always_valid
    if sequence is None or comparison.difference.value is None:
        return None
    intervals = [sequence.difference_ci, comparison.difference.ci]
    if comparison.bayes is not None:
        intervals.append(comparison.bayes.relative_ci)
    up = all(low is not None and low > 0 for low, _ in intervals)
    down = all(high is not None and high < 0 for _, high in intervals)
    if not (up or down):
        return None
    return "better" if up == (direction == "up") else "worse"


def comparison_p(p: float) -> str:
    """A p-value for a sentence."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _planned_look(metric: MetricReport, comparison: Comparison) -> str | None:
    """What a planned look says beyond what holds at any look."""
    look = comparison.group_sequential
    if look is None or not look.crossed or established(comparison, metric.direction) is not None:
        return None
    return (
        f"At planned look {look.look} of {look.looks} {comparison.arm!r} is beyond the bound on {metric.metric}: enough for those who "
        "looked only as planned, and not established at any look."
    )


def _as_sentence(problem: str) -> str:
    """A problem of a check, as a sentence of its own."""
    return f"{problem[0].upper()}{problem[1:]}{'' if problem.endswith(('.', ':', '!')) else '.'}"
