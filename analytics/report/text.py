"""The report on a terminal: decision first, then the evidence, at most 100 columns."""

from collections.abc import Mapping, Sequence

from analytics.report.adaptive import adaptive_lines
from analytics.report.board import board_lines
from analytics.report.check_lines import check_lines
from analytics.report.columns import table, wrap
from analytics.report.position import position_lines
from analytics.report.preference import preference_lines
from analytics.report.schema import Comparison, MetricReport, Report
from analytics.report.switchback import switchback_lines
from analytics.report.text_views import breakdowns, course, history, methods, novelty
from analytics.report.words import chance, number, p_value, percent, plural, signed, span

__all__ = ["VERDICTS", "age", "check_lines", "metric_lines", "plain_verdict", "read_lines", "table", "to_text", "verdict", "wrap"]
VERDICTS = {
    "keep_running": "KEEP RUNNING",
    "ship": "SHIP",
    "stop": "STOP",
    "rollback": "ROLL BACK",
    "invalid": "INVALID",
}


def to_text(report: Report) -> str:
    """The report as text, ending in a newline."""
    parts = [
        _head(report),
        _arms(report),
        metric_lines(report.metrics, _control(report)),
        adaptive_lines(report.adaptive),
        preference_lines(report.preference),
        board_lines(report.board),
        switchback_lines(report.switchback),
        position_lines(report.position),
        course(report),
        breakdowns(report),
        novelty(report),
        _checks(report),
        history(report),
        _notes(report),
        methods(report),
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def verdict(report: Report) -> str:
    """`SHIP vivid`."""
    decision = report.decision
    return VERDICTS[decision.action] + (f" {decision.arm}" if decision.arm else "")


def plain_verdict(report: Report) -> str:
    """What to do, for somebody who reads nothing else."""
    arm = report.decision.arm
    if report.decision.action == "stop":
        return f"{arm} is worse than the control: end it." if arm else "No gain showed in the units that were planned: keep the control."
    return {
        "ship": f"Give {arm} to everybody: the gain is real, and no guardrail stands against it.",
        "rollback": f"Take {arm} away now: it harms what you guard.",
        "invalid": "Use none of these numbers: the arms do not hold the units that they should.",
        "keep_running": "Leave it as it is: nothing can be decided yet.",
    }[report.decision.action]


def age(report: Report) -> str:
    """`running for 2 days`, or that it has not started."""
    if report.started_at is None:
        return "no unit has been exposed yet"
    hours = (report.as_of - report.started_at).total_seconds() / 3600
    return f"started {report.started_at:%Y-%m-%d %H:%M} UTC, {hours:.1f} hours ago" if hours < 48 else f"running for {hours / 24:.1f} days"


def _head(report: Report) -> list[str]:
    route = f" on route {report.route}" if report.route else ""
    lines = [f"{report.experiment}{route} ({report.design})", f"{age(report)}; as of {report.as_of:%Y-%m-%d %H:%M} UTC"]
    if report.events_read:
        lines.append(read_lines(report))
    if report.flagged == "included":
        lines.append("flagged events are counted in this report")
    lines += ["", f"  ▶ {verdict(report)}", *wrap(plain_verdict(report), "    "), *wrap(report.decision.reason, "    ")]
    for risk in report.decision.risks:
        lines += wrap(risk, "    ! ", "      ")
    return lines


def read_lines(report: Report) -> str:
    """`1,234 events, the latest received 2026-11-23 12:00 UTC, 3 of them late`."""
    latest = f", the latest received {report.data_as_of:%Y-%m-%d %H:%M} UTC" if report.data_as_of else ""
    late = f", {report.late_events:,} of them late" if report.late_events else ""
    return f"{plural(report.events_read, 'event')}{latest}{late}"


def _arms(report: Report) -> list[str]:
    known = any(arm.generations or arm.latency_ms.p50 is not None for arm in report.arms)
    header = ["arm", "weight", "units", *(["requests", "images", "failed", "p50 ms", "p95 ms"] if known else [])]
    rows = []
    for arm in report.arms:
        row = [arm.arm + (" (control)" if arm.control else ""), percent(arm.weight), f"{arm.units:,}"]
        if known:
            row += [
                f"{arm.generations:,}",
                f"{arm.images:,}",
                f"{arm.failures:,}",
                number(arm.latency_ms.p50, "mean"),
                number(arm.latency_ms.p95, "mean"),
            ]
        rows.append(row)
    return ["", "Arms", *table(header, rows)]


def metric_lines(metrics: Sequence[MetricReport], control: str) -> list[str]:
    """A table per metric: the control, then every other arm against it. "At any look" only where it was computed."""
    lines = []
    for metric in metrics:
        better = "higher is better" if metric.direction == "up" else "lower is better"
        margin = f", margin {percent(metric.margin)}" if metric.margin is not None else ""
        lines += ["", f"{metric.metric}: {metric.role}, {metric.kind}, {better}{margin}"]
        values = {arm.arm: number(arm.mean, metric.kind) for arm in metric.arms}
        sequential = any(c.always_valid for c in metric.comparisons)
        header = [
            "arm",
            "value",
            "lift",
            f"{_level(metric)} interval",
            "at any look" if sequential else "",
            "p any look" if sequential else "p",
        ]
        rows = [[control, values.get(control, "–"), "", "", "", "", "", ""], *(_row(metric, c, values) for c in metric.comparisons)]
        lines += table([*header, "P(better)", ""], rows)
        lines += [line for c in metric.comparisons if c.p_value is None for line in wrap(f"{c.arm}: {c.method}", "    ")]
        reduced = [f"{c.arm} {c.variance_reduction:.0%}" for c in metric.comparisons if c.variance_reduction is not None]
        lines += wrap(f"variance taken out by CUPED: {', '.join(reduced)}", "    ") if reduced else []
    return lines


def _control(report: Report) -> str:
    return next(arm.arm for arm in report.arms if arm.control)


def _level(metric: MetricReport) -> str:
    levels = {f"{c.ci_level * 100:.3g}%" for c in metric.comparisons}
    return levels.pop() if len(levels) == 1 else "Holm"


def _row(metric: MetricReport, comparison: Comparison, values: Mapping[str, str]) -> list[str]:
    sequence = comparison.always_valid
    lift, interval, anytime = (
        signed(comparison.relative.value),
        span(comparison.relative.ci),
        span(sequence.relative_ci) if sequence else "",
    )
    if comparison.relative.value is None and comparison.difference.value is not None:
        lift, interval = f"{comparison.difference.value:+.3g}", _absolute(comparison.difference.ci)
        anytime = _absolute(sequence.difference_ci) if sequence else ""
    mark = {True: "holds", False: "BROKEN", None: "open"}[comparison.ok] if metric.role == "guardrail" else ""
    p = p_value(sequence.p_value if sequence else comparison.adjusted_p_value)
    better = chance(comparison.bayes.prob_better if comparison.bayes else None)
    return [comparison.arm, values.get(comparison.arm, "–"), lift, interval, anytime, p, better, mark]


def _absolute(ci: tuple[float | None, float | None]) -> str:
    return "unbounded" if ci[0] is None or ci[1] is None else f"[{ci[0]:+.3g}, {ci[1]:+.3g}]"


def _checks(report: Report) -> list[str]:
    lines = ["", "Checks"]
    for name, ok, text in check_lines(report):
        lines += wrap(text, f"  {'✓' if ok else '✗'} {name:<13}", " " * 17)
    return lines


def _notes(report: Report) -> list[str]:
    lines = ["", "How to read this"]
    for note in report.method_notes:
        lines += wrap(note, "  - ", "    ")
    return lines
