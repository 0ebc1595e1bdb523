"""One metric of a table → its sufficient statistics, per arm and per part."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from analytics.analyze.covariate_option import CovariateOption
from analytics.analyze.gram import Cells, accumulate
from analytics.analyze.metric_option import Cap, MetricOption
from analytics.analyze.quantiles import quantile_facts
from analytics.analyze.regression import regress
from analytics.analyze.series import Series, beyond_proportion, unit_chunks, whole
from analytics.analyze.split import Parts, Split
from analytics.analyze.table import Floats, Table, TableError
from analytics.analyze.units import Units
from analytics.facts import Joint, Moments, QuantileFacts, Regressed
from analytics.inference.contrast import Interval

Chunks = Iterator[tuple[int, list[Floats]]]
Kind = Literal["mean", "proportion", "ratio", "quantile"]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One metric: `facts` per arm; with covariates `joint` (one or more) and `regressed` (several, from the rows); `periods` and
    `strata`: the same per value of the column; `slices[dimension][value]`. `cap` is the value that was applied, `filled` how many
    units had no value of a covariate and count as its mean. `bounded`: the guaranteed interval of the mean, at half of a
    comparison's share of alpha."""

    name: str
    kind: Kind
    facts: dict[str, Moments | QuantileFacts]
    joint: dict[str, Joint] | None = None
    regressed: dict[str, Regressed] | None = None
    periods: list[dict[str, Joint]] = []
    strata: list[dict[str, Joint]] = []
    slices: dict[str, dict[str, dict[str, Moments | QuantileFacts]]] = {}
    cap: float | None = None
    filled: dict[str, int] = {}
    bounded: dict[str, Interval] = {}


def measure(
    table: Table,
    units: Units,
    split: Split,
    option: MetricOption,
    covariates: Sequence[CovariateOption],
    cap: Cap | None,
    empty: float | None,
    *,
    sliced: bool,
) -> Measured:
    """The sufficient statistics of one metric; with `sliced` also by every dimension. Raises TableError, ValueError."""
    if option.level is not None:
        return _quantile(table, units, split, option, empty, sliced=sliced)
    kind = kind_of(table, option, empty)
    outcome, applied = outcome_series(table, units, option, kind, cap, empty)
    named = [(c.name, c.denominator is not None) for c in covariates]
    columns = [column for c in covariates for column in ([c.column] if c.denominator is None else [c.column, c.denominator])]
    series = [*outcome, *(Series(column=column, how="mean") for column in columns)]
    known = [split.arms, *(parts.partition for parts in (split.periods, split.strata) if parts)]
    known += [parts.partition for parts in split.breakdowns] if sliced else []
    gaps = _Gaps(len(outcome), columns)
    read: Callable[[], Chunks] = lambda: gaps.filled(unit_chunks(table, units, series))  # noqa: E731
    cells = accumulate(read(), known)
    if gaps.close():
        cells = accumulate(read(), known)
    if not cells:
        cells = [Cells(partition.cells, len(series)) for partition in known]
    ratio = len(outcome) == 2
    shape = _Shape(ratio=ratio, covariates=tuple(n for n, _ in named), ratios=tuple(r for _, r in named))
    arms = units.arms
    left = iter(cells)
    total = next(left)
    regressed = None
    if len(named) > 1 and not ratio and not any(shape.ratios):
        fits = regress(read(), total, split.arms, shape.covariates)
        regressed = {arm: fits[k] for k, arm in enumerate(arms) if k in fits}
    periods = _by_part(next(left), split.periods, arms, shape) if split.periods else []
    strata = _by_part(next(left), split.strata, arms, shape) if split.strata else []
    slices: dict[str, dict[str, dict[str, Moments | QuantileFacts]]] = {}
    for parts, found in zip(split.breakdowns if sliced else [], left, strict=True):
        here = zip(parts.names, _by_part(found, parts, arms, shape), strict=True)
        slices[parts.column] = {value: {arm: joint.outcome for arm, joint in row.items()} for value, row in here}
    joints = {arm: _joint(total, k, shape) for k, arm in enumerate(arms)}
    return Measured(
        name=option.name,
        kind=kind,
        facts={arm: joint.outcome for arm, joint in joints.items()},
        joint=joints if named else None,
        regressed=regressed or None,
        periods=periods,
        strata=strata,
        slices=slices,
        cap=applied,
        filled=gaps.counts(),
    )


