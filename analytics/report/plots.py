"""Plots as inline SVG: lifts with their intervals, arm means, units against weights."""

import math
from collections.abc import Sequence
from html import escape

from analytics.checks import SampleRatio
from analytics.inference.tails import two_sided_critical
from analytics.report.schema import MetricReport
from analytics.report.words import number, signed

WIDTH, LEFT, RIGHT, ROW = 920, 230, 150, 46
# A hopelessly wide interval must not squeeze the others: the axis ends here (as a lift), and the line runs out of it.
WIDEST = 3.0


def forest(metrics: Sequence[MetricReport]) -> str:
    """Every lift: dot, thick line (one look), thin line (any look), dashed guardrail margin."""
    rows = [(m, c) for m in metrics for c in m.comparisons if c.relative.value is not None]
    if not rows:
        return '<p class="quiet">No lift can be computed yet.</p>'
    numbers = [0.0]
    for metric, c in rows:
        numbers += [c.relative.value or 0.0, *(x for x in c.relative.ci if x is not None), *([metric.margin] if metric.margin else [])]
        numbers += [x for x in (c.always_valid.relative_ci if c.always_valid else ()) if x is not None and abs(x) < 1.0]
    low, high = max(min(numbers), -WIDEST), min(max(numbers), WIDEST)
    pad = 0.06 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        share = (value - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))

    height = ROW * len(rows) + 34
    parts = [_svg(height, "Lifts with intervals")]
    step = _step(high - low)
    for tick in range(math.ceil(low / step), math.floor(high / step) + 1):
        at = x(tick * step)
        parts.append(_line(at, 4, at, height - 28, "zero" if tick == 0 else "axis"))
        parts.append(_text(at, height - 8, f"{tick * step * 100:+.{0 if step >= 0.01 else 1}f}%" if tick else "0", "q", "middle"))
    for i, (metric, c) in enumerate(rows):
        y = ROW * i + ROW / 2 + 4
        parts.append(_text(0, y - 2, metric.metric, "", "start"))
        parts.append(_text(0, y + 14, f"{c.arm} · {metric.role}", "q", "start"))
        if metric.margin is not None:
            edge = x(metric.margin if metric.direction == "down" else -metric.margin)
            parts.append(_line(edge, y - 15, edge, y + 15, "dash"))
        for ends, name in (((c.always_valid.relative_ci if c.always_valid else (None, None)), "thin"), (c.relative.ci, "thick")):
            if ends[0] is not None and ends[1] is not None:
                parts.append(_line(x(ends[0]), y, x(ends[1]), y, name))
        parts.append(f'<circle class="dot" cx="{x(c.relative.value or 0.0):.1f}" cy="{y:.1f}" r="6"/>')
        parts.append(_text(WIDTH, y + 5, signed(c.relative.value), "", "end"))
    return "".join([*parts, "</svg>"])


def means(metric: MetricReport) -> str:
    """The metric's value in each arm, with a 95% interval of that arm alone."""
    arms = [a for a in metric.arms if a.mean is not None]
    if not arms:
        return '<p class="quiet">No data yet.</p>'
    halves = [two_sided_critical(0.05) * a.sd / math.sqrt(a.n) if a.sd is not None and a.n else 0.0 for a in arms]
    values = [a.mean or 0.0 for a in arms]
    low = min(0.0, *(v - h for v, h in zip(values, halves, strict=True)))
    high = max(0.0, *(v + h for v, h in zip(values, halves, strict=True)))
    width, left, right = 440, 110, 70

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / ((high - low) or 1.0)

    parts = [_svg(ROW * len(arms) + 8, f"{metric.metric} per arm", width)]
    for i, (arm, value, half) in enumerate(zip(arms, values, halves, strict=True)):
        y = ROW * i + ROW / 2 + 4
        control = all(c.arm != arm.arm for c in metric.comparisons)
        start, end = sorted((x(0.0), x(value)))
        parts.append(_text(0, y + 5, arm.arm, "", "start"))
        parts.append(
            f'<rect class="{"base" if control else "bar"}" x="{start:.1f}" y="{y - 11:.1f}" width="{end - start:.1f}" height="22" rx="4"/>'
        )
        parts.append(_line(x(value - half), y, x(value + half), y, "whisker"))
        parts.append(_text(width, y + 5, number(value, metric.kind), "", "end"))
    return "".join([*parts, "</svg>"])


def ratio(srm: SampleRatio) -> str:
    """Units per arm as bars, with a mark at the number expected."""
    most = max([*srm.units.values(), *srm.expected.values(), 1.0])
    width, left, right = 440, 110, 70
    parts = [_svg(ROW * len(srm.units) + 8, "Units per arm", width)]
    for i, (arm, n) in enumerate(srm.units.items()):
        y = ROW * i + ROW / 2 + 4
        scale = (width - left - right) / most
        at = left + scale * srm.expected[arm]
        parts.append(_text(0, y + 5, arm, "", "start"))
        parts.append(f'<rect class="base" x="{left}" y="{y - 11:.1f}" width="{scale * n:.1f}" height="22" rx="4"/>')
        parts.append(_line(at, y - 16, at, y + 16, "thin"))
        parts.append(_text(width, y + 5, f"{n:,}", "", "end"))
    return "".join([*parts, "</svg>"])


def _svg(height: float, label: str, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(label)}">'


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<line class="{name}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, name: str, anchor: str) -> str:
    shown = text if len(text) <= 30 else text[:29] + "…"
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(shown)}</text>'


def _step(span: float) -> float:
    """A round distance between ticks: about six of them."""
    rough = span / 6
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
