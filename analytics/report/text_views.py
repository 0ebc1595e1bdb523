"""Views over days, slices and days of life, and where the formulas are, on a terminal."""

from analytics.report.columns import table, wrap
from analytics.report.formulas import formulas
from analytics.report.schema import Breakdown, Comparison, MetricReport, Report
from analytics.report.words import interval, number, p_value, signed, span

# The page draws every day; a terminal gets the latest.
DAYS = 8


def course(report: Report) -> list[str]:
    """The latest days of the path, a table per arm. Empty without a path."""
    if not report.path:
        return []
    name, points = primary_of(report).metric, report.path[-DAYS:]
    left = f" (the last {DAYS} of {len(report.path)} days)" if len(report.path) > DAYS else ""
    control = next(arm.arm for arm in report.arms if arm.control)
    lines = ["", f"Day by day: {name} over the units that had come{left}"]
    for arm in report.path[-1].lift:
        lines += wrap(arm, "  ") if len(report.path[-1].lift) > 1 else []
        header = ["until", "its units", "control's", "lift", "at any look", "ratio e-value"]
        rows = [
            [
                f"{point.day}",
                f"{point.units.get(arm, 0):,}",
                f"{point.units.get(control, 0):,}",
                signed(point.lift[arm]),
                span(point.always_valid_ci[arm]),
                f"{point.srm_e_value:.2g}",
            ]
            for point in points
        ]
        lines += table(header, rows)
    return lines


def breakdowns(report: Report) -> list[str]:
    """A table per dimension, then whether the effect differs, then warnings. Empty without breakdowns."""
    primary = primary_of(report) if report.breakdowns else None
    return [line for b in report.breakdowns if primary for line in _breakdown(b, primary)]


def _breakdown(breakdown: Breakdown, primary: MetricReport) -> list[str]:
    lines = ["", f"By {breakdown.dimension}: {primary.metric}, corrected over {len(breakdown.slices)} slices"]
    rows = []
    for one in breakdown.slices:
        values = {arm.arm: number(arm.mean, primary.kind) for arm in one.arms}
        for c in one.comparisons:
            sequence = c.always_valid
            rows.append(
                [
                    f"{one.value}, {c.arm}" if len(one.comparisons) > 1 else one.value,
                    f"{sum(one.units.values()):,}",
                    f"{values.get(c.vs, '–')} → {values.get(c.arm, '–')}",
                    signed(c.relative.value),
                    span(c.relative.ci),
                    span(sequence.relative_ci) if sequence else "",
                ]
            )
    lines += table([breakdown.dimension, "units", "value", "lift", "interval", "at any look"], rows)
    for words in heterogeneity_lines(breakdown):
        lines += wrap(words, "    ")
    for warning in breakdown.warnings:
        lines += wrap(warning, "    ! ", "      ")
    return lines


def heterogeneity_lines(breakdown: Breakdown) -> list[str]:
    """A sentence per arm: is the lift the same in every slice?"""
    return [
        f"{h.arm}: Cochran's Q = {h.q:.1f} on {h.df} df, adjusted p = {p_value(h.adjusted_p_value)}, I² = {h.i2:.0%}"
        for h in breakdown.heterogeneity
    ]


def beside(comparison: Comparison) -> list[str]:
    """What a comparison says beside its main numbers: exact tests, planned looks, guarantees, covariates, e-BH."""
    said = []
    if comparison.variance_reduction is not None:
        said.append(f"variance taken out {comparison.variance_reduction:.0%}")
    if comparison.exact is not None:
        tests = (("Fisher", comparison.exact.fisher), ("Barnard", comparison.exact.barnard), ("Boschloo", comparison.exact.boschloo))
        said.append("exact p: " + ", ".join(f"{name} {p_value(p)}" for name, p in tests if p is not None))
    planned = comparison.group_sequential
    if planned is not None:
        crossed = "crossed" if planned.crossed else "not crossed"
        bound = f", bound {planned.critical:.2f} {crossed}" if planned.critical is not None else ""
        said.append(f"planned look {planned.look} of {planned.looks}{bound}")
    if comparison.guaranteed is not None:
        said.append(f"guaranteed at any sample size: difference between {interval(comparison.guaranteed.difference_ci, relative=False)}")
    if comparison.e_bh:
        said.append("found by e-BH")
    return said


def novelty(report: Report) -> list[str]:
    """The lift by day of life. Empty without one."""
    rows = [
        [
            f"day {point.day + 1}" + (f", {arm}" if len(point.lift) > 1 else ""),
            f"{sum(point.units.values()):,}",
            signed(lift),
            span(point.ci[arm]),
        ]
        for point in report.novelty
        for arm, lift in point.lift.items()
    ]
    if not rows:
        return []
    return ["", f"By day since exposure: {primary_of(report).metric}", *table(["", "units", "lift", "interval"], rows)]


def history(report: Report) -> list[str]:
    """Each change of mind that was logged, the latest first. Empty where there is none."""
    lines = []
    for one in reversed(report.decision.history[-DAYS:]):
        lift = f"  {signed(one.lift)} {span(one.always_valid_ci)}" if one.lift is not None else ""
        lines += wrap(f"{one.at:%Y-%m-%d %H:%M}  {one.told.replace('_', ' ')}{lift}", "  ")
    return ["", "Decisions so far, the latest first", *lines] if lines else []


def methods(report: Report) -> list[str]:
    """Every method of the report, and the page with its formula."""
    return ["", "Formulas", *table(["", ""], [[formula.title, formula.path] for formula in formulas(report)])[1:]]


def primary_of(report: Report) -> MetricReport:
    """What the report says of its primary metric."""
    return next(m for m in report.metrics if m.role == "primary")
