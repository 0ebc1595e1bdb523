"""`--metric COL[:mean|proportion|ratio:DENOM|quantile:Q]` and `--cap VALUE|pNN`, parsed."""

import math
from typing import Literal

import msgspec

from analytics.settings import nearest

KINDS = ("mean", "proportion", "ratio", "quantile")


class MetricOption(msgspec.Struct, frozen=True, kw_only=True):
    """One `--metric`. `kind` None: a proportion if the column holds only 0 and 1, else a mean."""

    column: str
    kind: Literal["mean", "proportion", "ratio", "quantile"] | None = None
    denominator: str | None = None
    level: float | None = None

    @property
    def name(self) -> str:
        """`clicks`, `clicks/views`, `latency p95`."""
        if self.denominator is not None:
            return f"{self.column}/{self.denominator}"
        return self.column if self.level is None else f"{self.column} p{self.level * 100:g}"


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """Values per unit above this count as this: a number, or a percentile of all units of all arms."""

    value: float | None = None
    percentile: float | None = None


def parse_metric(text: str) -> MetricOption:
    """Raises ValueError with the form that is expected."""
    column, _, rest = text.partition(":")
    kind, _, parameter = rest.partition(":")
    if not column:
        raise ValueError(f"--metric {text!r} names no column; write COL, COL:mean, COL:proportion, COL:ratio:DENOM or COL:quantile:0.95")
    if not kind:
        return MetricOption(column=column)
    if kind == "ratio":
        if not parameter:
            raise ValueError(f"--metric {text!r} names no denominator; write {column}:ratio:DENOMINATOR_COLUMN")
        return MetricOption(column=column, kind="ratio", denominator=parameter)
    if kind == "quantile":
        try:
            level = float(parameter)
        except ValueError:
            level = math.nan
        if not 0 < level < 1:
            raise ValueError(f"--metric {text!r} has no level between 0 and 1; write {column}:quantile:0.95")
        return MetricOption(column=column, kind="quantile", level=level)
    if kind not in ("mean", "proportion") or parameter:
        raise ValueError(f"--metric {text!r} has unknown kind {rest!r}; {nearest(rest, KINDS)}")
    return MetricOption(column=column, kind="mean" if kind == "mean" else "proportion")


def parse_cap(text: str) -> Cap:
    """`100` or `p99.5`. Raises ValueError."""
    percentile = text[:1] in "pP" and len(text) > 1
    try:
        value = float(text[1:] if percentile else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or (percentile and not 0 < value < 100):
        raise ValueError(f"--cap {text!r} is neither a number nor a percentile between p0 and p100; write for example 50 or p99")
    return Cap(percentile=value) if percentile else Cap(value=value)
