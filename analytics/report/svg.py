"""Inline SVG that keeps its letters' size at any width: across in percent, down in pixels."""

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec


class Axis(msgspec.Struct, frozen=True):
    """A linear scale from `low` to `high` (low < high), with 3% of air at both ends; what lies outside stands at the end."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Where `value` stands, from 0 to 1."""
        return 0.03 + 0.94 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def across(self, value: float) -> str:
        """The same as a percentage of the width."""
        return f"{100 * self.at(value):.2f}%"

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round numbers on the axis."""
        step = _step((self.high - self.low) / count)
        return [i * step for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]

    def labels(self, y: float, words: Callable[[float], str]) -> list[str]:
        """The ticks' names at height `y`; those at the ends stay inside."""
        return [
            text(self.across(t), y, words(t), "start" if self.at(t) < 0.08 else "end" if self.at(t) > 0.92 else "middle")
            for t in self.ticks()
        ]


def axis_of(values: Sequence[float], *, widest: float = math.inf) -> Axis:
    """An axis that holds 0 and every finite value, but reaches no further than `widest` to either side."""
    known = [v for v in values if math.isfinite(v)]
    low, high = max(min([0.0, *known]), -widest), min(max([0.0, *known]), widest)
    return Axis(low, high) if high - low > 1e-12 * max(1.0, abs(low), abs(high)) else Axis(low - 0.01, high + 0.01)


def svg(height: float, label: str, parts: Sequence[str]) -> str:
    """A drawing as wide as its place, named for those who hear the page."""
    return f'<svg width="100%" height="{height:.0f}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def line(x1: str, y1: float, x2: str, y2: float, name: str) -> str:
    """From one point to another; `name` is its class."""
    return f'<line class="{name}" x1="{x1}" y1="{y1:.1f}" x2="{x2}" y2="{y2:.1f}"/>'


def upright(x: str, top: float, bottom: float, name: str) -> str:
    """A vertical line."""
    return line(x, top, x, bottom, name)


def dot(x: str, y: float, radius: float, name: str) -> str:
    """A filled circle."""
    return f'<circle class="{name}" cx="{x}" cy="{y:.1f}" r="{radius:g}"/>'


def bar(left: float, right: float, y: float, height: float, name: str) -> str:
    """A bar between two shares of the width, its middle at `y`."""
    x, width = min(left, right), abs(right - left)
    return f'<rect class="{name}" x="{100 * x:.2f}%" y="{y - height / 2:.1f}" width="{100 * width:.2f}%" height="{height:g}" rx="3"/>'


def text(x: str, y: float, words: str, anchor: str = "start", name: str = "q") -> str:
    """Words; `anchor` is start, middle or end."""
    return f'<text class="{name}" x="{x}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def band(upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], height: float, name: str) -> str:
    """The area between two lines of (share of the width, pixels down)."""
    points = " ".join(f"{1000 * x:.1f},{y:.1f}" for x, y in [*upper, *reversed(lower)])
    return (
        f'<svg x="0" y="0" width="100%" height="{height:.0f}" viewBox="0 0 1000 {height:.0f}" preserveAspectRatio="none">'
        f'<polygon class="{name}" points="{points}"/></svg>'
    )


def _step(rough: float) -> float:
    """The round number at or above `rough` (> 0): 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
