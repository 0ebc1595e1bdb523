"""Plots over days: the lift with its sequence, units that have come, the evidence against the sample ratio."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from html import escape
from itertools import pairwise

from analytics.checks import SRM_GATE
from analytics.report.schema import PathPoint
from analytics.report.svg import Axis, axis_of, band, dot, line, svg, text
from analytics.report.words import plural, signed

HEIGHT, TOP, FOOT = 230, 18, 30
COLOURS = 5
WIDEST = 3.0


def lift(points: Sequence[PathPoint], arm: str) -> str:
    """The lift of `arm` day by day in the band that holds at any look. Early bands run out of the frame: it fits the later half."""
    known = [i for i, p in enumerate(points) if p.lift.get(arm) is not None]
    if not known:
        return '<p class="quiet">No lift can be computed yet.</p>'
    late = points[len(points) // 2 :]
    numbers = [v for p in points if (v := p.lift.get(arm)) is not None and abs(v) < WIDEST]
    y = _down(axis_of([*numbers, *(end for p in late for end in p.always_valid_ci[arm] if end is not None)], widest=WIDEST))
    parts = _frame(points, y[0], y[1], lambda v: f"{v:+.0%}" if v else "0")
    bounds = [(_x(points, i), *points[i].always_valid_ci[arm]) for i in range(len(points))]
    closed = [(x, low, high) for x, low, high in bounds if low is not None and high is not None]
    if len(closed) > 1:
        parts.append(band([(x, y[1](high)) for x, _, high in closed], [(x, y[1](low)) for x, low, _ in closed], HEIGHT, "band"))
    elif closed:
        parts.append(line(_share(closed[0][0]), y[1](closed[0][1]), _share(closed[0][0]), y[1](closed[0][2]), "thin"))
    parts += _line([(_x(points, i), y[1](points[i].lift[arm] or 0.0)) for i in known], "c0")
    last = points[-1].lift.get(arm)
    return svg(HEIGHT, f"Lift of {arm} over {plural(len(points), 'day')}, now {signed(last)}", parts)


def units(points: Sequence[PathPoint]) -> str:
    """Units that have come, per arm; dashed: what the weights promised."""
    arms = list(points[-1].units)
    axis, down = _down(axis_of([n for p in points for n in (*p.units.values(), *p.expected.values())]))
    parts = _frame(points, axis, down, lambda v: f"{v:,.0f}" if v == round(v) else "")
    for k, arm in enumerate(arms):
        parts += _line([(_x(points, i), down(p.expected[arm])) for i, p in enumerate(points)], f"c{k % COLOURS} dashed", dots=False)
        parts += _line([(_x(points, i), down(p.units[arm])) for i, p in enumerate(points)], f"c{k % COLOURS}")
    last = ", ".join(f"{arm} {n:,}" for arm, n in points[-1].units.items())
    return svg(HEIGHT, f"Units per arm, now {last}", parts) + _legend(points[-1].units)


def ratio(points: Sequence[PathPoint], gate: float = SRM_GATE) -> str:
    """The e-value against the stated weights, on a scale of powers of ten, and the gate at which it is an alarm."""
    logs = [math.log10(max(p.srm_e_value, 1e-6)) for p in points]
    top = math.log10(gate)
    axis, down = _down(Axis(min(-2.0, math.floor(min(logs))), max(top + 1, math.ceil(max(logs)))))
    parts = _frame(points, axis, down, _power)
    parts.append(line("0%", down(top), "100%", down(top), "dash"))
    parts.append(text("2%", down(top) - 5, f"alarm at {gate:,.0f}", name="q alarm"))
    parts += _line([(_x(points, i), down(log)) for i, log in enumerate(logs)], "c0")
    return svg(HEIGHT, f"e-value of the sample ratio, now {points[-1].srm_e_value:.2g}", parts)


def _power(value: float) -> str:
    return f"{10**value:g}" if -4 <= value <= 4 else f"1e{value:.0f}"


def _down(axis: Axis) -> tuple[Axis, Callable[[float], float]]:
    """An axis that stands upright, and where on it a value is, in pixels."""
    return axis, lambda value: TOP + (HEIGHT - TOP - FOOT) * (1 - axis.at(value))


def _x(points: Sequence[PathPoint], index: int) -> float:
    """By the calendar: a day on which nobody came leaves a gap. A lone day stands in the middle."""
    first, days = points[0].day, (points[-1].day - points[0].day).days
    return 0.02 + 0.88 * ((points[index].day - first).days / days) if days else 0.46


def _share(x: float) -> str:
    return f"{100 * x:.2f}%"


def _frame(points: Sequence[PathPoint], axis: Axis, down: Callable[[float], float], words: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in axis.ticks(4):
        parts.append(line("0%", down(tick), "100%", down(tick), "zero" if tick == 0 else "axis"))
        parts.append(text("100%", down(tick) - 4, words(tick), "end"))
    shown = sorted({0, len(points) - 1} if len(points) < 5 else {0, len(points) // 2, len(points) - 1})
    anchors = {0: "start", len(points) - 1: "end"} if len(points) > 1 else {}
    return parts + [text(_share(_x(points, i)), HEIGHT - 8, _day(points[i].day), anchors.get(i, "middle")) for i in shown]


def _day(day: date) -> str:
    return f"{day:%b} {day.day}"


def _line(points: Sequence[tuple[float, float]], name: str, *, dots: bool = True) -> list[str]:
    parts = [line(_share(x1), y1, _share(x2), y2, f"course {name}") for (x1, y1), (x2, y2) in pairwise(points)]
    ends = [points[-1]] if dots else []
    return parts + [dot(_share(x), y, 4, f"end {name}") for x, y in ends]


def _legend(arms: Mapping[str, int]) -> str:
    keys = "".join(f'<span><span class="key c{k % COLOURS}"></span>{escape(arm)}</span>' for k, arm in enumerate(arms))
    return f'<p class="legend">{keys}<span><span class="key dashed"></span>promised by the weights</span></p>'
