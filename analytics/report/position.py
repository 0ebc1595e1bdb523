"""How much each place of a grid is looked at, and what arms get where everybody looks: the part of a report, and its views."""

from html import escape

import msgspec

from analytics.inference.contrast import Interval
from analytics.report.columns import table, wrap
from analytics.report.html_table import html_table
from analytics.report.words import p_value, percent, plural, signed, span

CELL_HEADER = ("cell", "pictures", "rate", "looked at", "interval")
ARM_HEADER = ("arm", "pictures", "raw", "IPS", "likelihood")
LIFT_HEADER = ("arm", "raw lift", "interval", "corrected lift", "interval")
TRUST_ALARM = 0.001


class PlacedValue(msgspec.Struct, frozen=True, kw_only=True):
    """A rate or a lift with its standard error, clustered by unit, and an interval on the scale of logarithms, for one look."""

    value: float
    se: float | None
    ci: Interval


class CellReport(msgspec.Struct, frozen=True, kw_only=True):
    """A cell: pictures shown, those that got the event, and `examination`, how much it is looked at relative to cell 0."""

    cell: int
    shown: int
    events: int
    rate: float
    examination: PlacedValue


class PlacedArm(msgspec.Struct, frozen=True, kw_only=True):
    """Events per picture of an arm: as counted, and as if all had stood in cell 0 (`ips`: each weighted by 1/examination; `mle`: by
    maximum likelihood). Lifts are against the control, without and with the correction (`mle`)."""

    arm: str
    shown: int
    events: int
    raw: PlacedValue
    ips: PlacedValue
    mle: PlacedValue
    raw_lift: PlacedValue | None = None
    corrected_lift: PlacedValue | None = None


class TrustedCell(msgspec.Struct, frozen=True, kw_only=True):
    """P(event) = slope x attraction + floor; cell 0 has slope 1 and floor 0."""

    cell: int
    slope: float
    slope_se: float
    floor: float
    floor_se: float


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Does a cell get events that no picture earned? `p_value`: that none does, clustered by unit; `likelihood_ratio`, with `df`,
    knows of no units. `cells` is empty where no maximum was found."""

    p_value: float
    likelihood_ratio: float | None
    df: int
    cells: list[TrustedCell]


class GridReport(msgspec.Struct, frozen=True, kw_only=True):
    """Grids of one layout (the context's `layout`; empty: none) and size. `said`: what cannot be told, and why."""

    layout: str
    grid: int
    pictures: int
    units: int
    cells: list[CellReport]
    arms: list[PlacedArm]
    trust: Trust | None
    said: list[str]


class PositionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The position model of the primary metric's event. `one_in`: of so many units one was read; `left_out`: pictures in rarer
    layouts and sizes."""

    event: str
    ci_level: float
    one_in: int
    left_out: int
    grids: list[GridReport]


def position_lines(report: PositionReport | None) -> list[str]:
    """For the terminal; nothing without it."""
    if report is None:
        return []
    lines = ["", f"Position: what a picture gets by its cell ({report.event})"]
    for grid in report.grids:
        lines += wrap(_title(grid), "  ")
        if grid.cells:
            lines += table(CELL_HEADER, _cell_rows(grid))
        if grid.arms:
            lines += table(ARM_HEADER, _arm_rows(grid))
        if lifts := _lift_rows(grid):
            lines += table(LIFT_HEADER, lifts)
        for sentence in _sentences(grid):
            lines += wrap(sentence, "    ")
    return [*lines, *wrap(_note(report), "    ")]


def position_section(report: PositionReport | None) -> str:
    """For the page; empty without it."""
    if report is None:
        return ""
    parts = []
    for grid in report.grids:
        parts.append(f"<h3>{escape(_title(grid))}</h3>")
        parts += [html_table(CELL_HEADER, _cell_rows(grid))] if grid.cells else []
        parts += [html_table(ARM_HEADER, _arm_rows(grid))] if grid.arms else []
        parts += [html_table(LIFT_HEADER, lifts)] if (lifts := _lift_rows(grid)) else []
        parts += [f"<p>{escape(sentence)}</p>" for sentence in _sentences(grid)]
    return f'<section><h2>Position</h2>{"".join(parts)}<p class="legend">{escape(_note(report))}</p></section>'


def _title(grid: GridReport) -> str:
    layout = f", layout {grid.layout}" if grid.layout else ""
    return f"Grids of {grid.grid}{layout}: {plural(grid.pictures, 'picture')} before {plural(grid.units, 'unit')}"


def _note(report: PositionReport) -> str:
    sampled = f" Read of one unit in {report.one_in}." if report.one_in > 1 else ""
    rarer = f" {plural(report.left_out, 'picture')} in rarer layouts and sizes left out." if report.left_out else ""
    return (
        f"Looked at: relative to cell 0. IPS and likelihood: events per picture, had all stood in cell 0. Intervals "
        f"of {report.ci_level:.0%} for one look, clustered by unit.{sampled}{rarer}"
    )


def _sentences(grid: GridReport) -> list[str]:
    found = list(grid.said)
    if grid.trust is not None:
        told = f"p = {p_value(grid.trust.p_value)}"
        if grid.trust.p_value >= TRUST_ALARM:
            found.append(f"No sign that a cell gets events whatever stands there ({told}).")
        else:
            floors = ", ".join(f"cell {one.cell} {one.floor:+.2%}" for one in grid.trust.cells[1:])
            more = f" (trust model, beyond cell 0: {floors})" if floors else ""
            found.append(
                f"Some cells get events whatever stands there ({told}){more}: the corrected rates lean on a model that does not fit."
            )
    return found


def _cell_rows(grid: GridReport) -> list[list[str]]:
    return [
        [str(cell.cell), f"{cell.shown:,}", percent(cell.rate), percent(cell.examination.value), _shares(cell.examination.ci)]
        for cell in grid.cells
    ]


def _arm_rows(grid: GridReport) -> list[list[str]]:
    return [[arm.arm, f"{arm.shown:,}", percent(arm.raw.value), percent(arm.ips.value), percent(arm.mle.value)] for arm in grid.arms]


def _lift_rows(grid: GridReport) -> list[list[str]]:
    return [
        [arm.arm, signed(raw.value), span(raw.ci), signed(corrected.value), span(corrected.ci)]
        for arm in grid.arms
        if (raw := arm.raw_lift) is not None and (corrected := arm.corrected_lift) is not None
    ]


def _shares(ci: Interval) -> str:
    low, high = ci
    return "unbounded" if low is None or high is None else f"[{percent(low)}, {percent(high)}]"