def kind_of(table: Table, option: MetricOption, empty: float | None) -> Kind:
    """What the metric's inference is; a column that was said to be a proportion has to be one. Raises TableError."""
    kind: Kind = option.kind or "proportion"
    if kind == "proportion":
        other = beyond_proportion(table, option.column, empty)
        if other is not None and option.kind is None:
            return "mean"
        if other is not None:
            raise TableError(f"{table.path}: column {option.column!r} is no proportion: it holds {other:g}; use {option.column}:mean")
    return "ratio" if option.per == "event" else kind


def outcome_series(
    table: Table, units: Units, option: MetricOption, kind: Kind, cap: Cap | None, empty: float | None
) -> tuple[list[Series], float | None]:
    """What the outcome is made of per unit (a ratio: numerator, denominator), and the cap that applies. Raises ValueError."""
    if option.per == "event":
        if units.of_row is None:
            raise ValueError(f"--metric {option.name!r} is per event: say with --unit whose events they are, or leave :event out")
        return [Series(column=option.column, how="sum", empty=empty), Series(column=option.column, how="rows")], None
    if kind == "proportion":
        return [Series(column=option.column, how="any", empty=empty)], None
    plain = Series(column=option.column, how="sum", empty=empty)
    applied = None if cap is None else cap.value
    if cap is not None and cap.percentile is not None and units.count:
        applied = float(np.percentile(whole(table, units, [plain])[0], cap.percentile))
    above = msgspec.structs.replace(plain, cap=applied)
    if option.denominator is None:
        return [above], applied
    return [above, Series(column=option.denominator, how="sum", empty=empty)], applied


class _Shape(msgspec.Struct, frozen=True):
    ratio: bool
    covariates: tuple[str, ...]
    ratios: tuple[bool, ...]


class _Gaps:
    """Units without a value of a covariate count as its mean over all units: known after a first pass, in which they are 0."""

    def __init__(self, outcome: int, columns: Sequence[str]) -> None:
        self._first, self._columns = outcome, columns
        self._missing, self._present = np.zeros(len(columns), dtype=np.int64), np.zeros(len(columns), dtype=np.int64)
        self._sums, self._fills = np.zeros(len(columns)), np.zeros(len(columns))
        self._closed = False

    def filled(self, chunks: Chunks) -> Chunks:
        for start, values in chunks:
            for i in range(len(self._columns)):
                column = values[self._first + i]
                total = float(column.sum())
                holes = np.isnan(column) if np.isnan(total) else None
                if not self._closed:
                    missing = 0 if holes is None else int(holes.sum())
                    self._missing[i] += missing
                    self._present[i] += len(column) - missing
                    self._sums[i] += total if holes is None else np.nansum(column)
                if holes is not None:
                    values[self._first + i] = np.where(holes, self._fills[i], column)
            yield start, values

    def close(self) -> bool:
        """The first pass is over: was anything missing?"""
        self._closed = True
        self._fills = self._sums / np.maximum(self._present, 1)
        return bool(self._missing.any())

    def counts(self) -> dict[str, int]:
        return {column: int(n) for column, n in zip(self._columns, self._missing, strict=True) if n}


def _joint(cells: Cells, cell: int, shape: _Shape) -> Joint:
    return Joint(
        n=int(cells.n[cell]),
        means=tuple(map(float, cells.mean[cell])),
        products=tuple(tuple(map(float, row)) for row in cells.products[cell]),
        ratio=shape.ratio,
        covariates=shape.covariates,
        ratios=shape.ratios,
    )


def _by_part(cells: Cells, parts: Parts, arms: Sequence[str], shape: _Shape) -> list[dict[str, Joint]]:
    return [{arm: _joint(cells, parts.cell(i, k, len(arms)), shape) for k, arm in enumerate(arms)} for i in range(len(parts.names))]


def _quantile(table: Table, units: Units, split: Split, option: MetricOption, empty: float | None, *, sliced: bool) -> Measured:
    rows, unit = table.numbers(option.column, empty=empty), units.row_units()
    inside = unit >= 0
    rows, unit = rows[inside], unit[inside]
    level = option.level or 0.5

    def facts(codes: np.ndarray, of: int) -> dict[str, Moments | QuantileFacts]:
        found = codes[unit]
        cells = {arm: found == of * len(units.arms) + k for k, arm in enumerate(units.arms)}
        return {arm: quantile_facts(rows[here], unit[here], level) for arm, here in cells.items() if here.any()}

    slices = {
        parts.column: {value: facts(parts.codes * len(units.arms) + units.arm, i) for i, value in enumerate(parts.names)}
        for parts in (split.breakdowns if sliced else [])
    }
    return Measured(name=option.name, kind="quantile", facts=facts(units.arm, 0), slices=slices)
