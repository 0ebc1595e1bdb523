"""A metric of a route's past as aggregates over a unit's events `e` since its first request `v.came_at`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from analytics.experiment import Filter, Metric

DAY = 86_400_000_000


class Columns(NamedTuple):
    """`numbers`: per unit the metric's value, for a `ratio` its denominator, then those of the covariates; for a quantile the number
    of an event and which events count. `needs`: columns of the event; `kinds`: which events."""

    numbers: tuple[str, ...]
    ratio: bool
    covariates: tuple[str, ...]
    ratios: tuple[bool, ...]
    kinds: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: dict[str, Any]
    cap: float | str | None
    quantile: float | None


def columns_of(name: str, metric: Metric | None, covariates: Mapping[str, Metric]) -> Columns:
    """Of a configured metric, or with None of the built-in `name` (`latency_p95_ms`, `failure_rate`). Raises ValueError."""
    if metric is None:
        return _built_in(name)
    made = _Made()
    window = "" if metric.window_hours is None else f" AND e.at <= v.came_at + {round(metric.window_hours * 3_600_000_000)}"
    after = f"e.at >= v.came_at{window}"
    if metric.kind == "quantile":
        condition = made.condition(metric.event, metric.where, f"e.value IS NOT NULL AND {after}")
        value = "e.value" if metric.cap is None else f"least(e.value, {metric.cap!r})"
        if isinstance(metric.cap, str):
            raise ValueError(f"metric {name!r}: a percentile cap of a quantile is not planned from the past; give the cap as a number")
        made.needs.add("value")
        return made.columns((value, condition), ratio=False, covariates=(), ratios=(), cap=None, quantile=metric.quantile)
    numbers, names, ratios = list(made.numbers(metric, after)), [], []
    ratio = len(numbers) == 2
    if metric.covariate_days is not None:
        before = f"e.at < v.came_at AND e.at >= v.came_at - {round(metric.covariate_days * DAY)}"
        for other, definition in {name: metric, **covariates}.items():
            if definition.kind == "quantile":
                continue
            own = made.numbers(definition, before)
            numbers += own
            names.append(other)
            ratios.append(len(own) == 2)
    return made.columns(tuple(numbers), ratio=ratio, covariates=tuple(names), ratios=tuple(ratios), cap=metric.cap, quantile=None)


class _Made:
    """Collects what the expressions need."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.kinds: set[str] = set()
        self.needs: set[str] = set()

    def columns(
        self,
        numbers: tuple[str, ...],
        *,
        ratio: bool,
        covariates: tuple[str, ...],
        ratios: tuple[bool, ...],
        cap: float | str | None,
        quantile: float | None,
    ) -> Columns:
        kinds, needs = tuple(sorted(self.kinds)), tuple(sorted(self.needs))
        return Columns(numbers, ratio, covariates, ratios, kinds, needs, self.parameters, cap, quantile)

    def numbers(self, metric: Metric, when: str) -> tuple[str, ...]:
        """One aggregate, or numerator and denominator."""
        if metric.per in ("generation", "image"):
            self.needs.add(f"{metric.per}_id")
            done = self.condition(metric.event, metric.where, when)
            return (f"uniqExactIf(e.{metric.per}_id, {done})", f"countIf({self.condition(metric.per, {}, when)})")
        if metric.kind == "mean":
            self.needs.add("value")
        counted = self.condition(metric.event, metric.where, when)
        if metric.per == "event":
            counted += " AND e.value IS NOT NULL"
            return (f"sumIf(ifNull(e.value, 0), {counted})", f"countIf({counted})")
        if metric.kind == "proportion":
            return (f"countIf({counted}) > 0",)
        if metric.kind == "mean":
            return (f"sumKahanIf(ifNull(e.value, 1), {counted})",)
        return (f"countIf({counted})", f"countIf({self.condition(metric.denominator or '', metric.denominator_where, when)})")

    def condition(self, kind: str, where: Filter, when: str) -> str:
        """Whether an event counts."""
        self.kinds.add(kind)
        parts = [f"e.kind = {self._parameter(kind, 'String')}", when]
        for key, wanted in where.items():
            self.needs.add("attributes")
            values = [wanted] if isinstance(wanted, str) else list(wanted)
            parts.append(f"has({self._parameter(values, 'Array(String)')}, e.attributes[{self._parameter(key, 'String')}])")
        return " AND ".join(parts)

    def _parameter(self, value: Any, kind: str) -> str:
        key = f"past{len(self.parameters)}"
        self.parameters[key] = value
        return f"{{{key}:{kind}}}"


def _built_in(name: str) -> Columns:
    made = _Made()
    asked = made.condition("generation", {}, "e.at >= v.came_at")
    made.needs.update(("status", "queue_ms", "service_ms"))
    if name == "failure_rate":
        numbers = (f"countIf({asked} AND e.status = 'failed')", f"countIf({asked})")
        return made.columns(numbers, ratio=True, covariates=(), ratios=(), cap=None, quantile=None)
    timed = f"{asked} AND e.status != 'failed' AND e.queue_ms + e.service_ms IS NOT NULL"
    return made.columns(("e.queue_ms + e.service_ms", timed), ratio=False, covariates=(), ratios=(), cap=None, quantile=0.95)
