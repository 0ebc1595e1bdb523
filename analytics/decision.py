"""From evidence to a recommendation, by written rules, in this order:

1. invalid: the sample ratio is broken (e-process, gate 1000): the arms do not hold comparable units.
2. rollback: a guardrail is established worse than its margin (one-sided, always valid).
3. keep_running: too few units per arm, too few hours, a design that this report does not judge, or so many units in
   several arms (left out, and not at random: only who comes back can be) that the rest is no fair sample.
4. keep_running: the better arm was also served noticeably faster, so that speed could explain the effect.
5. ship: the primary metric is established better (always valid, alpha shared over the arms; p-value, interval and
   posterior agree) and no guardrail stands beyond its margin.
6. stop: every arm is established worse, or the planned units are reached without an established gain.
7. keep_running otherwise.

Only always-valid evidence decides, so reading the report every hour does not raise the error rate above alpha.
"""

from collections.abc import Mapping, Sequence

from analytics.checks import Checks
from analytics.experiment import Experiment
from analytics.report.schema import Comparison, Decision, MetricReport
from analytics.report.words import arms_of, interval, number, percent, plural, signed

# The asymptotics need a sample; below this nothing is established, whatever `minimum_units` says.
SMALLEST_SAMPLE = 30
MOST_IN_SEVERAL_ARMS = 0.10


def decide(
    experiment: Experiment,
    metrics: Sequence[MetricReport],
    checks: Checks,
    units: Mapping[str, int],
    hours: float,
    weight_changes: int = 0,
    warnings: Sequence[str] = (),
) -> Decision:
    """The recommendation. `units` exposed per arm; `hours` since the start; `weight_changes`: how often the weights moved;
    `warnings` are risks found elsewhere."""
    risks = [*warnings, *_risks(experiment, metrics, checks, weight_changes)]
    primary = next((m for m in metrics if m.role == "primary"), None)
    if not checks.srm.ok:
        return Decision(action="invalid", arm=None, reason=_mismatch(checks), risks=risks)
    broken = [(m, c) for m in metrics for c in m.comparisons if c.ok is False and _large_enough(c, m)]
    if broken:
        metric, comparison = max(broken, key=lambda pair: abs(pair[1].difference.value or 0.0) / (abs(_mean(pair[0], pair[1].vs)) or 1.0))
        return Decision(action="rollback", arm=comparison.arm, reason=_breach(metric, comparison), risks=risks)

    def keep(reason: str) -> Decision:
        return Decision(action="keep_running", arm=None, reason=reason, risks=risks)

    needed = max(experiment.minimum_units, SMALLEST_SAMPLE)
    fewest = min(experiment.arms, key=lambda arm: units.get(arm, 0))
    if units.get(fewest, 0) < needed:
        return keep(f"Arm {fewest!r} has {plural(units.get(fewest, 0), 'unit')}; nothing is judged before every arm has {needed}.")
    if hours < experiment.minimum_hours:
        return keep(f"The experiment has run {hours:.1f} of at least {experiment.minimum_hours:g} hours.")
    if experiment.design != "ab":
        return keep(
            f'The design is {experiment.design!r}; this report judges only "ab", since the shares of the others move with the outcome.'
        )
    if checks.exposure.multiple_exposure_share > MOST_IN_SEVERAL_ARMS:
        several = f"{plural(checks.exposure.multiple_exposure, 'unit')} ({checks.exposure.multiple_exposure_share:.0%})"
        return keep(
            f"{several} saw more than one arm and are left out; who is left is no fair sample. Keep the weights still, or start afresh."
        )
    if primary is None or not primary.comparisons:
        return keep(f"The primary metric {experiment.primary!r} has no data yet.")
    return _judge(experiment, primary, metrics, checks, sum(units.values()), risks)


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
            doubt = _speed_doubt(primary, comparison, checks, slower=True)
            if doubt is not None:
                return Decision(action="keep_running", arm=None, reason=doubt, risks=risks)
        worst = max(worse, key=lambda c: abs(c.difference.value or 0.0))
        return Decision(action="stop", arm=worst.arm, reason=_sentence(primary, worst), risks=risks)
    best = max(primary.comparisons, key=lambda c: (c.difference.value or 0.0) * (1 if primary.direction == "up" else -1))
    if total >= experiment.planned_units:
        reason = f"All {experiment.planned_units} planned units are in ({total}) and no gain is established. {_sentence(primary, best)}"
        return Decision(action="stop", arm=None, reason=reason, risks=risks)
    return Decision(action="keep_running", arm=None, reason=f"{_sentence(primary, best)} {_progress(total, experiment)}", risks=risks)


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
    return _speed_doubt(primary, comparison, checks, slower=False)


