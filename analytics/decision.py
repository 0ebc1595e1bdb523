"""From evidence to a recommendation, by written rules, in this order:

1. invalid: the sample ratio is broken (e-process, gate 1000): the arms do not hold comparable units.
2. rollback: a guardrail is established worse than its margin (one-sided, always valid). An arm that was rolled back, and gets no
   units any more while others do, is a risk from then on, and no candidate to ship.
3. keep_running: too few units per arm, fewer hours than the declared minimum, or, where people are split, so many units in
   several arms (left out, and not at random: only who comes back can be) that the rest is no fair sample.
4. keep_running: something else could explain the effect: the better arm was also served noticeably faster, or its units did
   better already before they were exposed (for an arm that is worse: slower, or worse before).
5. ship: the primary metric is established better (always valid, alpha shared over the arms; p-value, interval and
   posterior agree) and no guardrail stands beyond its margin.
6. stop: every arm is established worse, or the planned units are reached without an established gain.
7. keep_running otherwise.

Only always-valid evidence decides, so reading the report every hour does not raise the error rate above alpha. Planned looks
(group-sequential bounds), breakdowns, novelty and the other checks inform: they are risks, and none changes the action.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from analytics.checks import Checks, SampleRatio
from analytics.checks.pre_period import PRE_PERIOD_ALPHA
from analytics.designs import judged_noun, planned_units
from analytics.experiment import Experiment
from analytics.report.schema import Comparison, Decision, MetricReport
from analytics.report.words import arms_of, interval, number, percent, plural, signed
from analytics.risks import comparison_p, risks_of
from analytics.risks import established as established

# The asymptotics need a sample; below this nothing is established, whatever `minimum_units` says.
SMALLEST_SAMPLE = 30
MOST_IN_SEVERAL_ARMS = 0.10
HOURS_PER_WEEK = 168.0


def decide(
    experiment: Experiment,
    metrics: Sequence[MetricReport],
    checks: Checks,
    units: Mapping[str, int],
    hours: float,
    weight_changes: int = 0,
    warnings: Sequence[str] = (),
    retired: Collection[str] = (),
    people: int | None = None,
) -> Decision:
    """The recommendation. `units` exposed per arm that is judged; `hours` since the start; `weight_changes`: how often the weights moved;
    `warnings` are risks found elsewhere; `retired`: arms whose weight is 0 now; `people`: all units, where one compares several arms."""
    total = sum(units.values()) if people is None else people
    risks = [*warnings, *risks_of(experiment, metrics, checks, weight_changes, total)]
    primary = next((m for m in metrics if m.role == "primary"), None)
    if not checks.srm.ok:
        return Decision(action="invalid", arm=None, reason=_mismatch(checks), risks=risks)
    broken = [(m, c) for m in metrics for c in m.comparisons if c.ok is False and _large_enough(c, m)]
    if set(experiment.arms) - {experiment.control, *retired}:
        out = {c.arm: m for m, c in broken if c.arm in retired}
        broken = [(m, c) for m, c in broken if c.arm not in out]
        risks += [f"Guardrail {m.metric} is worse than its margin for {arm!r}, which gets no units any more." for arm, m in out.items()]
        if primary is not None:
            primary = msgspec.structs.replace(primary, comparisons=[c for c in primary.comparisons if c.arm not in out])
    if broken:
        metric, comparison = max(broken, key=lambda pair: abs(pair[1].difference.value or 0.0) / (abs(_mean(pair[0], pair[1].vs)) or 1.0))
        return Decision(action="rollback", arm=comparison.arm, reason=_breach(metric, comparison), risks=risks)

    def keep(reason: str) -> Decision:
        return Decision(action="keep_running", arm=None, reason=reason, risks=risks)

    needed = max(experiment.minimum_units, SMALLEST_SAMPLE)
    fewest = min(units or experiment.arms, key=lambda arm: units.get(arm, 0))
    if units.get(fewest, 0) < needed:
        return keep(
            f"Arm {fewest!r} has {plural(units.get(fewest, 0), judged_noun(experiment))}; nothing is judged before every arm has {needed}."
        )
    if hours < experiment.minimum_hours:
        return keep(f"The experiment has run {hours:.1f} of at least {experiment.minimum_hours:g} hours.")
    if experiment.design == "ab" and checks.exposure.multiple_exposure_share > MOST_IN_SEVERAL_ARMS:
        several = f"{plural(checks.exposure.multiple_exposure, 'unit')} ({checks.exposure.multiple_exposure_share:.0%})"
        return keep(
            f"{several} saw more than one arm and are left out; who is left is no fair sample. Keep the weights still, or start afresh."
        )
    if primary is None or not primary.comparisons:
        return keep(f"The primary metric {experiment.primary!r} has no data yet.")
    decision = _judge(experiment, primary, metrics, checks, total, risks)
    if decision.action == "ship" and hours < HOURS_PER_WEEK:
        week = f"The experiment has run {hours / 24:.1f} days, not a whole week: people of other weekdays may like other things."
        return msgspec.structs.replace(decision, risks=[*decision.risks, week])
    return decision


def _judge(
    experiment: Experiment, primary: MetricReport, metrics: Sequence[MetricReport], checks: Checks, total: int, risks: list[str]
) -> Decision:
    sides = {c.arm: established(c, primary.direction) for c in primary.comparisons}
    better = sorted(
        (c for c in primary.comparisons if sides[c.arm] == "better"), key=lambda c: abs(c.difference.value or 0.0), reverse=True
    )
    doubts = []
    for comparison in better:
        doubt = _doubt(primary, comparison, metrics, checks)
        if doubt is None:
            others = [c.arm for c in better if c.arm != comparison.arm]
            if others:
                risks = [*risks, f"{arms_of(others)} also beat the control; {comparison.arm!r} is not shown to beat them."]
            return Decision(action="ship", arm=comparison.arm, reason=_sentence(primary, comparison), risks=risks)
        doubts.append(doubt)
    if doubts:
        return Decision(action="keep_running", arm=None, reason=doubts[0], risks=risks)
    worse = [c for c in primary.comparisons if sides[c.arm] == "worse"]
    if len(worse) == len(primary.comparisons):
        for comparison in worse:
            doubt = _speed_doubt(primary, comparison, checks, slower=True) or _past_doubt(primary, comparison, checks, better=False)
            if doubt is not None:
                return Decision(action="keep_running", arm=None, reason=doubt, risks=risks)
        worst = max(worse, key=lambda c: abs(c.difference.value or 0.0))
        return Decision(action="stop", arm=worst.arm, reason=_sentence(primary, worst), risks=risks)
    best = max(primary.comparisons, key=lambda c: (c.difference.value or 0.0) * (1 if primary.direction == "up" else -1))
    if total >= planned_units(experiment):
        planned = f"All {planned_units(experiment)} planned {judged_noun(experiment)}s are in ({total})"
        reason = f"{planned} and no gain is established. {_sentence(primary, best)}"
        return Decision(action="stop", arm=None, reason=reason, risks=risks)
    return Decision(action="keep_running", arm=None, reason=f"{_sentence(primary, best)} {_progress(total, experiment)}", risks=risks)


def _doubt(primary: MetricReport, comparison: Comparison, metrics: Sequence[MetricReport], checks: Checks) -> str | None:
    """Why an established gain is not enough."""
    for metric in metrics:
        for guarded in metric.comparisons:
            if metric.role != "guardrail" or guarded.arm != comparison.arm or metric.margin is None or guarded.ok:
                continue
            value = guarded.relative.value
            harm = None if value is None else value if metric.direction == "down" else -value
            if harm is not None and harm > metric.margin:
                return (
                    f"{_sentence(primary, comparison)} But guardrail {metric.metric} stands at {signed(value)} against a margin of "
                    f"{percent(metric.margin)}, not yet established either way."
                )
    return _speed_doubt(primary, comparison, checks, slower=False) or _past_doubt(primary, comparison, checks, better=True)


def _speed_doubt(primary: MetricReport, comparison: Comparison, checks: Checks, *, slower: bool) -> str | None:
    """Faster pictures please by themselves: a win of a faster arm, or a loss of a slower one, may be the latency's."""
    gap = checks.latency_gap.arms.get(comparison.arm)
    if gap is None or comparison.arm not in checks.latency_gap.felt or (gap > 0) != slower:
        return None
    return (
        f"{_sentence(primary, comparison)} But it was served {abs(gap):.0f} ms {'slower' if slower else 'faster'} than {comparison.vs!r}, "
        "which could explain the effect: serve the arms alike, then judge."
    )


