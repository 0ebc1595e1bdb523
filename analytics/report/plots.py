"""Plots of values: lifts with their intervals, arm means, units against weights, the effect by day of life."""

import math
from collections.abc import Sequence
from html import escape

import msgspec

from analytics.checks import SampleRatio
from analytics.inference.contrast import Interval
from analytics.inference.tails import two_sided_critical
from analytics.report.schema import AgePoint, Breakdown, Comparison, MetricReport
from analytics.report.svg import Axis, axis_of, bar, dot, line, svg, upright
from analytics.report.words import number, plural, signed

ROW = 40
# A hopelessly wide interval must not squeeze the others: the axis ends here (as a lift), and the line runs out of it.
WIDEST = 3.0
NO_LIFT = '<p class="quiet">No lift can be computed yet.</p>'


class Lift(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a forest plot. `margin` as it stands on the axis of lifts."""

    name: str
    below: str
    comparison: Comparison
    margin: float | None = None


def forest(metrics: Sequence[MetricReport]) -> str:
    """Every lift: dot, thick line (one look), thin line (any look), dashed guardrail margin."""
    return _forest(
        [
            Lift(
                name=metric.metric,
                below=f"{comparison.arm} · {metric.role}",
                comparison=comparison,
                margin=None if metric.margin is None else metric.margin if metric.direction == "down" else -metric.margin,
            )
            for metric in metrics
            for comparison in metric.comparisons
        ]
    )


def slices(breakdown: Breakdown) -> str:
    """The lift in every slice of a dimension."""
    return _forest(
        [
            Lift(name=one.value, below=f"{comparison.arm} · {plural(sum(one.units.values()), 'unit')}", comparison=comparison)
            for one in breakdown.slices
            for comparison in one.comparisons
        ]
    )


def _forest(lifts: Sequence[Lift]) -> str:
    rows = [row for row in lifts if row.comparison.relative.value is not None]
    if not rows:
        return NO_LIFT
    numbers = []
    for row in rows:
        c = row.comparison
        numbers += [c.relative.value or 0.0, *_ends(c.relative.ci), *([row.margin] if row.margin is not None else [])]
        numbers += [end for end in _ends(_sequence(c)) if abs(end) < 1.0]
    axis = axis_of(numbers, widest=WIDEST)
    drawn = []
    for row in rows:
        c, y = row.comparison, ROW / 2
        parts = _grid(axis, ROW)
        if row.margin is not None:
            parts.append(upright(axis.across(row.margin), y - 15, y + 15, "dash"))
        for ends, name in ((_ends(_sequence(c)), "thin"), (_ends(c.relative.ci), "thick")):
            if ends:
                parts.append(line(axis.across(ends[0]), y, axis.across(ends[1]), y, name))
        parts.append(dot(axis.across(c.relative.value or 0.0), y, 6, "dot"))
        label = f"{row.name}, {row.below}: {signed(c.relative.value)}"
        drawn.append(_row(row.name, row.below, svg(ROW, label, parts), signed(c.relative.value)))
    ticks = axis.labels(16, lambda tick: _percent(tick, axis))
    return f'<div class="rows">{"".join(drawn)}{_row("", "", svg(22, "scale", ticks), "")}</div>'


def means(metric: MetricReport) -> str:
    """The metric's value in each arm, with a 95% interval of that arm alone."""
    arms = [a for a in metric.arms if a.mean is not None]
    if not arms:
        return '<p class="quiet">No data yet.</p>'
    halves = [two_sided_critical(0.05) * a.sd / math.sqrt(a.n) if a.sd is not None and a.n else 0.0 for a in arms]
    values = [a.mean or 0.0 for a in arms]
    axis = axis_of([v + side * h for v, h in zip(values, halves, strict=True) for side in (-1, 1)])
    drawn = []
    for arm, value, half in zip(arms, values, halves, strict=True):
        control = all(c.arm != arm.arm for c in metric.comparisons)
        parts = [
            bar(axis.at(0.0), axis.at(value), ROW / 2, 20, "base" if control else "bar"),
            line(axis.across(value - half), ROW / 2, axis.across(value + half), ROW / 2, "whisker"),
        ]
        shown = number(value, metric.kind)
        drawn.append(_row(arm.arm, "", svg(ROW, f"{arm.arm}: {shown}", parts), shown))
    return f'<div class="rows narrow">{"".join(drawn)}</div>'


def ratio(srm: SampleRatio) -> str:
    """Units per arm as bars, with a mark at the number expected."""
    axis = axis_of([*srm.units.values(), *srm.expected.values()])
    drawn = []
    for arm, n in srm.units.items():
        mark = axis.across(srm.expected[arm])
        parts = [bar(axis.at(0.0), axis.at(n), ROW / 2, 20, "base"), upright(mark, 4, ROW - 4, "mark")]
        drawn.append(_row(arm, "", svg(ROW, f"{arm}: {plural(n, 'unit')}", parts), f"{n:,}"))
    return f'<div class="rows narrow">{"".join(drawn)}</div>'


def ages(points: Sequence[AgePoint]) -> str:
    """The lift by day of life, one row a day and arm, with its interval."""
    known = [(p, arm, lift) for p in points for arm, lift in p.lift.items() if lift is not None]
    if not known:
        return NO_LIFT
    axis = axis_of([lift for *_, lift in known] + [end for p, arm, _ in known for end in _ends(p.ci[arm])], widest=WIDEST)
    several = len({arm for _, arm, _ in known}) > 1
    drawn = []
    for point, arm, lift in known:
        ends, parts = _ends(point.ci[arm]), _grid(axis, 28)
        if ends:
            parts.append(line(axis.across(ends[0]), 14, axis.across(ends[1]), 14, "thick"))
        parts.append(dot(axis.across(lift), 14, 5, "dot"))
        name = f"day {point.day + 1}" + (f" · {arm}" if several else "")
        drawn.append(_row(name, plural(sum(point.units.values()), "unit"), svg(28, f"{name}: {signed(lift)}", parts), signed(lift)))
    ticks = axis.labels(16, lambda tick: _percent(tick, axis))
    return f'<div class="rows tight">{"".join(drawn)}{_row("", "", svg(22, "scale", ticks), "")}</div>'


def _row(name: str, below: str, drawing: str, value: str) -> str:
    small = f'<span class="quiet">{escape(below)}</span>' if below else ""
    return f'<div class="row"><div class="name">{escape(name)}{small}</div>{drawing}<div class="value">{escape(value)}</div></div>'


def _grid(axis: Axis, height: float) -> list[str]:
    return [upright(axis.across(tick), 0, height, "zero" if tick == 0 else "axis") for tick in axis.ticks()]


def _percent(tick: float, axis: Axis) -> str:
    return f"{tick * 100:+.{0 if axis.high - axis.low >= 0.05 else 1}f}%" if tick else "0"


def _sequence(comparison: Comparison) -> Interval:
    return comparison.always_valid.relative_ci if comparison.always_valid else (None, None)


def _ends(interval: Interval) -> list[float]:
    return [end for end in interval if end is not None]