def _speed_doubt(primary: MetricReport, comparison: Comparison, checks: Checks, *, slower: bool) -> str | None:
    """Faster pictures please by themselves: a win of a faster arm, or a loss of a slower one, may be the latency's."""
    gap = checks.latency_gap.arms.get(comparison.arm)
    if gap is None or comparison.arm not in checks.latency_gap.felt or (gap > 0) != slower:
        return None
    return (
        f"{_sentence(primary, comparison)} But it was served {abs(gap):.0f} ms {'slower' if slower else 'faster'} than {comparison.vs!r}, "
        "which could explain the effect: serve the arms alike, then judge."
    )


def _sentence(metric: MetricReport, comparison: Comparison) -> str:
    """`'vivid' changes like_rate by +23.4% against 'base' (12.3% vs 10.0%; …).`"""
    sequence, relative = comparison.always_valid, comparison.relative
    arm, vs = _mean(metric, comparison.arm), _mean(metric, comparison.vs)
    means = f"{number(arm, metric.kind)} against {number(vs, metric.kind)}"
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


def comparison_p(p: float) -> str:
    """A p-value for a sentence."""
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


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
    p = "" if srm.p_value is None else f", chi-square p = {comparison_p(srm.p_value)}"
    return (
        f"The arms do not hold the units that their weights promise: {found}{stray} (e-value {srm.e_value:.3g}{p}). "
        "Find the cause; no number here can be trusted."
    )


def _large_enough(comparison: Comparison, metric: MetricReport) -> bool:
    sizes = {arm.arm: arm.n for arm in metric.arms}
    return min(sizes.get(comparison.arm, 0), sizes.get(comparison.vs, 0)) >= SMALLEST_SAMPLE


def _mean(metric: MetricReport, arm: str) -> float:
    return next((a.mean for a in metric.arms if a.arm == arm and a.mean is not None), 0.0)


def _progress(total: int, experiment: Experiment) -> str:
    return f"{total} of {experiment.planned_units} planned units are in; keep running."


def _risks(experiment: Experiment, metrics: Sequence[MetricReport], checks: Checks, weight_changes: int) -> list[str]:
    risks = list(checks.exposure.problems)
    gap = checks.latency_gap
    if gap.felt:
        risks.append(f"{arms_of(gap.felt)} served at another speed than the control (up to {gap.ms or 0.0:+.0f} ms on average).")
    if checks.bots.flagged_share > 0.05:
        fate = "counted here all the same" if checks.bots.counted else "left out"
        risks.append(f"{checks.bots.flagged_share:.0%} of the events are flagged as suspicious and {fate}.")
    if checks.exposure.generations_without_exposure:
        risks.append(f"{plural(checks.exposure.generations_without_exposure, 'generation')} came without an exposure.")
    if weight_changes:
        risks.append(
            f"The weights changed {plural(weight_changes, 'time')}: arms hold units of different days, and a trend in the metric can "
            "look like an effect."
        )
    if checks.srm.p_value is not None and checks.srm.p_value < 0.001 and checks.srm.ok:
        risks.append(f"Sample ratio: chi-square p = {comparison_p(checks.srm.p_value)}, e-value {checks.srm.e_value:.3g}; watch it.")
    for metric in metrics:
        unknown = [c.arm for c in metric.comparisons if metric.role == "guardrail" and c.ok is None]
        if unknown:
            risks.append(f"Guardrail {metric.metric} is not yet shown to hold for {arms_of(unknown)}.")
    return risks