def _past_doubt(primary: MetricReport, comparison: Comparison, checks: Checks, *, better: bool) -> str | None:
    """Units that did better before they met the arm may do better for reasons of their own."""
    gap = checks.pre_period.differences.get(comparison.arm)
    if gap is None or checks.pre_period.p_values[comparison.arm] >= PRE_PERIOD_ALPHA:
        return None
    if ((gap > 0) == (primary.direction == "up")) != better:
        return None
    return (
        f"{_sentence(primary, comparison)} But its units did {'better' if better else 'worse'} already in the "
        f"{checks.pre_period.days:g} days before exposure, which could explain the effect: find out why the arms differed."
    )


def _sentence(metric: MetricReport, comparison: Comparison) -> str:
    """`'vivid' changes like_rate by +23.4% against 'base' (12.3% vs 10.0%; …).`"""
    sequence, relative = comparison.always_valid, comparison.relative
    arm, vs = _mean(metric, comparison.arm), _mean(metric, comparison.vs)
    means = f"{number(arm, metric.kind)} against {number(vs, metric.kind)}"
    if metric.kind == "preference":
        means = f"net preference; {percent((1 + (comparison.difference.value or 0.0)) / 2)} of the votes between the two"
    if comparison.method.startswith("within "):
        # The lift is put together from its parts and is not that of the two means.
        means = f"{comparison.method.partition(';')[0]}; {means} over all"
    if sequence is None or comparison.difference.value is None:
        return f"{comparison.arm!r} and {comparison.vs!r} cannot be compared on {metric.metric} yet ({comparison.method})."
    if relative.value is not None and sequence.relative_ci[0] is not None:
        effect, span = signed(relative.value), interval(sequence.relative_ci)
    else:
        effect = f"{comparison.difference.value:+.4g}"
        span = interval(sequence.difference_ci, relative=False)
    verdict = {"better": "is better than", "worse": "is worse than", None: "is not told apart from"}[
        established(comparison, metric.direction)
    ]
    return (
        f"On {metric.metric} {comparison.arm!r} {verdict} {comparison.vs!r}: {effect} ({means}), "
        f"at any look between {span}, p = {comparison_p(sequence.p_value)}."
    )


