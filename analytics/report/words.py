"""Numbers as people read them."""

from collections.abc import Sequence

from analytics.inference.contrast import Interval


def percent(value: float) -> str:
    """`12.3%`, with more digits for small shares."""
    size = abs(value) * 100
    if 0 < size < 0.001:
        return f"{value * 100:.2g}%"
    return f"{value * 100:.{1 if size >= 1 or size == 0 else 2 if size >= 0.1 else 3}f}%"


def count(number: int) -> str:
    """`57,763`; those that no table holds as `5.7e+11`."""
    return f"{number:,}" if number < 10**10 else f"{number:.2g}"


def signed(value: float | None) -> str:
    """A lift: `+12.3%`, `+1,234%`, `+1e+09%`; a dash when unknown."""
    if value is None:
        return "–"
    size = abs(value)
    return f"{value * 100:+,.{1 if size < 10 else 0}f}%" if size < 1000 else f"{value * 100:+.0e}%"


def interval(ci: Interval, *, relative: bool = True) -> str:
    """`+1.2% and +3.4%`; `unbounded` when there is none."""
    low, high = ci
    if low is None or high is None:
        return "no bounds"
    return f"{signed(low)} and {signed(high)}" if relative else f"{low:+.4g} and {high:+.4g}"


def span(ci: Interval) -> str:
    """`[+1.2%, +3.4%]`, for a table."""
    low, high = ci
    return "unbounded" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def number(value: float | None, kind: str) -> str:
    """A metric's value: shares in percent, others with four digits."""
    if value is None:
        return "–"
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    return percent(value) if kind in ("proportion", "preference") else f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def p_value(p: float | None) -> str:
    """`0.034`, `<0.001`-like precision kept as an exponent."""
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"


def plural(count: int, noun: str) -> str:
    """`1 unit`, `2,000 units`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def arms_of(names: Sequence[str]) -> str:
    """`'a', 'b'` for a sentence."""
    return ", ".join(map(repr, names))


def chance(probability: float | None) -> str:
    """`97.3%`; never a 0% or 100% that only rounding made."""
    if probability is None:
        return "–"
    return ">99.9%" if probability > 0.999 else "<0.1%" if probability < 0.001 else f"{probability:.1%}"
