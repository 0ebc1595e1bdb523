"""A report in a notebook: `import analytics; analytics.report("vivid-colours")` shows the page, `.to_frame()` has the numbers."""

import sys
from datetime import UTC, datetime
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from analytics.inference.contrast import UNBOUNDED
from analytics.report.page import to_html
from analytics.report.schema import Comparison, MetricArm, Report
from analytics.report.text import to_text, verdict

View = Literal["comparisons", "breakdowns", "path", "novelty"]
Row = dict[str, object]
FRAMES = ("pandas", "polars")
HEIGHT_PX = 900


class AnalystReport:
    """One report, as people work with it. `report` is the struct that every view is made of."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """From what `salon report --format json`, the gateway or `to_json` gave. Raises msgspec.ValidationError for anything else."""
        return cls(msgspec.json.decode(text, type=Report))

    def to_json(self) -> str:
        """All of it, `sufficient_statistics` included."""
        return msgspec.json.encode(self.report).decode()

    def to_text(self) -> str:
        """As on a terminal."""
        return to_text(self.report)

    def to_html(self) -> str:
        """A whole page that needs nothing else."""
        return to_html(self.report)

    def to_frame(self, view: View = "comparisons") -> Any:
        """A data frame of pandas or polars, whichever is loaded, or else installed (pandas first).

        `comparisons`: a row per metric and arm; `breakdowns`: per slice and arm; `path`: per day and arm; `novelty`: per day of
        life and arm. Raises ImportError where neither is installed, ValueError for another view.
        """
        rows = self.rows(view)
        columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
        return _frames().DataFrame(columns)

    def rows(self, view: View = "comparisons") -> list[Row]:
        """The rows of `to_frame`. Raises ValueError for a view that there is not."""
        views = {"comparisons": _comparisons, "breakdowns": _breakdowns, "path": _path, "novelty": _novelty}
        if view not in views:
            raise ValueError(f"view = {view!r} is none; take one of {', '.join(map(repr, views))}")
        return views[view](self.report)

    def _repr_html_(self) -> str:
        """In a frame of its own, so that the styles of page and notebook leave each other alone."""
        return f'<iframe srcdoc="{escape(to_html(self.report))}" style="width:100%;height:{HEIGHT_PX}px;border:0"></iframe>'

    def _repr_markdown_(self) -> str:
        return f"```text\n{to_text(self.report)}```"

    def __str__(self) -> str:
        return to_text(self.report)

    def __repr__(self) -> str:
        return f"<AnalystReport {self.report.experiment}: {verdict(self.report)}, as of {self.report.as_of:%Y-%m-%d %H:%M} UTC>"


def read(name: str, config: str | Path | None = None, as_of: str | datetime | None = None, *, flagged: bool = False) -> AnalystReport:
    """The report of an experiment, from the warehouse and log of a configuration (None: `salon.toml` here, or the defaults).

    `as_of`: as it stood then, a time or ISO 8601 text (no zone: UTC). `flagged`: count flagged events too. Raises ValueError
    (unknown experiment, wrong time or configuration) and OSError (warehouse out of reach).
    """
    from analytics.report.command import parse_time, read_report  # here: this loads the warehouse's client

    at = parse_time(as_of) if isinstance(as_of, str) else as_of
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return AnalystReport(read_report(name, Path(config) if config is not None else None, at, flagged=flagged))


def _frames() -> Any:
    for loaded in (True, False):
        for name in FRAMES:
            if name in sys.modules if loaded else find_spec(name) is not None:
                return import_module(name)
    raise ImportError("to_frame needs pandas or polars, and neither is installed; install one, or take .rows() or .to_json()")


def _comparisons(report: Report) -> list[Row]:
    return [
        {"metric": m.metric, "role": m.role, "kind": m.kind, "direction": m.direction} | _compared(c, m.arms) | {"ok": c.ok}
        for m in report.metrics
        for c in m.comparisons
    ]


def _breakdowns(report: Report) -> list[Row]:
    return [
        {"dimension": b.dimension, "value": one.value} | _compared(c, one.arms) | {"srm_e_value": one.srm.e_value, "srm_ok": one.srm.ok}
        for b in report.breakdowns
        for one in b.slices
        for c in one.comparisons
    ]


def _compared(c: Comparison, arms: list[MetricArm]) -> Row:
    by_arm = {arm.arm: arm for arm in arms}
    sequence, bayes = c.always_valid, c.bayes
    relative, difference = (sequence.relative_ci, sequence.difference_ci) if sequence else (UNBOUNDED, UNBOUNDED)
    return {
        "arm": c.arm,
        "vs": c.vs,
        "n": by_arm[c.arm].n,
        "n_vs": by_arm[c.vs].n,
        "mean": by_arm[c.arm].mean,
        "mean_vs": by_arm[c.vs].mean,
        "difference": c.difference.value,
        "difference_se": c.difference.se,
        "difference_low": c.difference.ci[0],
        "difference_high": c.difference.ci[1],
        "lift": c.relative.value,
        "lift_se": c.relative.se,
        "lift_low": c.relative.ci[0],
        "lift_high": c.relative.ci[1],
        "ci_level": c.ci_level,
        "p_value": c.p_value,
        "adjusted_p_value": c.adjusted_p_value,
        "any_look_lift_low": relative[0],
        "any_look_lift_high": relative[1],
        "any_look_difference_low": difference[0],
        "any_look_difference_high": difference[1],
        "any_look_p_value": sequence.p_value if sequence else None,
        "e_value": sequence.e_value if sequence else None,
        "prob_better": bayes.prob_better if bayes else None,
        "expected_loss_ship": bayes.expected_loss_ship if bayes else None,
        "expected_loss_keep": bayes.expected_loss_keep if bayes else None,
        "variance_reduction": c.variance_reduction,
        "method": c.method,
        "lift_method": c.lift_method,
    }


def _path(report: Report) -> list[Row]:
    return [
        {
            "day": point.day,
            "arm": arm,
            "units": units,
            "expected": point.expected.get(arm),
            "lift": point.lift.get(arm),
            "any_look_lift_low": point.always_valid_ci.get(arm, UNBOUNDED)[0],
            "any_look_lift_high": point.always_valid_ci.get(arm, UNBOUNDED)[1],
            "srm_e_value": point.srm_e_value,
        }
        for point in report.path
        for arm, units in point.units.items()
    ]


def _novelty(report: Report) -> list[Row]:
    return [
        {
            "day": point.day,
            "arm": arm,
            "units": point.units[arm],
            "lift": lift,
            "lift_low": point.ci[arm][0],
            "lift_high": point.ci[arm][1],
        }
        for point in report.novelty
        for arm, lift in point.lift.items()
    ]