def _breach(metric: MetricReport, comparison: Comparison) -> str:
    change = signed(comparison.relative.value) if comparison.relative.value is not None else f"{comparison.difference.value or 0.0:+.4g}"
    return (
        f"Guardrail {metric.metric} is worse than its margin for {comparison.arm!r}: {change} against {comparison.vs!r} "
        f"({number(_mean(metric, comparison.arm), metric.kind)} vs {number(_mean(metric, comparison.vs), metric.kind)}), "
        f"where at most {percent(metric.margin or 0.0)} is allowed; this holds at any look."
    )


def _mismatch(checks: Checks) -> str:
    srm = checks.srm
    found = ", ".join(f"{arm!r} {n} of {srm.expected[arm]:.0f} expected" for arm, n in srm.units.items())
    stray = f"; {srm.stray_units} units got an arm of weight 0" if srm.stray_units else ""
    p = "" if srm.p_value is None else f", chi-square p = {_tiny_p(srm)}"
    return (
        f"The arms do not hold the units that their weights promise: {found}{stray} (e-value {srm.e_value:.3g}{p}). "
        "Find the cause; no number here can be trusted."
    )


def _tiny_p(srm: SampleRatio) -> str:
    """As a power of ten where a double holds no digits of it."""
    far = srm.log10_p_value is not None and srm.log10_p_value < -300
    return f"10^{srm.log10_p_value:.0f}" if far else comparison_p(srm.p_value or 0.0)


def _large_enough(comparison: Comparison, metric: MetricReport) -> bool:
    sizes = {arm.arm: arm.n for arm in metric.arms}
    return min(sizes.get(comparison.arm, 0), sizes.get(comparison.vs, 0)) >= SMALLEST_SAMPLE


def _mean(metric: MetricReport, arm: str) -> float:
    return next((a.mean for a in metric.arms if a.arm == arm and a.mean is not None), 0.0)


def _progress(total: int, experiment: Experiment) -> str:
    return f"{total} of {planned_units(experiment)} planned {judged_noun(experiment)}s are in; keep running."
