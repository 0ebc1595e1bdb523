"""`--metric COL[:KIND]`, `--guardrail COL[:KIND]=MARGIN`, `--bounds` and `--cap`, parsed."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from analytics.nearest import nearest

KINDS = ("mean", "proportion", "ratio", "quantile")
FORMS = "COL, COL:mean, COL:proportion, COL:ratio:DENOM, COL:quantile:0.95, COL:mean:event or COL:proportion:event"


class MetricOption(msgspec.Struct, frozen=True, kw_only=True):
    """One `--metric`. `kind` None: a proportion if the column holds only 0 and 1, else a mean. `per` event: the mean, or the share,
    of rows, clustered by unit. `margin` makes it a guardrail."""

    column: str
    kind: Literal["mean", "proportion", "ratio", "quantile"] | None = None
    denominator: str | None = None
    level: float | None = None
    per: Literal["unit", "event"] = "unit"
    margin: float | None = None

    @property
    def name(self) -> str:
        """`clicks`, `clicks/views`, `latency p95`, `seconds per event`."""
        if self.denominator is not None:
            return f"{self.column}/{self.denominator}"
        if self.level is not None:
            return f"{self.column} p{self.level * 100:g}"
        return f"{self.column} per event" if self.per == "event" else self.column


class Cap(msgspec.Struct, frozen=True, kw_only=True):
    """Values per unit above this count as this: a number, or a percentile of all units of all arms."""

    value: float | None = None
    percentile: float | None = None


def parse_metric(text: str, option: str = "--metric") -> MetricOption:
    """Raises ValueError with the form that is expected."""
    column, _, rest = text.partition(":")
    kind, _, parameter = rest.partition(":")
    if not column:
        raise ValueError(f"{option} {text!r} names no column; write {FORMS}")
    if not kind:
        return MetricOption(column=column)
    if kind == "ratio":
        if not parameter:
            raise ValueError(f"{option} {text!r} names no denominator; write {column}:ratio:DENOMINATOR_COLUMN")
        return MetricOption(column=column, kind="ratio", denominator=parameter)
    if kind == "quantile":
        try:
            level = float(parameter)
        except ValueError:
            level = math.nan
        if not 0 < level < 1:
            raise ValueError(f"{option} {text!r} has no level between 0 and 1; write {column}:quantile:0.95")
        return MetricOption(column=column, kind="quantile", level=level)
    if kind not in ("mean", "proportion") or parameter not in ("", "event"):
        raise ValueError(f"{option} {text!r} has unknown kind {rest!r}; {nearest(rest, KINDS)}")
    return MetricOption(column=column, kind="mean" if kind == "mean" else "proportion", per="event" if parameter == "event" else "unit")


def parse_guardrail(text: str) -> MetricOption:
    """`COL[:KIND]=MARGIN`, the margin relative to the control: `seconds:quantile:0.95=0.1` or `=10%`. Raises ValueError."""
    metric, equals, margin = text.rpartition("=")
    share = _number(margin[:-1]) / 100 if margin.endswith("%") else _number(margin)
    if not equals or not 0 < share <= 10:
        raise ValueError(f"--guardrail {text!r} has no margin above 0 and up to 10; write for example seconds:mean=0.05 (5% worse)")
    return msgspec.structs.replace(parse_metric(metric, "--guardrail"), margin=share)


def parse_bounds(text: str, metrics: Sequence[MetricOption]) -> tuple[str, tuple[float, float]]:
    """`LOW,HIGH` (of the first metric) or `METRIC=LOW,HIGH` → the metric's name and its bounds. Raises ValueError."""
    metric, equals, pair = text.rpartition("=")
    low, comma, high = pair.partition(",")
    bounds = _number(low), _number(high)
    if not comma or not bounds[0] < bounds[1]:
        raise ValueError(f"--bounds {text!r} is not LOW,HIGH with LOW < HIGH; write for example 0,5 or stars=0,5")
    if not equals:
        return metrics[0].name, bounds
    return find_metric(metric, metrics, "--bounds").name, bounds


def find_metric(text: str, metrics: Sequence[MetricOption], option: str) -> MetricOption:
    """The metric that is named so, or whose column is the only one of that name. Raises ValueError."""
    found = [m for m in metrics if m.name == text] or [m for m in metrics if m.column == text]
    if len(found) != 1:
        raise ValueError(f"{option}: {text!r} is no --metric or --guardrail; {nearest(text, [m.name for m in metrics])}")
    return found[0]


def parse_cap(text: str) -> Cap:
    """`100` or `p99.5`. Raises ValueError."""
    percentile = text[:1] in "pP" and len(text) > 1
    value = _number(text[1:] if percentile else text)
    if math.isnan(value) or (percentile and not 0 < value < 100):
        raise ValueError(f"--cap {text!r} is neither a number nor a percentile between p0 and p100; write for example 50 or p99")
    return Cap(percentile=value) if percentile else Cap(value=value)


def _number(text: str) -> float:
    """NaN for anything but a finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
